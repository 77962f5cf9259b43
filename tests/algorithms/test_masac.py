"""MASAC and ISAC on small environments whose answers are known."""

import itertools
import math

import pytest
import torch
from off_policy import (
    GAMMA,
    SETTINGS,
    SEVERAL_CHOICES,
    SPECS,
    UNBOUNDED,
    VECTOR,
    agent,
    greedy_return,
    make,
    one_more_update,
    values,
)
from probes import Aim, Alternating, DelayedCredit, HiddenInState, OneLegalAction, Terminates, Truncates, anything

from marl.algorithms.masac import MASAC, MASACConfig
from marl.envs.factory import vectorize
from marl.envs.linear_quadratic import linear_quadratic, make_task, optimal_return
from marl.envs.matrix_games import penalty, prisoners_dilemma
from marl.errors import InputError
from marl.replay import ReplayConfig
from marl.testing.algorithm_checks import algorithm_specs, check_algorithm

COLD = {"initial_temperature": 1e-3, "adapt_temperature": False}


def experiment(environment, **settings):
    return make(lambda values: MASAC(config=MASACConfig(**values)), environment, **settings)


def choices(*actions: int) -> dict[str, torch.Tensor]:
    return {"agent": torch.tensor(actions)}


# --- known values -------------------------------------------------------------------------------------------


def test_a_terminated_step_is_worth_its_reward_and_no_entropy_after_it():
    trained = experiment(Terminates, updates=150, initial_temperature=1.0, adapt_temperature=False)
    assert values(trained, choices(0, 1)).flatten().tolist() == pytest.approx([1.0] * 8, abs=0.03)


@pytest.mark.parametrize("temperature", [1e-3, 0.5])
def test_a_truncated_step_is_bootstrapped_and_paid_for_entropy(temperature):
    # Where nothing matters but entropy both actions are equally likely: V = 1 / (1 - γ) + α log 2 γ / (1 - γ).
    trained = experiment(Truncates, updates=500, initial_temperature=temperature, adapt_temperature=False)
    expected = (1.0 + GAMMA * temperature * math.log(2.0)) / (1.0 - GAMMA)
    assert values(trained, choices(0, 1)).flatten().tolist() == pytest.approx([expected] * 8, rel=0.1)


def test_only_a_centralized_critic_sees_what_the_state_alone_shows():
    trained = experiment(HiddenInState, updates=300)
    assert values(trained, choices(0, 0), num_envs=16).abs().flatten().tolist() == pytest.approx([1.0] * 32, abs=0.1)
    blind = experiment(HiddenInState, updates=300, centralized_critic=False)
    assert values(blind, choices(0, 0)).abs().max() < 0.5


def test_the_policy_of_one_step_is_the_softmax_of_its_payoffs():
    # Haarnoja et al. 2018, equation 4. Against a sure defector: payoffs 0 and 1, so at temperature 1 it defects
    # with probability e / (1 + e); two such players weigh the other's mistakes: p = σ(2 - q), q the same.
    trained = experiment(
        vectorize(prisoners_dilemma),
        updates=600,
        initial_temperature=1.0,
        adapt_temperature=False,
        resample_other_actions=True,
    )
    networks = trained.networks["agent"]
    with torch.no_grad():
        probabilities = networks.actor(torch.ones(1, 2, 1)).softmax(-1)[0, :, 1]
    expected = 0.5
    for _ in range(100):
        # Defecting gains 2 where the other cooperates, and 1 where it defects.
        expected = 1.0 / (1.0 + math.exp(-(2.0 * (1.0 - expected) + expected)))
    assert probabilities.tolist() == pytest.approx([expected] * 2, abs=0.06)


# --- learning to act ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"centralized_critic": False}, {"resample_other_actions": True}])
def test_rational_prisoners_defect(settings):
    trained = experiment(vectorize(prisoners_dilemma), updates=200, **settings)
    assert greedy_return(trained).tolist() == [1.0, 1.0]


def test_an_early_choice_is_credited_with_a_late_reward():
    trained = experiment(DelayedCredit, updates=400)
    assert greedy_return(trained).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("settings", [{}, {"centralized_critic": False}])
def test_continuous_actions_come_close_to_what_is_shown(settings):
    trained = experiment(Aim, updates=400, target_entropy=-2.0, **settings)
    assert greedy_return(trained).min() > -0.05


def test_agents_that_see_what_the_others_do_now_agree_on_one_of_two_best_pairs():
    trained = experiment(
        vectorize(lambda: penalty(k=0.0, steps=5)), updates=400, resample_other_actions=True, target_entropy_share=0.1
    )
    assert greedy_return(trained).sum().item() == 50.0


