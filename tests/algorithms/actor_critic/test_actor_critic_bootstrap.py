"""Next values of agents that are gone, or were cut off alone: whose action counts for whom."""

from typing import Any

import pytest
import torch
from endings import ParallelEndings
from torch import Tensor, nn

from marl.algorithms.actor_critic.batches import prepare_batch
from marl.algorithms.maddpg import MADDPG, MADDPGConfig
from marl.algorithms.masac import MASAC, MASACConfig
from marl.envs.factory import vectorize
from marl.experiments.config import ExperimentConfig
from marl.experiments.experiment import Experiment
from marl.replay import GroupTransitions, ReplayConfig, Transitions

REPLAY = ReplayConfig(capacity=100, batch_size=4, min_size=8)
ALPHA = 0.5


class Presence(nn.Module):
    """A critic that values one's own action at 1 and another's at 10; a critic of all actions at their numbers."""

    def __init__(self, reads_own_action: bool) -> None:
        super().__init__()
        self.reads_own_action = reads_own_action

    def forward(self, observations: Tensor, own: Tensor, state: Any, others: Tensor) -> Tensor:
        there = 10.0 * (others != 0).any(-1).float()
        if self.reads_own_action:
            return ((own != 0).any(-1).float() + there).unsqueeze(0)
        # Two critics: the least of means is 1, the mean of leasts is 0.
        numbers = torch.tensor([[0.0, 0.0, 3.0], [3.0, 0.0, 0.0]])
        return there.unsqueeze(-1) + numbers.view(2, 1, 1, 3)


def bootstrapped(kind: type, *, team: bool, continuous: bool) -> dict[str, list[float]]:
    """The next values of agent_0 and agent_1, by what happened to agent_0, while agent_1 plays on."""
    settings: dict[str, Any] = {"team_reward": team, "replay": REPLAY, "hidden_sizes": (8,)}
    builder: Any
    if kind is MASAC:
        fixed = {"initial_temperature": ALPHA, "adapt_temperature": False, "num_critics": 2}
        builder = MASAC(config=MASACConfig(**settings, **fixed))
    else:
        builder = MADDPG(config=MADDPGConfig(**settings))
    made = Experiment(
        ExperimentConfig(
            builder=builder,
            environment=vectorize(lambda: ParallelEndings(team=team, continuous=continuous)),
            seed=0,
            steps=100,
            num_envs=2,
            evaluation_episodes=0,
        )
    )
    learner: Any = made.learner
    learner._target_critics = {"agent": Presence(continuous or kind is MADDPG)}
    cases = {
        "plays on": ([True, True], [0.5, 0.5]),
        "died": ([False, True], [0.0, 0.5]),
        "cut off alone": ([False, True], [0.5, 0.5]),
    }
    width = made.spec.groups[0].observation.size
    count = len(cases)
    action = torch.zeros(count, 2, 1) if continuous else torch.zeros(count, 2, dtype=torch.int64)
    seen = torch.zeros(count, 2, width)
    seen[..., 0] = 1.0
    group = GroupTransitions(
        observations=seen,
        action_masks=None,
        active=torch.ones(count, 2, dtype=torch.bool),
        actions=action,
        rewards=torch.zeros(count, 2),
        discounts=torch.tensor([discounts for _, discounts in cases.values()]),
        next_observations=seen,
        next_action_masks=None,
        next_active=torch.tensor([active for active, _ in cases.values()]),
    )
    sample = Transitions(
        groups={"agent": group},
        state=torch.zeros(count, width),
        next_state=torch.zeros(count, width),
        discounts=torch.full((count,), 0.5),
        weights=torch.ones(count),
        indices=torch.zeros(count, 2, dtype=torch.int64),
        positions=torch.arange(count),
        global_batch_size=count,
    )
    batch = prepare_batch(made.spec, sample, builder.config)
    noise = {"agent": torch.full((count, 2, 3), 0.3)[..., : learner.noise_size(made.spec.groups[0], "next")]}
    with torch.no_grad():
        values = learner._bootstrap(batch, noise)["agent"]
    return dict(zip(cases, values.tolist(), strict=True))


@pytest.mark.parametrize("team", [False, True])
@pytest.mark.parametrize("continuous", [False, True])
def test_who_is_cut_off_alone_is_valued_by_its_own_action_and_missed_by_the_others(team, continuous):
    values = bootstrapped(MADDPG, team=team, continuous=continuous)
    assert values["plays on"] == [11.0, 11.0]
    # The other's value no longer counts on agent_0.
    assert values["cut off alone"][1] == values["died"][1] == 1.0
    # For itself agent_0 would have acted; its team goes on without it.
    assert values["cut off alone"][0] == (10.0 if team else 11.0)
    assert not team or values["died"][0] == 10.0


@pytest.mark.parametrize("team", [False, True])
def test_entropy_is_earned_by_those_alone_whose_own_value_goes_on(team):
    values = bootstrapped(MASAC, team=team, continuous=False)
    # A uniform policy: the least of both critics, of each action, is 0.
    bonus = ALPHA * torch.tensor(3.0).log().item()
    assert values["plays on"] == pytest.approx([10.0 + bonus] * 2, abs=0.01)
    assert values["cut off alone"][1] == values["died"][1] == pytest.approx(bonus, abs=0.01)
    # Of a place that nobody fills, the least of both critics' means.
    assert values["cut off alone"][0] == pytest.approx(11.0 if team else 10.0 + bonus, abs=0.01)
    assert not team or values["died"][0] == 11.0


def test_continuous_entropy_is_not_earned_by_the_gone():
    values = bootstrapped(MASAC, team=True, continuous=True)
    assert values["died"][0] == values["cut off alone"][0] == 10.0
    assert values["plays on"][0] != 11.0
