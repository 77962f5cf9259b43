"""Mixtures of policies: before each episode every side draws one of several players, and is played by it throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from marl.errors import InputError
from marl.games.sides import Sides
from marl.policy import Decision, Policy
from marl.self_play.opponents import Policies
from marl.self_play.seats import only_where, rows_of
from marl.specs import EnvironmentSpec
from marl.types import Floats, GroupStep


def mix_policies(
    spec: EnvironmentSpec, members: Sequence[Policies], shares: Floats, *, teams: Mapping[str, str] | None = None
) -> Policies:
    """Policies that play as one of several members, drawn anew by every side at the beginning of every episode.

    The draw is the first of the uniform random numbers of the side's first agent, so it follows from the seed and
    purpose of whoever acts, and from the environment's global index.

    Args:
        spec: of the environment.
        members: N of policies by group, alike in their recurrent states.
        shares: (N,) probabilities that sum to 1.
        teams: the team of each agent; see ``Sides``.

    Raises:
        InputError: agents of one side are in several groups, which draw apart.
        ValueError: shares that are no probabilities, or not one a member.
    """
    if len(shares) != len(members) or (shares < 0).any() or abs(float(shares.sum()) - 1.0) > 1e-6:
        raise ValueError("a mixture has a share of at least 0 for each member, and they sum to 1")
    sides = Sides(spec, teams)
    groups_of_sides = [number for group in spec.groups for number in sides.of_group[group.name].unique().tolist()]
    for number, name in enumerate(sides.names):
        if groups_of_sides.count(number) > 1:
            raise InputError(
                f"a mixture cannot be played here: agents of the side {name} share no policy, so they would draw "
                "different members; name a snapshot instead"
            )
    limits = torch.from_numpy(shares).cumsum(0)[:-1].float()
    return {
        group.name: MixturePolicy([member[group.name] for member in members], limits, sides.of_group[group.name])
        for group in spec.groups
    }


class MixturePolicy(Policy):
    """One of N policies, drawn for each side at the beginning of an episode; the state remembers which.

    Args:
        members: N policies of one group.
        limits: (N - 1,) sums of the first shares, ascending: a uniform number below the first one draws member 0.
        sides: (A,) int64: agents of equal numbers play together, and draw one member.
    """

    def __init__(self, members: Sequence[Policy], limits: Tensor, sides: Tensor) -> None:
        self._members = list(members)
        self._limits = limits
        # The first agent of each one's side.
        self._leaders = (sides.unsqueeze(0) == sides.unsqueeze(1)).int().argmax(1)
        self.num_uniforms = 1 + max(member.num_uniforms for member in members)

    def initial_state(self, num_envs: int) -> Tensor:
        """(E, A, 1 + H): the member that plays, by number, and its own recurrent state, if there is one."""
        member = torch.zeros(num_envs, len(self._leaders), 1)
        state = self._members[0].initial_state(num_envs)
        return member if state is None else torch.cat((member.to(state), state), dim=-1)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        assert state is not None
        assert uniforms is not None
        drawn = torch.bucketize(uniforms[:, self._leaders, 0], self._limits.to(uniforms.device), right=True)
        playing = torch.where(first.unsqueeze(1), drawn, state[..., 0].long())
        new = state.clone()
        new[..., 0] = playing.to(state.dtype)
        actions: Tensor | None = None
        for number in playing.unique().tolist():
            member = self._members[number]
            rows = (playing == number).any(1).nonzero().squeeze(1)
            own = playing[rows] == number
            decision = member.act(
                rows_of(step, rows),
                first[rows],
                state[rows, :, 1:] if state.shape[-1] > 1 else None,
                uniforms[rows, :, 1 : 1 + member.num_uniforms] if member.num_uniforms else None,
            )
            if actions is None:
                actions = decision.actions.new_zeros((len(playing), *decision.actions.shape[1:]))
            actions[rows] = only_where(own, decision.actions, actions[rows])
            if decision.state is not None:
                new[rows, :, 1:] = only_where(own, decision.state, new[rows, :, 1:])
        assert actions is not None
        return Decision(actions=actions, extras={}, state=new)
