"""Small OpenSpiel games as tables: the whole tree is walked once, and copies of the game step by looking it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from marl.core import EnvironmentFactory, EnvironmentRequest, State, VectorEnvironment
from marl.envs.openspiel.game_tree import CHANCE, TERMINAL, GameTree, read_tree
from marl.envs.openspiel.games import load
from marl.errors import InputError
from marl.random_streams import Stream
from marl.specs import AgentSpec, ArraySpec, DiscreteActions, EnvironmentSpec, group_agents
from marl.types import Actions, FinalGroupStep, FinalStep, GroupStep, TimeStep

_BLOCK: Final = 64
"""Steps for which random numbers are drawn at once."""


class GameTreeEnvironment(VectorEnvironment):
    """E copies of a game whose tree is known; what they show equals what ``openspiel/GAME`` shows.

    A step is one turn. Agents see their information state at their own last turn, zeros before the first. The state
    is all agents' present information states, in sorted order of their names. What chance does at step t in a copy
    depends on the seed, the purpose, t and the copy's global index.

    Args:
        tree: the game's.
        request: how many copies, their seeds, policy sharing, and whether states are wanted.
        device: where everything lives.
    """

    def __init__(self, tree: GameTree, request: EnvironmentRequest, *, device: torch.device | str = "cpu") -> None:
        if request.num_envs < 1:
            raise InputError(f"an environment needs at least one copy, not {request.num_envs}")
        self.num_envs = request.num_envs
        self._tree = GameTree(**{name: getattr(tree, name).to(device) for name in tree.__slots__})
        features = ArraySpec(shape=(tree.observations.shape[1],))
        action = DiscreteActions(num_actions=tree.num_actions)
        players = {f"player_{number}": number for number in range(tree.num_players)}
        agents = [AgentSpec(name=name, observation=features, action=action, masked=True) for name in players]
        self.spec = EnvironmentSpec(
            groups=group_agents(agents, request.sharing),
            state=ArraySpec(shape=(tree.num_players * features.size,)) if request.with_state else None,
            turn_based=True,
        )
        self._members = {
            group.name: torch.tensor([players[agent] for agent in group.agents], device=device)
            for group in self.spec.groups
        }
        self._order = torch.tensor([players[agent] for agent in sorted(players)], device=device)
        # Where each player's action is found among all groups' actions, side by side.
        self._columns = torch.argsort(torch.cat(list(self._members.values())))
        self._stream = Stream(
            request.seed,
            f"environment/{request.purpose}",
            first_env=request.first_env,
            num_envs=request.num_envs,
            device=device,
        )
        self._table, self._table_first = torch.empty(0), 0
        self._step = torch.full((self.num_envs,), -1, dtype=torch.int64)
        self._envs = torch.arange(self.num_envs, device=device)
        flag = torch.zeros(self.num_envs, tree.num_players, dtype=torch.bool, device=device)
        self._node = torch.zeros(self.num_envs, dtype=torch.int64, device=device)
        self._seen = torch.zeros(self.num_envs, tree.num_players, dtype=torch.int64, device=device)
        self._rewards = torch.zeros(self.num_envs, tree.num_players, device=device)
        self._terminated, self._none = flag.clone(), flag
        self._first = torch.zeros(self.num_envs, dtype=torch.bool, device=device)
        self._legal = self._tree.children >= 0
        self._current: TimeStep | None = None

    @torch.no_grad()
    def reset(self) -> TimeStep:
        self._step += 1
        self._node.zero_()
        self._seen.zero_()
        self._rewards.zero_()
        self._terminated = self._none
        self._first = torch.ones_like(self._first)
        self._settle(self._envs, self._uniforms()[:, 1])
        self._current = self._time_step(None)
        return self._current

    @torch.no_grad()
    def step(self, actions: Actions) -> TimeStep:
        """Takes a turn in every copy.

        Args:
            actions: one (E, A) int64 tensor a group.

        Raises:
            ValueError: reset was not called, actions have another shape, or an action is illegal.
        """
        if self._current is None:
            raise ValueError("reset must be called before step")
        self._step += 1
        tree, uniforms = self._tree, self._uniforms()
        mover = tree.mover[self._node].unsqueeze(1)
        before = tree.returns[self._node]
        self._node = tree.children[self._node, self._chosen(actions).gather(1, mover).squeeze(1)]
        if int(self._node.min()) < 0:
            copy = int((self._node < 0).nonzero()[0])
            raise ValueError(f"player_{int(mover[copy])} in copy {copy} chose an action that is not legal there")
        self._settle(self._envs, uniforms[:, 0])
        self._rewards = tree.returns[self._node] - before
        over = tree.mover[self._node] == TERMINAL
        ended = over.nonzero().squeeze(1)
        self._first = over
        self._terminated = over.unsqueeze(1).expand_as(self._none)
        final = self._end(ended, uniforms[:, 1]) if ended.numel() else None
        self._current = self._time_step(final)
        return self._current

    def current(self) -> TimeStep:
        """The newest time step once more; after ``load_env_state_dict`` the saved one, but without ``final``."""
        if self._current is None:
            raise ValueError("there is no time step before reset")
        return self._current

    def env_state_dict(self) -> State:
        """Each copy's place in the tree, its players' last observations, and the outcome of its last step."""
        return {
            "step": self._step.clone(),
            "node": self._node.clone(),
            "seen": self._seen.clone(),
            "rewards": self._rewards.clone(),
            "terminated": self._terminated.clone(),
            "first": self._first.clone(),
        }

    def load_env_state_dict(self, state: State) -> None:
        """Restores the copies.

        Raises:
            ValueError: the rows are not those of E copies of this game.
        """
        for name, mine in self.env_state_dict().items():
            if name not in state or state[name].shape != mine.shape:
                raise ValueError(f"the saved environment has no {name} of {tuple(mine.shape)}")
        if int(state["node"].max()) >= len(self._tree.mover):
            raise ValueError("the saved environment is of another game")
        device = self._node.device
        self._step = state["step"].clone()
        self._node, self._seen = state["node"].to(device, copy=True), state["seen"].to(device, copy=True)
        self._rewards = state["rewards"].to(device, copy=True)
        self._terminated = state["terminated"].to(device, copy=True)
        self._first = state["first"].to(device, copy=True)
        self._current = self._time_step(None)

    def _chosen(self, actions: Actions) -> Tensor:
        """The actions of all players, (E, P)."""
        for group in self.spec.groups:
            if actions[group.name].shape != (self.num_envs, group.size):
                raise ValueError(
                    f"actions of {group.name} have shape {tuple(actions[group.name].shape)}, "
                    f"not {(self.num_envs, group.size)}"
                )
        together = torch.cat([actions[group.name] for group in self.spec.groups], dim=1)
        return together[:, self._columns].to(self._node.device)

    def _uniforms(self) -> Tensor:
        """(E, 2) numbers of this step: for chance after a move, and for chance in a game that begins."""
        step = int(self._step[0])
        if not 0 <= step - self._table_first < len(self._table):
            self._table_first = step - step % _BLOCK
            self._table = self._stream.uniforms(self._table_first, 2, rows=_BLOCK)
        return self._table[step - self._table_first]

    def _settle(self, envs: Tensor, uniforms: Tensor) -> None:
        """Plays chance's moves, and notes the observation of the player that moves next."""
        tree, node = self._tree, self._node[envs]
        waiting = (tree.mover[node] == CHANCE).nonzero().squeeze(1)
        if waiting.numel():
            row = tree.chance[node[waiting]]
            # The first sum above the number.
            column = (uniforms[envs][waiting].unsqueeze(1) >= tree.thresholds[row]).sum(1)
            node[waiting] = tree.outcomes[row, column]
            self._node[envs] = node
        # Nobody moves at the end, where this writes what player 0 has seen already.
        mover = tree.mover[node].clamp(min=0)
        over = tree.mover[node] == TERMINAL
        self._seen[envs, mover] = torch.where(over, self._seen[envs, mover], tree.information[node, mover])

    def _end(self, ended: Tensor, uniforms: Tensor) -> FinalStep:
        """Keeps the last observations of the copies that ended, and begins new episodes there."""
        seen = self._seen[ended]
        final = FinalStep(
            envs=ended.cpu(),
            groups={
                group.name: FinalGroupStep(
                    observations=self._tree.observations[seen[:, self._members[group.name]]],
                    action_masks=torch.ones(
                        (len(ended), group.size, self._tree.num_actions), dtype=torch.bool, device=seen.device
                    ),
                )
                for group in self.spec.groups
            },
            state=None if self.spec.state is None else self._tree.observations[seen[:, self._order]].flatten(1),
        )
        self._node[ended] = 0
        self._seen[ended] = 0
        self._settle(ended, uniforms)
        return final

    def _time_step(self, final: FinalStep | None) -> TimeStep:
        tree = self._tree
        active = torch.zeros_like(self._none)
        active[self._envs, tree.mover[self._node]] = True
        # Who is not to move may do anything.
        masks = self._legal[self._node].unsqueeze(1) | ~active.unsqueeze(2)
        groups = {}
        for group in self.spec.groups:
            members = self._members[group.name]
            groups[group.name] = GroupStep(
                observations=tree.observations[self._seen[:, members]],
                action_masks=masks[:, members],
                active=active[:, members],
                rewards=self._rewards[:, members],
                terminated=self._terminated[:, members],
                truncated=self._none[:, members],
            )
        state = None
        if self.spec.state is not None:
            state = tree.observations[tree.information[self._node][:, self._order]].flatten(1)
        return TimeStep(groups=groups, state=state, first=self._first, final=final)


def make_batched_game(
    name: str, parameters: Mapping[str, Any] | None = None, *, device: torch.device | str = "cpu"
) -> EnvironmentFactory:
    """A factory of batched environments of one OpenSpiel game.

    Args:
        name: OpenSpiel's short name, such as ``kuhn_poker``.
        parameters: the game's parameters, such as ``{"players": 3}``.
        device: where they live.

    Raises:
        InputError: the game is too large, or not of the kind that ``read_tree`` reads.
    """
    tree = read_tree(load(name, parameters))

    def make(request: EnvironmentRequest) -> GameTreeEnvironment:
        return GameTreeEnvironment(tree, request, device=device)

    return make
