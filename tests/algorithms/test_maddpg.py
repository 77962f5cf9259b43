"""MADDPG, IDDPG and MATD3 on small environments whose answers are known."""

import itertools

import pytest
import torch
from off_policy import (
    FIVE,
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
from probes import (
    Aim,
    Alternating,
    Combination,
    Deaths,
    DelayedCredit,
    HiddenInState,
    OneLegalAction,
    Sacrifice,
    Terminates,
    Truncates,
    anything,
    geometric,
)

from marl.algorithms.maddpg import MADDPG, MADDPGConfig
from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.core import EnvironmentRequest
from marl.envs.factory import vectorize
from marl.envs.linear_quadratic import linear_quadratic, make_task, optimal_return
from marl.envs.matrix_games import penalty, prisoners_dilemma
from marl.errors import InputError
from marl.replay import Priorities, ReplayConfig
from marl.testing.algorithm_checks import algorithm_specs, check_algorithm

MATD3 = {"num_critics": 2, "policy_delay": 2, "target_noise": 0.2}


def experiment(environment, **settings):
    return make(lambda values: MADDPG(config=MADDPGConfig(**values)), environment, **settings)


def choices(*actions: int) -> dict[str, torch.Tensor]:
    return {"agent": torch.tensor(actions)}


# --- known values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [MATD3, {"centralized_critic": False}])
def test_a_terminated_step_is_worth_its_reward(settings):
    trained = experiment(Terminates, updates=150, **settings)
    assert values(trained, choices(0, 1)).flatten().tolist() == pytest.approx([1.0] * 8, abs=0.03)


@pytest.mark.parametrize("n_step", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_truncated_step_is_bootstrapped(n_step):
    trained = experiment(Truncates, updates=600, n_step=n_step, output_penalty=0.1)
    expected = 1.0 / (1.0 - GAMMA)
    assert values(trained, choices(0, 1)).flatten().tolist() == pytest.approx([expected] * 8, rel=0.1)


def test_only_a_centralized_critic_sees_what_the_state_alone_shows():
    trained = experiment(HiddenInState, updates=300)
    assert values(trained, choices(0, 0), num_envs=16).abs().flatten().tolist() == pytest.approx([1.0] * 32, abs=0.1)
    blind = experiment(HiddenInState, updates=300, centralized_critic=False)
    assert values(blind, choices(0, 0)).abs().max() < 0.5


def test_agents_that_die_are_worth_what_they_receive_until_then():
    trained = experiment(Deaths, updates=400)
    expected = [geometric(GAMMA, lives) for lives in (1, 2, 3)]
    for row in values(trained, choices(0, 0, 0)).tolist():
        assert row == pytest.approx(expected, abs=0.2)


def test_a_team_reward_goes_on_after_an_agents_death():
    # Rewards of the team are 3, 2, 1, whoever has died in between.
    trained = experiment(Deaths, updates=400, team_reward=True, sharing="none")
    expected = 3.0 + GAMMA * 2.0 + GAMMA**2
    actions = {name: torch.tensor([0]) for name in trained.networks}
    for name in trained.networks:
        assert values(trained, actions, name).flatten().tolist() == pytest.approx([expected] * 4, rel=0.1)


def test_critics_value_each_agents_own_payoff():
    # One step of the prisoner's dilemma: sucker 0, punishment 1, reward 3, temptation 5.
    trained = experiment(vectorize(prisoners_dilemma), updates=600, temperature=2.0, output_penalty=0.5)
    for (first, second), payoffs in {(0, 0): (3, 3), (0, 1): (0, 5), (1, 0): (5, 0), (1, 1): (1, 1)}.items():
        found = values(trained, choices(first, second))[0].tolist()
        assert found == pytest.approx(payoffs, abs=0.5), (first, second)


# --- learning to act ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"centralized_critic": False}, MATD3, {"resample_other_actions": True}])
def test_rational_prisoners_defect(settings):
    trained = experiment(vectorize(prisoners_dilemma), updates=300, **settings)
    assert greedy_return(trained).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("sharing", ["spaces", "none"])
def test_an_early_choice_is_credited_with_a_late_reward(sharing):
    trained = experiment(DelayedCredit, updates=500, sharing=sharing)
    assert greedy_return(trained).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("settings", [{}, {"noise": "ornstein-uhlenbeck"}, MATD3, {"centralized_critic": False}])
def test_continuous_actions_come_close_to_what_is_shown(settings):
    trained = experiment(Aim, updates=400, **settings)
    assert greedy_return(trained).min() > -0.05


def test_all_parts_of_a_multi_discrete_action_are_learned():
    trained = experiment(Combination, updates=600)
    assert greedy_return(trained).min() > 0.95


@pytest.mark.parametrize("settings", [{}, pytest.param(MATD3, marks=pytest.mark.slow)])
def test_the_linear_quadratic_task_is_solved_nearly_optimally(settings):
    trained = experiment(
        vectorize(lambda: linear_quadratic(num_agents=2, dimensions=1, horizon=10)),
        updates=1000,
        team_reward=True,
        discount=1.0,
        hidden_sizes=(64, 64),
        actor_learning_rate=2e-3,
        critic_learning_rate=2e-3,
        tau=0.02,
        **settings,
    )
    best = optimal_return(make_task(2, dimensions=1, horizon=10))
    total = greedy_return(trained, 256).sum().item()
    assert 1.25 * best < total, (best, total)


def test_agents_that_see_what_the_others_do_now_agree_on_one_of_two_best_pairs():
    # Two best pairs pay 10 a step; against old actions, which are mixed, neither is better than the other.
    trained = experiment(vectorize(lambda: penalty(k=0.0, steps=5)), updates=300, resample_other_actions=True)
    assert greedy_return(trained).sum().item() == 50.0


@pytest.mark.parametrize("bonus", [2.0, 0.7])
def test_an_agent_gives_its_life_for_the_team_only_where_that_pays(bonus):
    class Game(Sacrifice):
        pass

    Game.bonus = bonus
    trained = experiment(Game, updates=400, team_reward=True, sharing="none", discount=0.9)
    total = greedy_return(trained).sum().item()
    assert total == pytest.approx(1.0 + 7 * bonus if bonus > 1.0 else 8.0)


# --- masks, noise, schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, MATD3, {"centralized_critic": False, "temperature": 0.1}])
def test_with_one_legal_action_nothing_illegal_is_played_and_losses_are_finite(settings):
    # The environment itself fails at an illegal move.
    trained = experiment(OneLegalAction, updates=30, **settings)
    assert all(torch.tensor(value).isfinite() for value in one_more_update(trained).values())
    assert greedy_return(trained).tolist() == [4.0, 4.0]


def test_noise_is_annealed_and_absent_in_evaluation():
    built = experiment(Aim, exploration_noise=0.4, final_exploration_noise=0.1, noise_steps=1000, random_warmup=False)
    policy, exploring = built.greedy["agent"], built.actor._policies["agent"]
    assert (policy.num_uniforms, exploring.num_uniforms) == (0, 2)
    one_more_update(built)
    built.counter.env_steps = 500
    one_more_update(built)
    assert built.networks["agent"].exploration.scale.item() == pytest.approx(0.25 / 0.4, abs=0.05)
    built.counter.env_steps = 5000
    one_more_update(built)
    assert built.networks["agent"].exploration.scale.item() == pytest.approx(0.25)


def test_actions_are_uniform_until_learning_begins():
    class Record(Aim):
        seen: list[torch.Tensor] = []  # noqa: RUF012 (meant to be shared)

        def play(self, actions, rewards, terminated, truncated):
            self.seen.append(torch.cat(list(actions.values())))
            super().play(actions, rewards, terminated, truncated)

    built = experiment(Record, num_envs=64)
    built.loop.begin()
    for _ in range(20):
        built.loop.step()
    actions = torch.cat(Record.seen)
    assert actions.mean().item() == pytest.approx(0.0, abs=0.05)
    assert actions.var().item() == pytest.approx(1 / 3, abs=0.03)


def test_actors_and_targets_move_every_other_update_with_a_delay_of_two():
    built = experiment(Aim, **MATD3)
    built.loop.begin()
    learner = built.learner

    def parameters(module) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])

    for moves in (False, True, False, True):
        actor, target = parameters(built.networks["agent"].actor), parameters(learner._target_critics["agent"])
        critics = parameters(built.networks["agent"].critics)
        one_more_update(built)
        assert not torch.equal(parameters(built.networks["agent"].critics), critics)
        assert torch.equal(parameters(built.networks["agent"].actor), actor) != moves
        assert torch.equal(parameters(learner._target_critics["agent"]), target) != moves


