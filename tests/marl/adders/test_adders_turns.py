"""Transitions of turn-based games: each agent's own turns, and what came between them."""

import numpy as np
import pytest
import torch

from marl.adders.turns import TurnAdder
from marl.errors import InputError
from marl.replay import Replay, ReplayConfig, SequenceItems, TransitionDataset, TransitionItems
from marl.specs import ArraySpec, DiscreteActions, EnvironmentSpec, GroupSpec
from marl.types import FinalGroupStep, FinalStep, GroupStep, TimeStep

GAMMA = 0.5
GROUP = GroupSpec(
    name="player",
    agents=("player_0", "player_1"),
    observation=ArraySpec(shape=(1,)),
    action=DiscreteActions(num_actions=3),
    masked=True,
)
SPEC = EnvironmentSpec(groups=(GROUP,), turn_based=True)


def seen(time, mover, rewards=(0.0, 0.0), *, ended="", first=False):
    """One copy at a time of its first episode, or of its second one where the first has just ended.

    Agent i observes ``10 time + i``, and only the action ``time % 3`` is legal.
    """
    masks = torch.zeros(1, 2, 3, dtype=torch.bool)
    masks[..., time % 3] = True
    flags = {kind: torch.full((1, 2), ended == kind) for kind in ("terminated", "truncated")}
    begin = 100 if ended else 10 * time
    observations = torch.tensor([[[begin], [begin + 1.0]]])
    final = None
    if ended:
        last = FinalGroupStep(
            observations=torch.tensor([[[10.0 * time], [10.0 * time + 1]]]), action_masks=torch.ones_like(masks)
        )
        final = FinalStep(envs=torch.tensor([0]), groups={"player": last}, state=None)
    active = torch.zeros(1, 2, dtype=torch.bool)
    if mover is not None:
        active[0, mover] = True
    step = GroupStep(
        observations=observations, action_masks=masks, active=active, rewards=torch.tensor([rewards]), **flags
    )
    return TimeStep(groups={"player": step}, state=None, first=torch.tensor([bool(ended) or first]), final=final)


def items(*steps, **settings):
    """The contents of replay after these time steps; the action at step k is k + 1 for both agents."""
    replay = Replay(SPEC, TransitionItems(), capacity=20, num_envs=1, **settings)
    adder = TurnAdder(replay, discount=GAMMA)
    adder.add_first(steps[0])
    for number, step in enumerate(steps[1:]):
        adder.add({"player": torch.full((1, 2), number + 1)}, {}, step)
    return replay, adder, rows(replay)


def rows(replay):
    """(time, agent, observation, action, rewards, discount, next observation) of what agents may learn from."""
    count = int(replay.local_counts[0])
    out = np.zeros((count, replay.layout.words), np.int64)
    replay.gather(np.zeros(count, np.int64), np.arange(count), out)
    fields = {name: tensor.numpy() for name, tensor in replay.layout.tensors(torch.from_numpy(out)).items()}
    found = []
    for time, agent in zip(*np.nonzero(fields["player/active"]), strict=True):
        cells = [
            fields[f"player/{name}"][time, agent]
            for name in ("observations", "actions", "rewards", "discounts", "next_observations")
        ]
        found.append((int(time), int(agent), *(float(np.squeeze(cell)) for cell in cells)))
    return found


def test_a_transition_reaches_from_a_turn_to_the_next_one_and_collects_what_comes_between():
    _, _, found = items(
        seen(0, 0, first=True),
        seen(1, 1, (1.0, 2.0)),
        seen(2, 0, (4.0, 8.0)),
        seen(3, 1, (16.0, 32.0)),
    )
    # Agent 0 moved at 0 and moves again at 2; agent 1 moved at 1 and is to move at 3. What agent 1 got before its
    # first move belongs to none.
    assert found == [(1, 0, 0.0, 1.0, 5.0, GAMMA, 20.0), (2, 1, 11.0, 2.0, 40.0, GAMMA, 31.0)]


@pytest.mark.parametrize(("ended", "discount"), [("terminated", 0.0), ("truncated", GAMMA)])
def test_the_end_finishes_everybodys_transition_with_the_last_observations(ended, discount):
    _, _, found = items(
        seen(0, 0, first=True),
        seen(1, 1),
        seen(2, 1, (-1.0, 1.0), ended=ended),
        seen(3, 0),
    )
    assert found == [
        (1, 0, 0.0, 1.0, -1.0, discount, 20.0),
        (1, 1, 11.0, 2.0, 1.0, discount, 21.0),
        # The new episode is begun by agent 1, whose turn is over with agent 0's; it moves no more.
    ]


def test_where_one_moves_twice_each_move_has_its_own_transition():
    _, _, found = items(seen(0, 1, first=True), seen(1, 1, (0.0, 3.0)), seen(2, None, (1.0, -1.0), ended="terminated"))
    assert found == [(0, 1, 1.0, 1.0, 3.0, GAMMA, 11.0), (1, 1, 11.0, 2.0, -1.0, 0.0, 21.0)]


def test_every_step_makes_one_item_a_copy_so_that_ranks_know_each_others_counts():
    replay, _, _ = items(seen(0, 0, first=True), seen(1, 1), seen(2, 0), seen(3, 1))
    assert replay.in_step
    assert replay.local_counts.tolist() == [3]


def test_unfinished_turns_go_on_after_a_resume():
    story = [seen(0, 0, first=True), seen(1, 1, (1.0, 0.0)), seen(2, 0, (2.0, 0.0)), seen(3, 1, (0.0, 5.0))]
    _, _, found = items(*story, save=True)
    replay, adder, _ = items(*story[:3], save=True)
    other = Replay(SPEC, TransitionItems(), capacity=20, num_envs=1, save=True)
    again = TurnAdder(other, discount=GAMMA)
    other.load_env_state_dict(replay.env_state_dict())
    again.load_env_state_dict(adder.env_state_dict())
    again.add_first(story[2])
    again.add({"player": torch.full((1, 2), 3)}, {}, story[3])
    assert rows(other) == found
    # Without saved records a resumed run begins anew.
    assert TurnAdder(Replay(SPEC, TransitionItems(), capacity=20, num_envs=1), discount=1.0).env_state_dict() == {}


def test_longer_items_of_turns_are_refused():
    for longer in (TransitionItems(n_step=2), SequenceItems(length=4)):
        with pytest.raises(InputError, match="transitions of one step"):
            Replay(SPEC, longer, capacity=20, num_envs=1)
    with pytest.raises(ValueError, match="joint state"):
        TurnAdder(
            Replay(
                EnvironmentSpec(groups=(GROUP,), state=ArraySpec(shape=(2,)), turn_based=True),
                TransitionItems(),
                capacity=20,
                num_envs=1,
            ),
            discount=1.0,
        )


def test_replay_that_was_cleared_waits_for_new_items():
    config = ReplayConfig(capacity=20, batch_size=1, samples_per_insert=1.0, min_size=2)
    replay, _, _ = items(seen(0, 0, first=True), seen(1, 1), seen(2, 0), seen(3, 1))
    dataset = TransitionDataset(
        replay, config.make_selector(replay, seed=0), config.make_limiter(replay), batch_size=config.batch_size
    )
    assert dataset.ready()
    dataset.sample()
    dataset.clear()
    assert not dataset.ready()
    assert (dataset.samples, replay.inserted, replay.stored) == (0, 0, 0)
