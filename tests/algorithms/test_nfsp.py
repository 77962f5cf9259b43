"""Neural fictitious self-play: best responses and averages, episode by episode, and what goes where."""

import pytest
import torch

from marl.algorithms.imitation.policy import AveragePolicy
from marl.algorithms.mappo import MAPPO
from marl.algorithms.nfsp import NFSP, NFSPConfig
from marl.algorithms.qmix import QMIX, QMIXConfig
from marl.builders import RunContext
from marl.counters import Counter
from marl.distributed.communicators import SerialCommunicator
from marl.envs.factory import make_factory
from marl.errors import InputError
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.games.policy_players import blank_step
from marl.replay import ReplayConfig
from marl.testing.algorithm_checks import algorithm_specs, check_algorithm

SPECS = algorithm_specs()
REPLAY = ReplayConfig(capacity=400, batch_size=16, samples_per_insert=4.0, min_size=20, checkpoint=True)


def nfsp(*, replay=REPLAY, **settings):
    settings = {"hidden_sizes": (8,), "reservoir": 400, "batch_size": 8, **settings}
    best = QMIX(
        config=QMIXConfig(mixer="none", team_reward=False, hidden_sizes=(8,), replay=replay, epsilon_decay_steps=500)
    )
    return NFSP(best_response=best, config=NFSPConfig(**settings))


def test_all_promises_are_kept():
    refused = {name: SPECS[name] for name in ("multi-discrete", "continuous", "mixed")}
    claims = {name: SPECS[name] for name in ("groups", "turns")}
    check_algorithm(nfsp(anticipatory=0.5), claims, refused, updates=3, num_envs=3, ranks=(2,))


def test_best_responses_that_cannot_be_averaged_are_refused():
    kuhn = make_factory("openspiel/kuhn_poker", backend="batched")
    for best, says in (
        (MAPPO(), "learns from replay"),
        (QMIX(config=QMIXConfig(mixer="none", team_reward=False, recurrent=True)), "recurrent"),
    ):
        with pytest.raises(InputError, match=says):
            Experiment(ExperimentConfig(builder=NFSP(best_response=best), environment=kuhn, num_envs=2))


@pytest.mark.parametrize(
    "wrong", [{"anticipatory": 0.0}, {"anticipatory": 1.5}, {"reservoir": 0}, {"learning_rate": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        NFSPConfig(**wrong)


def made(builder, name="turns"):
    spec = SPECS[name]
    torch.manual_seed(0)
    return spec, builder.make_networks(spec)


def test_an_agent_plays_its_best_response_in_a_share_of_episodes_and_sticks_to_it():
    builder = nfsp(anticipatory=0.25)
    spec, networks = made(builder)
    (group,) = spec.groups
    step, count = blank_step(group, 20_000), 20_000
    context = RunContext(
        communicator=SerialCommunicator(),
        seed=0,
        num_envs=count,
        total_envs=count,
        first_env=0,
        total_steps=1,
        counter=Counter(),
        device=torch.device("cpu"),
    )
    policy = builder.make_policies(spec, networks, evaluation=False, context=context)[group.name]
    generator = torch.Generator().manual_seed(0)

    def act(first, state):
        uniforms = torch.rand(count, group.size, policy.num_uniforms, generator=generator)
        with torch.inference_mode():
            return policy.act(step, torch.full((count,), first), state, uniforms)

    begun = act(True, policy.initial_state(count))
    plays_best = begun.extras["best_response"]
    assert float(plays_best.float().mean()) == pytest.approx(0.25, abs=0.01)
    # Each agent draws for itself.
    assert float((plays_best[:, 0] & plays_best[:, 1]).float().mean()) == pytest.approx(0.0625, abs=0.01)
    later = act(False, begun.state)
    assert torch.equal(later.extras["best_response"], plays_best)
    assert not torch.equal(act(True, later.state).extras["best_response"], plays_best)


def test_what_acts_in_the_end_is_the_average():
    builder = nfsp()
    spec, networks = made(builder)
    step = blank_step(spec.groups[0], 3)
    first = torch.ones(3, dtype=torch.bool)
    for policies in (
        builder.make_policies(spec, networks, evaluation=True),
        builder.frozen_policies(spec, networks, greedy=False),
    ):
        (policy,) = policies.values()
        assert isinstance(policy, AveragePolicy)
        with torch.inference_mode():
            chances, _ = policy.probabilities(step, first, None, 5)
        torch.testing.assert_close(chances.sum(-1), torch.ones(3, 2))
        assert bool((chances.max() == 1.0) == (policy.num_uniforms == 0))


class Rows:
    def __init__(self):
        self.rows = []

    def write(self, row):
        self.rows.append(row)

    def close(self):
        pass


@pytest.mark.parametrize("anticipatory", [1.0, 0.2])
def test_the_reservoir_holds_what_best_responses_did_and_the_average_learns_it(anticipatory):
    replay = ReplayConfig(capacity=2000, batch_size=64, samples_per_insert=8.0, min_size=64)
    builder = nfsp(replay=replay, anticipatory=anticipatory, reservoir=20_000, batch_size=64, learning_rate=0.01)
    kuhn = make_factory("openspiel/kuhn_poker", backend="batched")
    config = ExperimentConfig(builder=builder, environment=kuhn, num_envs=16, steps=3200, evaluation_episodes=0)
    experiment, logger = Experiment(config), Rows()
    experiment.run(logger)
    experiment.close()
    last = logger.rows[-1]
    # One agent decides at each step.
    assert last["player/reservoir"] / last["env_steps"] == pytest.approx(anticipatory, abs=0.04)
    # Two actions, of which the average at first takes each with probability one half: ln 2.
    losses = [row["player/average_loss"] for row in logger.rows if row["player/average_loss"] > 0]
    assert losses[0] == pytest.approx(0.693, abs=0.02)
    assert sum(losses[-20:]) / 20 < 0.6
