"""MAPPO and IPPO on small environments whose answers are known."""

import itertools

import pytest
import torch
from probes import (
    Aim,
    Alternating,
    Anything,
    Combination,
    Deaths,
    DelayedCredit,
    HiddenInState,
    OneLegalAction,
    Probe,
    Remember,
    Sacrifice,
    Terminates,
    Truncates,
    TruncatesElsewhere,
    anything,
    geometric,
)
from torch import Tensor

from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.core import EnvironmentRequest
from marl.envs.mpe import make_batched
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.learning.compilation import can_compile
from marl.specs import AgentSpec, ArraySpec, ContinuousActions, DiscreteActions, MultiDiscreteActions
from marl.types import TimeStep

GAMMA = 0.8


def experiment(
    environment: type[Probe], *, updates: int = 0, num_envs: int = 8, seed: int = 0, **settings
) -> Experiment:
    """An experiment with small and quick settings, after so many updates."""
    quick = {"hidden_sizes": (16,), "epochs": 4, "learning_rate": 5e-3, "discount": GAMMA}
    quick |= {"hidden_layer_norm": False, "minibatches": 1}
    config = MAPPOConfig(**{**quick, "rollout_length": 8, **settings})
    steps = max(updates * config.rollout_length * num_envs, 1)
    built = Experiment(
        ExperimentConfig(
            builder=MAPPO(config=config),
            environment=environment,
            seed=seed,
            steps=steps,
            num_envs=num_envs,
            evaluation_episodes=0,
        )
    )
    if updates:
        built.run()
    return built


def values(of: Experiment, timestep: TimeStep, group: str = "agent") -> Tensor:
    """(E, A) values, in units of rewards, of a feed-forward critic."""
    critic = of.networks[group].critic
    with torch.no_grad():
        state = timestep.state
        if state is not None:
            state = of.networks[group].state.read(state).unsqueeze(1)
        raw = timestep.groups[group].observations
        observations = of.networks[group].observations.read(raw)
        normalized = critic.values(critic.features(observations, state))
        normalizer = of.networks[group].value_normalizer
        return normalized if normalizer is None else normalizer.denormalize(normalized)


def greedy_return(of: Experiment, episodes: int = 64) -> Tensor:
    """(agents,) mean undiscounted returns of greedy play."""
    from marl.acting.evaluation import evaluate
    from marl.distributed.communicators import SerialCommunicator

    result = evaluate(
        of.greedy,
        of.spec,
        of.config.environment,
        episodes=episodes,
        num_envs=16,
        seed=of.config.seed,
        communicator=SerialCommunicator(),
        sharing=of.config.builder.sharing,
    )
    return result.returns.mean(0)


def first_step(environment: type[Probe], **request) -> TimeStep:
    return environment(EnvironmentRequest(num_envs=4, **request)).reset()


# --- known values -------------------------------------------------------------------------------------------

VALUE = {"epochs": 10, "learning_rate": 1e-2, "gae_lambda": 0.5}


@pytest.mark.parametrize("normalization", ["moments", "popart", "none"])
def test_a_terminated_step_is_worth_its_reward(normalization):
    trained = experiment(Terminates, updates=20, value_normalization=normalization, **VALUE)
    assert values(trained, first_step(Terminates)).flatten().tolist() == pytest.approx([1.0] * 8, abs=0.03)


@pytest.mark.parametrize("normalization", ["moments", "popart", "none"])
def test_a_truncated_step_is_bootstrapped(normalization):
    trained = experiment(Truncates, updates=50, value_normalization=normalization, **VALUE)
    expected = 1.0 / (1.0 - GAMMA)
    assert values(trained, first_step(Truncates)).flatten().tolist() == pytest.approx([expected] * 8, rel=0.1)


