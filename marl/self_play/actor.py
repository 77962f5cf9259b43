"""The actor of self-play: seats for players, opponents that are frozen for whole episodes, and whose experience counts.

A game has sides: single agents, or teams. In each episode of each environment every side is given to a player. The
learner sits on one side, which rotates with the environment's global index and the episode's number; the others are
drawn by ``Opponents`` and act with parameters that do not change, all seats of one player in one forward pass a group.
The learner's dataset sees only the learner's own seats as active, so nobody else's experience has weight in its losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from marl.acting.actors import PolicyActor
from marl.acting.episodes import EpisodeTracker
from marl.core import Actor, Adder, State
from marl.games.sides import Sides
from marl.self_play.opponents import LEARNER, Opponents, Policies
from marl.self_play.seats import SeatedPlayers
from marl.specs import EnvironmentSpec
from marl.types import Actions, TimeStep


class OwnSeatsAdder(Adder):
    """Passes on experience in which only a learner's own seats act, earn, and come to an end.

    Attributes:
        own: (E, A) bool a group, the learner's seats in the episodes of the newest time step.
    """

    own: dict[str, Tensor]

    def __init__(self, adder: Adder) -> None:
        self._adder = adder
        self.own = {}
        self._before: dict[str, Tensor] = {}
        """Its seats in the episodes of the time step before."""

    def add_first(self, timestep: TimeStep) -> None:
        self._before = self.own
        self._adder.add_first(self._masked(timestep))

    def add(self, actions: Actions, extras: Mapping[str, State], timestep: TimeStep) -> None:
        self._adder.add(actions, extras, self._masked(timestep))
        self._before = self.own

    def _masked(self, timestep: TimeStep) -> TimeStep:
        groups = {}
        for name, step in timestep.groups.items():
            # Rewards and endings are those of the step that led here, perhaps the last one with other seats.
            own, before = self.own[name], self._before[name]
            groups[name] = replace(
                step,
                active=step.active & own,
                rewards=step.rewards.masked_fill(~before, 0.0),
                terminated=step.terminated & before,
                truncated=step.truncated & before,
            )
        return replace(timestep, groups=groups)


class SelfPlayActor(Actor):
    """The learner's policies on the learner's side, frozen players on the others, in all seats of E environments.

    Args:
        learner: acts with the learner's policies in all seats; its adder is ``adder``.
        adder: masks all seats but the learner's.
        players: act in all other seats.
        opponents: draws the players of each new episode, and records the results.
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
        return self._players.act(timestep, self._learner.select_actions(timestep))

    def observe_first(self, timestep: TimeStep) -> None:
        # After a checkpoint was loaded, players keep their seats.
        if int(self._episodes[0]) < 0:
            self._seat(torch.arange(len(self._episodes)))
        self._note_seats()
        self._learner.observe_first(timestep)

    def observe(self, actions: Actions, timestep: TimeStep) -> None:
        ended = self._tracker.track(timestep)
        if ended is not None and timestep.final is not None:
            self._opponents.record(self._players.players[ended.envs], self._sides.returns(ended.returns))
            # Dropped episodes give way to new ones too, but have no result.
            self._seat(timestep.final.envs)
            self._note_seats()
        self._learner.observe(actions, timestep)

    def update(self) -> None:
        self._learner.update()

    def state_dict(self) -> State:
        return {
            **{f"learner/{name}": tensor for name, tensor in self._learner.state_dict().items()},
            **{f"players/{name}": tensor for name, tensor in self._players.state_dict().items()},
        }

    def load_state_dict(self, state: State) -> None:
        self._learner.load_state_dict(_named("learner/", state))
        self._players.load_state_dict(_named("players/", state))

    def env_state_dict(self) -> State:
        """Episode numbers, seats, recurrent states, and returns so far."""
        return {
            "episodes": self._episodes,
            **{f"learner/{name}": tensor for name, tensor in self._learner.env_state_dict().items()},
            **{f"players/{name}": tensor for name, tensor in self._players.env_state_dict().items()},
            **{f"tracker/{name}": tensor for name, tensor in self._tracker.env_state_dict().items()},
        }

    def load_env_state_dict(self, state: State) -> None:
        self._episodes = state["episodes"].clone()
        self._learner.load_env_state_dict(_named("learner/", state))
        self._players.load_env_state_dict(_named("players/", state))
        self._tracker.load_env_state_dict(_named("tracker/", state))

    def _seat(self, envs: Tensor) -> None:
        self._episodes[envs] += 1
        self._players.players[envs] = self._opponents.draw(envs, self._episodes[envs])

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
    first_env: int = 0,
    device: torch.device | str = "cpu",
    template: Policies | None = None,
) -> SelfPlayActor:
    """A SelfPlayActor for a learner's exploring policies; arguments as in PolicyActor and SelfPlayActor.

    ``template`` is as in SeatedPlayers, where opponents' policies are of another kind than the learner's.
    """
    own_seats = OwnSeatsAdder(adder)
    learner = PolicyActor(
        policies,
        {group.name: group.size for group in spec.groups},
        num_envs=num_envs,
        seed=seed,
        first_env=first_env,
        adder=own_seats,
        device=device,
    )
    players = SeatedPlayers(
        spec,
        sides,
        opponents.policies,
        policies if template is None else template,
        num_envs=num_envs,
        seed=seed,
        purpose="opponents",
        first_env=first_env,
        device=device,
    )
    return SelfPlayActor(learner, own_seats, players, opponents, sides, EpisodeTracker(spec, num_envs))


def _named(prefix: str, state: State) -> State:
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