def test_targets_follow_by_polyak_averaging():
    built = experiment(Aim, tau=0.25)
    built.loop.begin()
    before = {name: value.clone() for name, value in built.learner.state_dict().items()}
    one_more_update(built)
    after = built.learner.state_dict()
    for name, value in after.items():
        if name.startswith("_target_critics.agent."):
            online = after["agent.critics." + name.removeprefix("_target_critics.agent.")]
            torch.testing.assert_close(value, before[name] + 0.25 * (online - before[name]))


# --- every setting on every spec, and what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "settings"), list(itertools.product([*SPECS, *SEVERAL_CHOICES], [*SETTINGS, "matd3"]))
)
def test_one_update_moves_parameters_and_keeps_them_finite(spec, settings):
    chosen = MATD3 | {"noise": "ornstein-uhlenbeck"} if settings == "matd3" else SETTINGS[settings]
    replay = ReplayConfig(capacity=100, batch_size=16, samples_per_insert=4.0, min_size=20)
    built = experiment((SPECS | SEVERAL_CHOICES)[spec], num_envs=4, replay=replay, **chosen)
    built.loop.begin()
    before = {name: value.clone() for name, value in built.learner.get_variables().items()}
    for _ in range(2):
        metrics = one_more_update(built)
    assert all(torch.tensor(value).isfinite() for value in metrics.values()), metrics
    assert metrics["skipped_steps"] == 0
    after = built.learner.get_variables()
    assert all(torch.isfinite(value.float()).all() for value in after.values())
    for name in built.networks:
        for part in ("actor", "critics"):
            names = [key for key in after if key.startswith(f"{name}.{part}.")]
            assert any(not torch.equal(after[key], before[key]) for key in names), (name, part)