@pytest.mark.parametrize("team_reward", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_what_is_bootstrapped_is_the_true_last_observation(recurrent, team_reward):
    built = experiment(
        TruncatesElsewhere,
        num_envs=3,
        rollout_length=5,
        recurrent=recurrent,
        team_reward=team_reward,
        value_normalization="none",
        centralized_critic=False,
    )
    built.loop.begin()
    for _ in range(5):
        built.loop.step()
    trajectory = built.dataset.sample()
    assert trajectory.finals.times.tolist() == [1, 1, 1, 3, 3, 3]
    assert trajectory.finals.groups["agent_0"].observations[:, 0].argmax(-1).tolist() == [2] * 6
    learner = built.learner
    batch = learner._estimator.estimate(trajectory, learner._reader.read(trajectory))["agent_0"]
    # The critic's values of A, B and C, in that order, from the beginning of an episode.
    critic = built.networks["agent_0"].critic
    with torch.no_grad():
        features = critic.features(torch.eye(3).view(3, 1, 3), None)
        if recurrent:
            first = torch.tensor([True, False, False]).view(3, 1)
            features = critic.torso.unroll(features, critic.torso.initial_state(1), first)
        value = critic.values(features).flatten()
    last = (1.0 + GAMMA * value[2]).item()
    lambda_ = built.config.builder.config.gae_lambda
    before = (1.0 + GAMMA * ((1.0 - lambda_) * value[1] + lambda_ * last)).item()
    cut_by_rollout = (1.0 + GAMMA * value[1]).item()
    expected = torch.tensor([before, last, before, last, cut_by_rollout])
    torch.testing.assert_close(batch.targets.squeeze(-1), expected.unsqueeze(1).expand(5, 3))


def test_only_a_centralized_critic_sees_what_the_state_alone_shows():
    start = first_step(HiddenInState)
    sign = start.state.argmax(1, keepdim=True) * 2.0 - 1.0
    assert set(sign.flatten().tolist()) == {-1.0, 1.0}
    for settings in ({}, {"agent_features": False}):
        mappo = experiment(HiddenInState, updates=20, **VALUE, **settings)
        torch.testing.assert_close(values(mappo, start), sign.expand(4, 2), atol=0.1, rtol=0)
    ippo = experiment(HiddenInState, updates=20, centralized_critic=False, **VALUE)
    blind = first_step(HiddenInState, with_state=False)
    assert blind.state is None
    assert values(ippo, blind).abs().max() < 0.5


def test_agents_that_die_are_worth_what_they_receive_until_then():
    trained = experiment(Deaths, updates=30, **VALUE)
    expected = [geometric(GAMMA, lives) for lives in (1, 2, 3)]
    for row in values(trained, first_step(Deaths)).tolist():
        assert row == pytest.approx(expected, abs=0.15)


def test_rewards_that_arrive_between_turns_belong_to_the_move_before():
    trained = experiment(Alternating, updates=35, num_envs=16, rollout_length=12, **VALUE)
    assert greedy_return(trained).tolist() == [9.0, 3.0]
    # agent_0 receives 3 after each of its moves, which are one step of its own apart.
    value = values(trained, first_step(Alternating))[:, 0].tolist()
    assert value == pytest.approx([3.0 * geometric(GAMMA, 3)] * 4, rel=0.15)


def test_team_reward_is_the_sum_of_all_agents_rewards():
    # Each of the three lives on in what the others receive: 3, 2, 1 in the three steps of an episode.
    trained = experiment(Deaths, updates=30, team_reward=True, sharing="none", **VALUE)
    expected = 3.0 + GAMMA * 2.0 + GAMMA**2
    start = first_step(Deaths, sharing="none")
    for name in ("agent_0", "agent_1", "agent_2"):
        assert values(trained, start, name).flatten().tolist() == pytest.approx([expected] * 4, rel=0.1)


# --- learning to act ----------------------------------------------------------------------------------------

LEARN = {"num_envs": 16, "learning_rate": 1e-2, "epochs": 4}


@pytest.mark.parametrize("sharing", ["spaces", "none"])
def test_an_early_choice_is_credited_with_a_late_reward(sharing):
    trained = experiment(DelayedCredit, updates=20, sharing=sharing, **LEARN)
    assert sorted(trained.networks) == (["agent"] if sharing == "spaces" else ["agent_0", "agent_1"])
    assert greedy_return(trained).tolist() == [1.0, 1.0]


def test_a_gru_remembers_what_a_feed_forward_network_cannot():
    recurrent = experiment(Remember, updates=40, recurrent=True, chunk_length=4, **LEARN)
    assert greedy_return(recurrent, 128).min() > 0.95
    feed_forward = experiment(Remember, updates=40, **LEARN)
    assert greedy_return(feed_forward, 128).max() < 0.7


def test_memory_reaches_back_beyond_chunks_and_rollouts():
    # Every other episode of 4 is cut in two by a rollout of 6; states are handed on, gradients are not.
    trained = experiment(Remember, updates=60, recurrent=True, chunk_length=4, rollout_length=6, **LEARN)
    assert greedy_return(trained, 128).min() > 0.95


def test_continuous_actions_come_close_to_what_is_shown():
    trained = experiment(Aim, updates=40, entropy_coef=0.0, **LEARN)
    assert greedy_return(trained).min() > -0.05


def test_all_parts_of_a_multi_discrete_action_are_learned():
    trained = experiment(Combination, updates=40, **LEARN)
    assert greedy_return(trained).min() > 0.95


@pytest.mark.parametrize("recurrent", [False, True])
def test_with_one_legal_action_nothing_illegal_is_played_and_losses_are_finite(recurrent):
    # The environment itself fails at an illegal move.
    trained = experiment(OneLegalAction, updates=5, recurrent=recurrent)
    metrics = trained_metrics(trained)
    assert metrics["agent/entropy"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["agent/approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["agent/policy_loss"] == pytest.approx(0.0, abs=1e-5)
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert greedy_return(trained).tolist() == [4.0, 4.0]


def trained_metrics(of: Experiment) -> dict[str, float]:
    """The metrics of one more update."""
    while not of.dataset.ready():
        of.loop.step()
    return dict(of.learner.step())


@pytest.mark.parametrize("bonus", [2.0, 0.7])
def test_an_agent_gives_its_life_for_the_team_only_where_that_pays(bonus):
    class Game(Sacrifice):
        pass

    Game.bonus = bonus
    trained = experiment(
        Game, updates=40, team_reward=True, sharing="none", num_envs=16, learning_rate=1e-2, discount=0.9
    )
    total = greedy_return(trained).sum().item()
    assert total == (1.0 + 7 * bonus if bonus > 1.0 else 8.0)


# --- every setting on every spec ------------------------------------------------------------------------------


def agent(name: str, observation: ArraySpec, action, masked: bool = False) -> AgentSpec:
    return AgentSpec(name=name, observation=observation, action=action, masked=masked)


VECTOR, SMALL = ArraySpec(shape=(6,)), ArraySpec(shape=(1,))
BOARD, IMAGE = ArraySpec(shape=(5, 6, 2)), ArraySpec(shape=(36, 40, 3), dtype=torch.uint8)
TINY = ArraySpec(shape=(3, 3, 2), dtype=torch.uint8)
FIVE, PAIR = DiscreteActions(num_actions=5), MultiDiscreteActions(nvec=(3, 2))
PUSH = ContinuousActions(low=(-1.0, 0.0), high=(1.0, float("inf")))

SPECS = {
    "equal agents": anything(agent("a_0", VECTOR, FIVE), agent("a_1", VECTOR, FIVE), agent("a_2", VECTOR, FIVE)),
    "alone": anything(agent("solo", SMALL, FIVE)),
    "different spaces": anything(agent("listener", VECTOR, FIVE, masked=True), agent("speaker", SMALL, PAIR)),
    "masked parts": anything(agent("a_0", VECTOR, PAIR, masked=True), agent("a_1", VECTOR, PAIR, masked=True)),
    "continuous": anything(agent("a_0", VECTOR, PUSH), agent("a_1", VECTOR, PUSH), agent("b_0", TINY, FIVE)),
    "turns": anything(
        agent("a_0", BOARD, FIVE, masked=True), agent("a_1", BOARD, FIVE, masked=True), state=BOARD, turns=True
    ),
    "images": anything(agent("a_0", IMAGE, FIVE), agent("a_1", IMAGE, FIVE), state=TINY),
}
SETTINGS = {
    "defaults": {},
    "ippo": {"centralized_critic": False},
    "no convolutions": {"convolutions": "no"},
    "state alone": {"agent_features": False, "value_normalization": "popart"},
    "recurrent": {"recurrent": True, "chunk_length": 3, "minibatches": 2},
    "recurrent state alone, chunks of one step": {"recurrent": True, "chunk_length": 1, "agent_features": False},
    "chunks longer than the rollout": {"recurrent": True, "chunk_length": 50, "team_reward": True},
    "team, separate policies": {"team_reward": True, "sharing": "none", "minibatches": 3},
    "relu, normalised": {"activation": "relu", "input_normalization": "running", "hidden_layer_norm": True},
    "inputs by their own moments": {"input_normalization": "layer", "minibatches": 4},
    "deep, plain losses": {
        "hidden_sizes": (8, 8, 8),
        "clip_value": False,
        "huber_delta": None,
        "value_normalization": "none",
        "anneal_learning_rate": True,
        "target_kl": 10.0,
    },
}


@pytest.mark.parametrize(("spec", "settings"), list(itertools.product(SPECS, SETTINGS)))
def test_one_update_changes_all_parameters_and_keeps_them_finite(spec, settings):
    environment, chosen = SPECS[spec], {"rollout_length": 7, "num_envs": 3, "epochs": 2} | SETTINGS[settings]
    before = experiment(environment, **chosen).learner.get_variables()
    metrics = {}
    built = experiment(environment, **chosen)
    built.loop.begin()
    metrics = trained_metrics(built)
    after = built.learner.get_variables()
    assert metrics["skipped_steps"] == 0
    assert metrics["gradient_steps"] == 2 * chosen.get("minibatches", 1)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert bool(torch.isfinite(tensor).all()), name
        # A GRU that begins at zero in every chunk of one step learns nothing of its recurrent weights.
        if not (chosen.get("chunk_length") == 1 and "weight_hh" in name):
            assert not torch.equal(tensor, before[name]), name
    for value in metrics.values():
        assert torch.tensor(value).isfinite()


@pytest.mark.parametrize("spec", ["equal agents", "different spaces", "turns"])
def test_the_first_pass_finds_the_policy_and_the_values_that_acted(spec):
    # However a rollout is cut into chunks: recurrent states are those of acting, across episodes and rollouts.
    seen = []
    for settings in ({}, *({"recurrent": True, "chunk_length": length} for length in (1, 3, 7, 50))):
        built = experiment(SPECS[spec], num_envs=3, rollout_length=7, epochs=1, learning_rate=0.0, **settings)
        built.loop.begin()
        rows = [trained_metrics(built) for _ in range(3)]
        for row in rows:
            for group in built.networks:
                assert row[f"{group}/approx_kl"] == pytest.approx(0.0, abs=1e-9)
                assert row[f"{group}/clip_fraction"] == 0.0
                assert row[f"{group}/policy_loss"] == pytest.approx(0.0, abs=1e-4)
        if settings:
            seen.append([{name: value for name, value in row.items() if "loss" in name} for row in rows])
    for other in seen[1:]:
        for row, expected in zip(other, seen[0], strict=True):
            assert row == pytest.approx(expected, abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("recurrent", [False, True])
def test_one_step_one_environment_one_agent_is_enough(recurrent):
    built = experiment(SPECS["alone"], updates=4, num_envs=1, rollout_length=1, recurrent=recurrent)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in built.learner.get_variables().values())


def test_a_rollout_in_which_nobody_may_act_changes_nothing_and_breaks_nothing():
    class Nobody(Anything):
        agents = (agent("a_0", VECTOR, FIVE, masked=True), agent("a_1", VECTOR, FIVE, masked=True))
        turn_based = True

        def acting(self):
            return torch.zeros(self.num_envs, 2, dtype=torch.bool)

    for recurrent in (False, True):
        built = experiment(Nobody, recurrent=recurrent, input_normalization="running")
        before = {name: tensor.clone() for name, tensor in built.learner.get_variables().items()}
        built.loop.begin()
        metrics = trained_metrics(built)
        assert metrics["skipped_steps"] == 0
        for name, tensor in built.learner.get_variables().items():
            assert torch.equal(tensor, before[name]), name


# --- single settings ----------------------------------------------------------------------------------------


def test_passes_stop_once_the_policy_has_moved_far_enough():
    limited = experiment(DelayedCredit, updates=1, epochs=20, target_kl=1e-4, num_envs=16)
    assert 1 <= trained_metrics(limited)["gradient_steps"] < 20
    free = experiment(DelayedCredit, updates=1, epochs=20, num_envs=16)
    assert trained_metrics(free)["gradient_steps"] == 20


def test_a_group_without_samples_does_not_hide_the_divergence_of_others():
    class OnlyFirst(Anything):
        agents = (agent("a", VECTOR, FIVE, masked=True), agent("b", SMALL, FIVE, masked=True))

        def acting(self):
            return torch.tensor([True, False]).expand(self.num_envs, 2)

    built = experiment(OnlyFirst, epochs=20, target_kl=1e-4, learning_rate=0.05)
    built.loop.begin()
    assert trained_metrics(built)["gradient_steps"] < 20


def test_the_learning_rate_falls_linearly_and_is_not_zero_at_the_last_update():
    rates = []

    class Rates:
        def write(self, row):
            rates.append(row["learning_rate"])

        def close(self):
            pass

    built = experiment(Terminates, anneal_learning_rate=True, learning_rate=0.1)
    config = ExperimentConfig(**{name: getattr(built.config, name) for name in built.config.__dataclass_fields__})
    config = ExperimentConfig(
        builder=config.builder, environment=config.environment, steps=4 * 8 * 8, num_envs=8, evaluation_episodes=0
    )
    Experiment(config).run(Rates())
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_observations_are_normalised_by_what_active_agents_saw():
    class Shifted(Terminates):
        def observe(self, name):
            return 1000.0 + 5.0 * self.uniforms[:, :3]

    built = experiment(Shifted, updates=2, input_normalization="running")
    normalizer = built.networks["agent"].observations.normalizer
    assert normalizer is not None
    assert normalizer.moments.count.item() == 2 * 8 * 8 * 2
    assert normalizer.mean.tolist() == pytest.approx([1002.5] * 3, abs=0.5)
    assert normalizer.std.tolist() == pytest.approx([5.0 / 12**0.5] * 3, rel=0.2)


def test_a_bad_reward_skips_the_update_and_keeps_the_weights():
    class Broken(Terminates):
        def play(self, actions, rewards, terminated, truncated):
            super().play(actions, rewards, terminated, truncated)
            rewards[0, 0] = float("inf")

    built = experiment(Broken, epochs=2, value_normalization="none")
    before = {name: tensor.clone() for name, tensor in built.learner.get_variables().items()}
    built.loop.begin()
    metrics = trained_metrics(built)
    assert metrics["skipped_steps"] == 2
    for name, tensor in built.learner.get_variables().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minibatches": 100}, "100 minibatches cannot be cut from 8 x 8 steps"),
        ({"minibatches": 10, "recurrent": True}, "10 minibatches cannot be cut from 1 x 8 chunks"),
        ({"minibatches": 0}, "minibatches must be at least 1"),
        ({"rollout_length": 0}, "rollout-length must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"recurrent": True, "chunk_length": 0}, "chunk-length must be at least 1"),
        ({"discount": 1.5}, "discount lies between 0 and 1"),
        ({"magnet_updates": 0}, "magnet-updates must be at least 1"),
        ({"magnet_updates": 1, "recurrent": True}, "magnet-updates is for networks without memory"),
    ],
    ids=str,
)
def test_senseless_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        experiment(Terminates, **settings)
    assert "\n" not in str(caught.value)


# --- saving -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"recurrent": True, "value_normalization": "popart"}, {"magnet_updates": 2}], ids=str
)
def test_a_learner_takes_back_what_it_saved(settings):
    settings = {"input_normalization": "running", "minibatches": 2, **settings}
    trained = experiment(DelayedCredit, updates=3, **settings)
    saved = {name: tensor.clone() for name, tensor in trained.learner.state_dict().items()}
    other = experiment(DelayedCredit, seed=1, **settings)
    other.learner.load_state_dict(saved)
    again = other.learner.state_dict()
    assert again.keys() == saved.keys()
    for name, tensor in again.items():
        assert torch.equal(tensor, saved[name]), name


def test_policies_are_loaded_into_networks_that_only_act():
    trained = experiment(DelayedCredit, updates=30, input_normalization="running", **LEARN)
    acting = experiment(DelayedCredit, seed=1, input_normalization="running")
    builder = trained.config.builder
    builder.load_policies(acting.networks, trained.learner.get_variables())
    assert torch.equal(greedy_return(acting), greedy_return(trained))


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("bfloat16", [False, True])
def test_compiled_acting_and_updates_agree_with_plain_ones(bfloat16):
    results = []
    for compile in (False, True):
        config = MAPPOConfig(minibatches=2, epochs=2, rollout_length=5, bfloat16=bfloat16)
        builder = MAPPO(config=config, compile=compile)
        experiment = Experiment(
            ExperimentConfig(builder=builder, environment=make_batched("mpe2.simple_spread_v3", {}), num_envs=3)
        )
        experiment.loop.begin()
        for _ in range(2):
            while not experiment.dataset.ready():
                experiment.loop.step()
            metrics = experiment.learner.step()
        results.append((experiment.learner.get_variables(), metrics))
        experiment.close()
    (plain, plain_metrics), (compiled, compiled_metrics) = results
    # Sums in another order fall to another of the few numbers that bfloat16 has; steps of Adam are 7e-4.
    wide = 20 if bfloat16 else 1
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=wide * 1e-4, atol=wide * 1e-5)
    assert compiled_metrics == pytest.approx(plain_metrics, rel=wide * 1e-3, abs=wide * 1e-5)


def test_recurrent_networks_are_not_for_the_compiler():
    assert MAPPO(config=MAPPOConfig(recurrent=True)).compiled() is None
    assert MAPPO().compiled() == MAPPO(compile=True)
