"""Self-play: who sits on which side, opponents that are frozen for whole episodes, and whose experience counts.

A game has sides: single agents, or teams. In each episode of each copy every side is given to a player. The learner
sits on one side, which rotates with the copy's global index and the episode's number; the others are drawn by
``Opponents`` and act with parameters that do not change, all copies of one player in one forward pass a group. The
learner's dataset sees only the learner's own seats as active, so nobody else's experience has weight in its losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import torch
from torch import Tensor

from marl.actors import ActingNoise, Decision, Policy, PolicyActor
from marl.communicators import split
from marl.core import Actor, Adder, Communicator, EnvironmentFactory, EnvironmentRequest, Saveable, State
from marl.environment_loop import EpisodeTracker
from marl.errors import InputError
from marl.evaluation import MAX_STEPS
from marl.random_actions import random_actions
from marl.specs import DiscreteActions, EnvironmentSpec, GroupSpec, Sharing
from marl.types import Actions, GroupStep, TimeStep

LEARNER: Final = -1
"""The learner itself, with its newest parameters, where players are numbers."""
RANDOM: Final = -2
"""Uniformly random legal actions, where players are numbers."""

Policies = Mapping[str, Policy]
"""One a group: how a player acts on whichever side it sits."""


class Sides:
    """The sides of a game: which agents play together.

    Args:
        spec: of the environment.
        side_of: the side of each agent, by name; by default every agent is a side where all agents have equal
            spaces, and every group is one where they differ (roles).

    Attributes:
        names: of the S sides, in the order of their first agents' names.
        agents: of each side, sorted by name.
        of_group: which side each agent of a group is on, (A,) int64.
        of_agent: the same for all agents, group by group.

    Raises:
        InputError: there are fewer than two sides, or agents are left out or invented.
    """

    names: tuple[str, ...]
    agents: tuple[tuple[str, ...], ...]
    of_group: dict[str, Tensor]
    of_agent: Tensor

    def __init__(self, spec: EnvironmentSpec, side_of: Mapping[str, str] | None = None) -> None:
        if side_of is None:
            roles = len(spec.groups) > 1
            side_of = {agent: group.name if roles else agent for group in spec.groups for agent in group.agents}
        if wrong := sorted(set(spec.agents) ^ set(side_of)):
            raise InputError(
                f"--sides gives each of {', '.join(spec.agents)} a side and nobody else; wrong or missing: "
                f"{', '.join(wrong)}"
            )
        self.names = tuple(dict.fromkeys(side_of[agent] for agent in spec.agents))
        if len(self.names) < 2:
            raise InputError(
                f"all agents ({', '.join(spec.agents)}) are on one side, so there is nobody to play against; "
                'name sides with --sides \'{"AGENT": "SIDE", ...}\''
            )
        self.agents = tuple(tuple(agent for agent in spec.agents if side_of[agent] == name) for name in self.names)
        index = {name: number for number, name in enumerate(self.names)}
        self.of_group = {
            group.name: torch.tensor([index[side_of[agent]] for agent in group.agents]) for group in spec.groups
        }
        self.of_agent = torch.cat(list(self.of_group.values()))

    def __len__(self) -> int:
        return len(self.names)

    def returns(self, of_agents: Tensor) -> Tensor:
        """Returns of agents, (K, agents) group by group, summed by side: (K, S)."""
        sums = of_agents.new_zeros((len(of_agents), len(self)))
        return sums.index_add_(1, self.of_agent, of_agents)


class Opponents(Protocol):
    """Who plays against a learner; the same on all ranks."""

    def draw(self, copies: Tensor, episodes: Tensor) -> Tensor:
        """Who sits on each side in new episodes.

        Args:
            copies: (K,) int64, which copies of this rank.
            episodes: (K,) int64, the number of each one's episode.

        Returns:
            (K, S) int64 players; LEARNER where the learner plays.
        """
        ...

    def policies(self, player: int) -> Policies:
        """How a player acts; its parameters do not change."""
        ...

    def record(self, players: Tensor, returns: Tensor) -> None:
        """Is told how episodes ended: (K, S) players, and (K, S) undiscounted returns of the sides."""
        ...


class RandomPolicy(Policy):
    """Uniformly random legal actions."""

    def __init__(self, group: GroupSpec) -> None:
        self._action = group.action
        self.num_uniforms = max(1, group.action.array.size)

    def act(self, step: GroupStep, first: Tensor, state: Tensor | None, uniforms: Tensor | None) -> Decision:
        """See Policy."""
        assert uniforms is not None
        return Decision(actions=random_actions(self._action, uniforms, step.action_masks), extras={}, state=state)


class SeatedPlayers(Saveable):
    """Acts for the players that sit in E copies; the seats of one player go through one forward pass a group.

    Args:
        spec: of the environment.
        sides: its sides.
        policies: gives a player's policies.
        like: policies with the same recurrent states and random numbers as the players' (the learner's, say).
        num_envs: E.
        seed: the experiment's.
        purpose: what the random numbers are for.
        first_copy: global index of this rank's first copy.
        device: where policies compute.

    Attributes:
        players: (E, S) int64: who sits on each side; LEARNER where somebody else acts.
    """

    players: Tensor

    def __init__(
        self,
        spec: EnvironmentSpec,
        sides: Sides,
        policies: Callable[[int], Policies],
        like: Policies,
        *,
        num_envs: int,
        seed: int,
        purpose: str,
        first_copy: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._spec = spec
        self._sides = sides
        self._policies = policies
        random = {group.name: RandomPolicy(group) for group in spec.groups}
        self._random: Policies = random
        self._noise = ActingNoise(
            {name: max(policy.num_uniforms, random[name].num_uniforms) for name, policy in like.items()},
            {group.name: group.size for group in spec.groups},
            num_envs=num_envs,
            seed=seed,
            purpose=purpose,
            first_copy=first_copy,
            device=device,
        )
        self._states: dict[str, Tensor] = {}
        for name, policy in like.items():
            state = policy.initial_state(num_envs)
            if state is not None:
                self._states[name] = state
        self.players = torch.full((num_envs, len(sides)), LEARNER)

    @torch.inference_mode()
    def act(self, timestep: TimeStep, actions: Actions) -> Actions:
        """The actions with those of the seated players written over them."""
        noise = self._noise.next()
        present = self.players.unique().tolist()
        if present == [LEARNER]:
            return actions
        merged = {name: tensor.clone() for name, tensor in actions.items()}
        for player in present:
            if player == LEARNER:
                continue
            policies = self._random if player == RANDOM else self._policies(player)
            sitting = self.players == player
            for name, policy in policies.items():
                seats = sitting[:, self._sides.of_group[name]]
                step = timestep.groups[name]
                recurrent = name in self._states and player != RANDOM
                # A GRU reads every step, as it does for the learner; others need not look unless they act.
                rows = (seats if recurrent else seats & step.active).any(1).nonzero().squeeze(1)
                if not rows.numel():
                    continue
                state = self._states[name][rows] if recurrent else None
                count = policy.num_uniforms
                uniforms = noise[name][rows][..., :count] if count else None
                decision = policy.act(_rows(step, rows), timestep.first[rows], state, uniforms)
                own = seats[rows]
                merged[name][rows] = _where(own, decision.actions, merged[name][rows])
                if recurrent and decision.state is not None:
                    self._states[name][rows] = _where(own, decision.state, self._states[name][rows])
        return merged

    def state_dict(self) -> State:
        """From what the random numbers follow."""
        return self._noise.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        self._noise.load_state_dict(state)

    def copies_state_dict(self) -> State:
        """Who sits where, and recurrent states."""
        return {"players": self.players, **{f"state/{name}": state for name, state in self._states.items()}}

    def load_copies_state_dict(self, state: State) -> None:
        """See Saveable."""
        self.players = state["players"].clone()
        for name in self._states:
            self._states[name] = state[f"state/{name}"].clone()


class OwnSeatsAdder(Adder):
    """Passes on experience in which only a learner's own seats are active.

    Attributes:
        own: (E, A) bool a group, the learner's seats in the episodes of the newest time step.
    """

    own: dict[str, Tensor]

    def __init__(self, adder: Adder) -> None:
        self._adder = adder
        self.own = {}

    def add_first(self, timestep: TimeStep) -> None:
        """See Adder."""
        self._adder.add_first(self._masked(timestep))

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        """See Adder."""
        self._adder.add(actions, extras, self._masked(timestep))

    def _masked(self, timestep: TimeStep) -> TimeStep:
        groups = {name: replace(step, active=step.active & self.own[name]) for name, step in timestep.groups.items()}
        return replace(timestep, groups=groups)


class SelfPlayActor(Actor):
    """The learner's policies on the learner's side, frozen players on the others, all seats of E copies.

    Args:
        learner: acts with the learner's policies in all seats; its adder is ``adder``.
        adder: is told which seats are the learner's.
        players: act in all other seats.
        opponents: draws them for each new episode, and is told the results.
        sides: of the game.
        tracker: adds up returns, of this actor's own.
    """

    def __init__(
        self,
        learner: Actor,
        adder: OwnSeatsAdder,
        players: SeatedPlayers,
        opponents: Opponents,
        sides: Sides,
        tracker: EpisodeTracker,
    ) -> None:
        self._learner = learner
        self._adder = adder
        self._players = players
        self._opponents = opponents
        self._sides = sides
        self._tracker = tracker
        self._episodes = torch.full((len(players.players),), -1)

    def select_actions(self, timestep: TimeStep) -> Actions:
        """See Actor."""
        return self._players.act(timestep, self._learner.select_actions(timestep))

    def observe_first(self, timestep: TimeStep) -> None:
        """See Actor. After a checkpoint was loaded, everybody keeps the seat."""
        if int(self._episodes[0]) < 0:
            self._seat(torch.arange(len(self._episodes)))
        self._note_seats()
        self._learner.observe_first(timestep)

    def observe(self, actions: Actions, timestep: TimeStep) -> None:
        """See Actor."""
        ended = self._tracker.track(timestep)
        if ended is not None and timestep.final is not None:
            self._opponents.record(self._players.players[ended.copies], self._sides.returns(ended.returns))
            # Dropped episodes give way to new ones too, but have no result.
            self._seat(timestep.final.copies)
            self._note_seats()
        self._learner.observe(actions, timestep)

    def update(self) -> None:
        """See Actor."""
        self._learner.update()

    def state_dict(self) -> State:
        """From what all random numbers follow."""
        return {
            **{f"learner/{name}": tensor for name, tensor in self._learner.state_dict().items()},
            **{f"players/{name}": tensor for name, tensor in self._players.state_dict().items()},
        }

    def load_state_dict(self, state: State) -> None:
        """See Saveable."""
        self._learner.load_state_dict(_named("learner/", state))
        self._players.load_state_dict(_named("players/", state))

    def copies_state_dict(self) -> State:
        """Episode numbers, who sits where, recurrent states, and returns so far."""
        return {
            "episodes": self._episodes,
            **{f"learner/{name}": tensor for name, tensor in self._learner.copies_state_dict().items()},
            **{f"players/{name}": tensor for name, tensor in self._players.copies_state_dict().items()},
            **{f"tracker/{name}": tensor for name, tensor in self._tracker.copies_state_dict().items()},
        }

    def load_copies_state_dict(self, state: State) -> None:
        """See Saveable."""
        self._episodes = state["episodes"].clone()
        self._learner.load_copies_state_dict(_named("learner/", state))
        self._players.load_copies_state_dict(_named("players/", state))
        self._tracker.load_copies_state_dict(_named("tracker/", state))

    def _seat(self, copies: Tensor) -> None:
        self._episodes[copies] += 1
        self._players.players[copies] = self._opponents.draw(copies, self._episodes[copies])

    def _note_seats(self) -> None:
        own = self._players.players == LEARNER
        self._adder.own = {name: own[:, sides] for name, sides in self._sides.of_group.items()}


def make_self_play_actor(
    spec: EnvironmentSpec,
    policies: Policies,
    adder: Adder,
    sides: Sides,
    opponents: Opponents,
    *,
    num_envs: int,
    seed: int,
    first_copy: int = 0,
    device: torch.device | str = "cpu",
    like: Policies | None = None,
) -> SelfPlayActor:
    """A SelfPlayActor for a learner's exploring policies; arguments as in PolicyActor and SelfPlayActor.

    ``like`` is as in SeatedPlayers, where opponents' policies are of another kind than the learner's.
    """
    own_seats = OwnSeatsAdder(adder)
    learner = PolicyActor(
        policies,
        {group.name: group.size for group in spec.groups},
        num_envs=num_envs,
        seed=seed,
        first_copy=first_copy,
        adder=own_seats,
        device=device,
    )
    players = SeatedPlayers(
        spec,
        sides,
        opponents.policies,
        policies if like is None else like,
        num_envs=num_envs,
        seed=seed,
        purpose="opponents",
        first_copy=first_copy,
        device=device,
    )
    return SelfPlayActor(learner, own_seats, players, opponents, sides, EpisodeTracker(spec, num_envs))


def learner_sides(copies: Tensor, episodes: Tensor, num_sides: int) -> Tensor:
    """The side of the learner in each episode, (K,): it rotates with the global copy index and the episode."""
    return (copies + episodes) % num_sides


def play_games(
    seating: Tensor,
    policies: Callable[[int], Policies],
    environment: EnvironmentFactory,
    *,
    side_of: Mapping[str, str] | None = None,
    num_envs: int,
    seed: int,
    purpose: str,
    communicator: Communicator,
    sharing: Sharing = "spaces",
    like: Policies,
    device: torch.device | str = "cpu",
    max_steps: int = MAX_STEPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plays G games between players that do not learn, spread over copies and ranks. Collective.

    Game g is the (g // num_envs)th episode of copy g % num_envs, so neither the games' lengths nor the number of
    ranks have a part in the results.

    Args:
        seating: (G, S) int64, who sits on each side in each game; the same on all ranks.
        policies: gives a player's policies.
        environment: makes the copies.
        side_of: see Sides.
        num_envs: copies over all ranks, at most.
        seed: of games and actions.
        purpose: part of the seeds.
        communicator: the ranks.
        sharing: as the policies were trained.
        like: see SeatedPlayers.
        device: where policies compute.
        max_steps: a game that has not ended by then is a draw, and so are the others that its copy was to play, since
            episodes begin anew by their own end only.

    Returns:
        (G, S) float64, each side's undiscounted return, zeros where the step limit made it a draw; (G,) float64
        environment steps; and (G,) bool, where the limit was reached. On all ranks.
    """
    games, num_sides = seating.shape
    results = torch.zeros(games, num_sides + 2, dtype=torch.float64)
    total = min(num_envs, games)
    first, count = split(total, communicator.size, communicator.rank)
    if count:
        request = EnvironmentRequest(
            num_envs=count, first_copy=first, seed=seed, purpose=purpose, sharing=sharing, with_state=False
        )
        copies = environment(request)
        sides = Sides(copies.spec, side_of)
        tracker = EpisodeTracker(copies.spec, count)
        seated = SeatedPlayers(
            copies.spec,
            sides,
            policies,
            like,
            num_envs=count,
            seed=seed,
            purpose=purpose,
            first_copy=first,
            device=device,
        )
        done = torch.zeros(count, dtype=torch.int64)
        seated.players = seating[first : first + count].clone()
        missing = sum(len(range(first + copy, games, total)) for copy in range(count))
        timestep = copies.reset()
        blank = {
            group.name: torch.zeros((count, group.size, *group.action.array.shape), dtype=group.action.array.dtype)
            for group in copies.spec.groups
        }
        steps = 0
        while missing:
            timestep = copies.step(seated.act(timestep, _legal(blank, timestep, copies.spec)))
            steps += 1
            ended = tracker.track(timestep)
            if steps >= max_steps:
                for copy in tracker.cut(max_steps).copies.tolist():
                    # None, if it had played all its games and went on for nothing.
                    left = torch.arange(min(int(done[copy]) * total + first + copy, games), games, total)
                    results[left, -2:] = torch.tensor([float(max_steps), 1.0], dtype=torch.float64)
                    missing -= len(left)
                    done[copy] += len(left)
            if ended is None:
                continue
            numbers = done[ended.copies] * total + first + ended.copies
            wanted = numbers < games
            figures = torch.cat((sides.returns(ended.returns), ended.lengths.unsqueeze(1)), dim=1)
            results[numbers[wanted], :-1] = figures[wanted]
            missing -= int(wanted.sum())
            done[ended.copies] += 1
            # Who has played all its games goes on, for nothing, until the others have.
            seated.players[ended.copies] = seating[(numbers + total) % games]
        copies.close()
    communicator.all_reduce(results)
    return results[:, :-2], results[:, -2], results[:, -1] > 0


def _legal(blank: dict[str, Tensor], timestep: TimeStep, spec: EnvironmentSpec) -> dict[str, Tensor]:
    """Actions for agents that need not act: any, but legal ones where there are masks."""
    actions = {}
    for group in spec.groups:
        masks = timestep.groups[group.name].action_masks
        if masks is None or not isinstance(group.action, DiscreteActions):
            actions[group.name] = blank[group.name]
        else:
            actions[group.name] = masks.int().argmax(-1)
    return actions


def _rows(step: GroupStep, rows: Tensor) -> GroupStep:
    return GroupStep(
        observations=step.observations[rows],
        action_masks=None if step.action_masks is None else step.action_masks[rows],
        active=step.active[rows],
        rewards=step.rewards[rows],
        terminated=step.terminated[rows],
        truncated=step.truncated[rows],
    )


def _where(seats: Tensor, theirs: Tensor, others: Tensor) -> Tensor:
    """``theirs`` where (n, A) seats are, for tensors (n, A, ...)."""
    return torch.where(seats.view(*seats.shape, *[1] * (theirs.dim() - 2)), theirs, others)


def _named(prefix: str, state: State) -> State:
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