@pytest.mark.parametrize("settings", [{}, MATD3 | {"noise": "ornstein-uhlenbeck"}, {"centralized_critic": False}])
def test_it_keeps_what_all_algorithms_promise(settings):
    replay = ReplayConfig(capacity=200, batch_size=16, samples_per_insert=4.0, min_size=20, checkpoint=True)
    specs = algorithm_specs()
    refuses = {"turns": specs.pop("turns")}
    config = MADDPGConfig(hidden_sizes=(8,), replay=replay, **settings)
    check_algorithm(MADDPG(config=config), specs, refuses, ranks=(2,))


def test_prioritised_replay_hears_of_errors():
    replay = ReplayConfig(
        capacity=512, batch_size=32, samples_per_insert=8.0, min_size=64, priorities=Priorities(alpha=1.0, epsilon=1e-3)
    )
    trained = experiment(Terminates, replay=replay, updates=60)
    priorities = trained.dataset.selector._sums.leaves
    assert 0.0 < priorities[priorities > 0].min() < 0.5


@pytest.mark.parametrize(
    ("environment", "settings", "message"),
    [
        (Alternating, {}, "turn-based"),
        (anything(agent("a", VECTOR, UNBOUNDED)), {}, "without bounds"),
        (Aim, {"policy_delay": 0}, "policy-delay must be at least 1"),
        (Aim, {"temperature": 0.0}, "temperature must be a number above 0"),
        (Aim, {"num_critics": 0}, "critics must be at least 1"),
        (Aim, {"discount": 1.5}, "discount lies between"),
        (Aim, {"tau": 0.0}, "tau must be a number above 0"),
        (Aim, {"target_noise": -1.0}, "target-noise must be at least 0"),
        (Aim, {"actor_learning_rate": 0.0}, "actor-learning-rate must be a number above 0"),
        (Aim, {"noise": "ornstein-uhlenbeck", "noise_theta": 0.0}, "theta"),
        (Aim, {"n_step": 0}, "n-step must be at least 1"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(environment, settings, message):
    with pytest.raises(InputError, match=message) as refused:
        experiment(environment, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("environment", [SPECS["masked"], SPECS["continuous"]])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(environment, tmp_path):
    replay = ReplayConfig(capacity=200, batch_size=16, samples_per_insert=4.0, min_size=20, checkpoint=True)
    settings = {"num_envs": 4, "replay": replay, "updates": 0, "noise": "ornstein-uhlenbeck", **MATD3}

    def fresh():
        built = experiment(environment, **settings)
        object.__setattr__(built.config, "steps", 200)
        return built

    whole = fresh().run().learner_state
    stopped = fresh()
    stopped.run(checkpointer=Checkpointer(tmp_path), should_stop=lambda: stopped.counter.env_steps >= 100)
    resumed = fresh()
    resumed.load(load_checkpoint(tmp_path))
    again = resumed.run().learner_state
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert torch.equal(again[name], value), name


def test_saved_policies_act_like_those_that_were_trained():
    trained = experiment(Aim, updates=50)
    other = experiment(Aim, seed=1)
    trained.config.builder.load_policies(other.networks, trained.learner.get_variables())
    start = Aim(EnvironmentRequest(num_envs=4)).reset()
    ours, theirs = (of.greedy["agent"].act(start.groups["agent"], start.first, None, None) for of in (other, trained))
    assert torch.equal(ours.actions, theirs.actions)


def test_agents_of_five_choices_are_told_apart_by_their_ids():
    trained = experiment(anything(agent("a_0", VECTOR, FIVE), agent("a_1", VECTOR, FIVE)))
    critic = trained.networks["a"].critics
    alike = torch.zeros(1, 2, 6)
    found = critic(alike, torch.zeros(1, 2, 5), torch.zeros(1, 1, 7), torch.zeros(1, 2, 10))[0, 0]
    assert found[0] != found[1]