@pytest.mark.slow
def test_the_linear_quadratic_task_is_solved_nearly_optimally():
    trained = experiment(
        vectorize(lambda: linear_quadratic(num_agents=2, dimensions=1, horizon=10)),
        updates=1500,
        team_reward=True,
        discount=1.0,
        hidden_sizes=(64, 64),
        actor_learning_rate=2e-3,
        critic_learning_rate=2e-3,
        tau=0.02,
        target_entropy=-2.0,
    )
    best = optimal_return(make_task(2, dimensions=1, horizon=10))
    total = greedy_return(trained, 256).sum().item()
    assert 1.25 * best < total, (best, total)


# --- temperature and masks ------------------------------------------------------------------------------------


def test_the_temperature_brings_the_entropy_to_its_target():
    # Nothing matters here, so any temperature above 0 would make the entropy log 2.
    trained = experiment(vectorize(prisoners_dilemma), updates=600, target_entropy_share=0.5, actor_learning_rate=2e-2)
    found = [one_more_update(trained)["agent/entropy"] for _ in range(20)]
    assert sum(found) / len(found) == pytest.approx(0.5 * math.log(2.0), abs=0.12)


def test_each_group_has_its_own_temperature():
    built = experiment(SPECS["choices and forces"], initial_temperature=0.2)
    for _ in range(5):
        metrics = one_more_update(built)
    temperatures = {name: group.temperature.log.exp().item() for name, group in built.networks.items()}
    assert len(set(temperatures.values())) == len(temperatures) == 2
    assert {f"{name}/temperature" for name in temperatures} <= metrics.keys()
    assert f"{next(iter(temperatures))}.temperature.log" in built.learner.get_variables()


def test_a_fixed_temperature_stays():
    built = experiment(Aim, **COLD)
    assert one_more_update(built)["agent/temperature"] == pytest.approx(1e-3)
    assert one_more_update(built)["agent/temperature"] == pytest.approx(1e-3)


@pytest.mark.parametrize("settings", [{}, {"centralized_critic": False}, {"resample_other_actions": True}])
def test_with_one_legal_action_nothing_illegal_is_played_and_losses_are_finite(settings):
    # The environment itself fails at an illegal move.
    trained = experiment(OneLegalAction, updates=30, **settings)
    metrics = one_more_update(trained)
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert metrics["agent/entropy"] == pytest.approx(0.0, abs=1e-6)
    assert greedy_return(trained).tolist() == [4.0, 4.0]


# --- every setting on every spec, and what is refused ---------------------------------------------------------


@pytest.mark.parametrize(("spec", "settings"), list(itertools.product(SPECS, SETTINGS)))
def test_one_update_moves_parameters_and_keeps_them_finite(spec, settings):
    replay = ReplayConfig(capacity=100, batch_size=16, samples_per_insert=4.0, min_size=20)
    built = experiment(SPECS[spec], num_envs=4, replay=replay, **SETTINGS[settings])
    before = {name: value.clone() for name, value in built.learner.get_variables().items()}
    metrics = one_more_update(built)
    assert all(torch.tensor(value).isfinite() for value in metrics.values()), metrics
    assert metrics["skipped_steps"] == 0
    after = built.learner.get_variables()
    assert all(torch.isfinite(value.float()).all() for value in after.values())
    for name in built.networks:
        for part in ("actor", "critics", "temperature"):
            names = [key for key in after if key.startswith(f"{name}.{part}.")]
            assert any(not torch.equal(after[key], before[key]) for key in names), (name, part)


@pytest.mark.parametrize("settings", [{}, {"centralized_critic": False, "resample_other_actions": True, **COLD}])
def test_it_keeps_what_all_algorithms_promise(settings):
    replay = ReplayConfig(capacity=200, batch_size=16, samples_per_insert=4.0, min_size=20, checkpoint=True)
    specs = algorithm_specs()
    refuses = {name: specs.pop(name) for name in ("turns", "multi-discrete")}
    config = MASACConfig(hidden_sizes=(8,), replay=replay, **settings)
    check_algorithm(MASAC(config=config), specs, refuses, ranks=(2,))


@pytest.mark.parametrize(
    ("environment", "settings", "message"),
    [
        (Alternating, {}, "turn-based"),
        (anything(agent("a", VECTOR, UNBOUNDED)), {}, "without bounds"),
        (SEVERAL_CHOICES["different spaces"], {}, "several choices at once"),
        (Aim, {"initial_temperature": 0.0}, "initial-temperature must be a number above 0"),
        (Aim, {"max_gradient_norm": 0.0}, "max-gradient-norm must be a number above 0"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(environment, settings, message):
    with pytest.raises(InputError, match=message) as refused:
        experiment(environment, **settings)
    assert "\n" not in str(refused.value)
