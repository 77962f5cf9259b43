"""Self-play: who sits where and for how long, whose experience counts, and that games do not depend on ranks."""

import dataclasses

import pytest
import torch
from probes import anything

from marl.acting.actors import PolicyActor
from marl.acting.episodes import EpisodeTracker
from marl.algorithms.mappo import MAPPO, MAPPOConfig
from marl.core import Adder, EnvironmentRequest
from marl.games.sides import Sides
from marl.policy import Decision, Policy
from marl.self_play.actor import make_self_play_actor
from marl.self_play.opponents import LEARNER, learner_sides
from marl.self_play.seats import SeatedPlayers
from marl.specs import AgentSpec, ArraySpec, DiscreteActions

THREE = DiscreteActions(num_actions=3)
SEEN = ArraySpec(shape=(2,))
PAIR = (
    AgentSpec(name="p_0", observation=SEEN, action=THREE),
    AgentSpec(name="p_1", observation=SEEN, action=THREE),
)
MASKED = tuple(dataclasses.replace(agent, masked=True) for agent in PAIR)
HUNT = (
    AgentSpec(name="hunter_0", observation=SEEN, action=THREE),
    AgentSpec(name="hunter_1", observation=SEEN, action=THREE),
    AgentSpec(name="prey", observation=ArraySpec(shape=(3,)), action=THREE),
)
GAMES = {"at once": anything(*PAIR), "in turns": anything(*PAIR, turns=True), "roles": anything(*HUNT)}


def spec_of(game):
    return game(EnvironmentRequest(num_envs=1)).spec


class Constant(Policy):
    """Always the same action, and a count of the rows that it was asked about."""

    def __init__(self, action):
        self.action = action
        self.asked = []

    def act(self, step, first, state, uniforms):
        self.asked.append(len(step.active))
        return Decision(actions=torch.full(step.active.shape, self.action), extras={}, state=None)


class Notebook(Adder):
    """What an adder was told."""

    def __init__(self):
        self.active, self.actions, self.outcomes = [], [], []

    def add_first(self, timestep):
        self.active.append({name: step.active.clone() for name, step in timestep.groups.items()})
        self.outcomes.append(
            {
                name: [tensor.clone() for tensor in (step.rewards, step.terminated, step.truncated)]
                for name, step in timestep.groups.items()
            }
        )

    def add(self, actions, extras, timestep):
        self.actions.append({name: tensor.clone() for name, tensor in actions.items()})
        self.add_first(timestep)


class Everybody:
    """Opponents by a rule: player 0 or 1 by turns, whoever the learner's side meets."""

    def __init__(self, spec, sides, *, first_env=0):
        self.made = {player: {group.name: Constant(player) for group in spec.groups} for player in (0, 1)}
        self.num_sides, self.first_env = sides, first_env
        self.drawn, self.results = [], []

    def draw(self, envs, episodes):
        self.drawn.append((envs.clone(), episodes.clone()))
        players = ((envs + self.first_env + episodes) // self.num_sides % 2).unsqueeze(1).repeat(1, self.num_sides)
        sides = learner_sides(envs + self.first_env, episodes, self.num_sides)
        players[torch.arange(len(envs)), sides] = LEARNER
        return players

    def policies(self, player):
        return self.made[player]

    def record(self, players, returns):
        self.results.append((players.clone(), returns.clone()))


def seated(game, *, num_envs=4, opponents=None, purpose="train"):
    environment = game(EnvironmentRequest(num_envs=num_envs, purpose=purpose))
    spec = environment.spec
    sides = Sides(spec)
    adder = Notebook()
    opponents = Everybody(spec, len(sides)) if opponents is None else opponents
    learner = {group.name: Constant(2) for group in spec.groups}
    actor = make_self_play_actor(spec, learner, adder, sides, opponents, num_envs=num_envs, seed=0)
    return environment, actor, adder, opponents, sides


@pytest.mark.parametrize("num_sides", [2, 3])
def test_the_learners_seat_rotates_evenly_over_episodes_and_over_environments(num_sides):
    table = torch.stack([learner_sides(torch.arange(12), torch.full((12,), k), num_sides) for k in range(12)])
    for line in (*table, *table.t()):
        assert torch.bincount(line, minlength=num_sides).tolist() == [12 // num_sides] * num_sides


@pytest.mark.parametrize("name", GAMES)
def test_opponents_act_in_their_seats_for_whole_episodes_and_only_the_learners_seats_are_active(name):
    environment, actor, adder, opponents, sides = seated(GAMES[name])
    timestep = environment.reset()
    actor.observe_first(timestep)
    players = actor._players.players.clone()
    for step in range(60):
        shown = {group: part.active.clone() for group, part in timestep.groups.items()}
        actions = actor.select_actions(timestep)
        for group, active in shown.items():
            of = sides.of_group[group]
            own = players[:, of] == LEARNER
            wanted = torch.where(own, 2, players[:, of])
            assert torch.equal(actions[group][active], wanted[active])
            assert torch.equal(adder.active[-1][group], active & own)
        timestep = environment.step(actions)
        actor.observe(actions, timestep)
        assert torch.equal(adder.actions[step][next(iter(shown))], actions[next(iter(shown))])
        ended = torch.zeros(4, dtype=torch.bool) if timestep.final is None else timestep.first
        # Who plays changes with episodes, and with nothing else.
        assert torch.equal(actor._players.players[~ended], players[~ended])
        players = actor._players.players.clone()
    episodes = torch.cat([numbers for _, numbers in opponents.drawn])
    assert int(episodes.max()) > 3


@pytest.mark.parametrize("name", GAMES)
def test_rewards_and_endings_in_seats_that_are_hidden_are_hidden_too(name):
    environment, actor, adder, _, sides = seated(GAMES[name])
    timestep = environment.reset()
    actor.observe_first(timestep)
    endings = 0
    for _ in range(40):
        # Of the step that led here, in the seats of the episode in which it was taken.
        players = actor._players.players.clone()
        timestep = environment.step(actor.select_actions(timestep))
        actor.observe({}, timestep)
        for group, seen in adder.outcomes[-1].items():
            own = players[:, sides.of_group[group]] == LEARNER
            step = timestep.groups[group]
            for hidden, shown in zip(seen, (step.rewards, step.terminated, step.truncated), strict=True):
                assert torch.equal(hidden, torch.where(own, shown, torch.zeros_like(shown)))
            endings += int(seen[2].sum())
    assert endings > 0


def test_a_players_seats_go_through_one_forward_pass():
    environment, actor, _, opponents, _ = seated(GAMES["at once"], num_envs=8)
    timestep = environment.reset()
    actor.observe_first(timestep)
    actor.select_actions(timestep)
    assert [part["p"].asked for part in opponents.made.values()] == [[4], [4]]


def test_in_turns_only_environments_in_which_a_player_is_to_move_are_computed():
    environment, actor, _, opponents, _ = seated(GAMES["in turns"], num_envs=8)
    timestep = environment.reset()
    actor.observe_first(timestep)
    waiting = (actor._players.players != LEARNER)[:, 0] & timestep.groups["p"].active[:, 0]
    waiting |= (actor._players.players != LEARNER)[:, 1] & timestep.groups["p"].active[:, 1]
    actor.select_actions(timestep)
    assert sum(sum(part["p"].asked) for part in opponents.made.values()) == int(waiting.sum())


def test_results_are_the_returns_of_the_sides():
    environment, actor, _, opponents, sides = seated(GAMES["roles"])
    tracker = EpisodeTracker(environment.spec, 4)
    timestep = environment.reset()
    actor.observe_first(timestep)
    expected = []
    for _ in range(40):
        players = actor._players.players.clone()
        actions = actor.select_actions(timestep)
        timestep = environment.step(actions)
        ended = tracker.track(timestep)
        actor.observe(actions, timestep)
        if ended is not None:
            expected.append((players[ended.envs], sides.returns(ended.returns)))
    assert len(expected) == len(opponents.results) > 2
    for ours, theirs in zip(opponents.results, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_who_plays_itself_learns_from_both_seats():
    class Mirror(Everybody):
        def draw(self, envs, episodes):
            return torch.full((len(envs), 2), LEARNER)

    opponents = Mirror(spec_of(GAMES["at once"]), 2)
    environment, actor, adder, _, _ = seated(GAMES["at once"], opponents=opponents)
    timestep = environment.reset()
    actor.observe_first(timestep)
    actions = actor.select_actions(timestep)
    assert bool((actions["p"] == 2).all())
    assert torch.equal(adder.active[0]["p"], timestep.groups["p"].active)


def recurrent_policies(spec, seed=0):
    torch.manual_seed(seed)
    builder = MAPPO(config=MAPPOConfig(recurrent=True, hidden_sizes=(8,)))
    return builder.make_policies(spec, builder.make_networks(spec), evaluation=False)


def test_frozen_recurrent_players_remember_as_if_each_played_alone():
    """Two recurrent players in alternating environments act as an actor of either alone does, bit for bit or nearly."""
    game = GAMES["at once"]
    environment = game(EnvironmentRequest(num_envs=4))
    spec, sides = environment.spec, Sides(environment.spec)
    both = {player: recurrent_policies(spec, player) for player in (0, 1)}
    seats = SeatedPlayers(spec, sides, both.__getitem__, both[0], num_envs=4, seed=0, purpose="act", first_env=0)
    seats.players = torch.tensor([[0, 0], [1, 1], [0, 0], [1, 1]])
    alone = {player: PolicyActor(both[player], {"p": 2}, num_envs=4, seed=0, purpose="act") for player in (0, 1)}
    timestep = environment.reset()
    for _ in range(12):
        merged = seats.act(timestep, {"p": torch.zeros(4, 2, dtype=torch.int64)})["p"]
        theirs = {player: actor.select_actions(timestep)["p"] for player, actor in alone.items()}
        assert torch.equal(merged[0::2], theirs[0][0::2])
        assert torch.equal(merged[1::2], theirs[1][1::2])
        timestep = environment.step({"p": merged})


@pytest.mark.parametrize(
    "game", [*GAMES.values(), anything(*MASKED), anything(*MASKED, turns=True)], ids=[*GAMES, "masked", "masked turns"]
)
def test_actors_resume_in_the_middle_of_episodes(game):

    def begin():
        environment = game(EnvironmentRequest(num_envs=4))
        spec, sides = environment.spec, Sides(environment.spec)
        policies = recurrent_policies(spec)
        opponents = Everybody(spec, len(sides))
        opponents.made = {player: recurrent_policies(spec, player + 1) for player in (0, 1)}
        return environment, make_self_play_actor(spec, policies, Notebook(), sides, opponents, num_envs=4, seed=0)

    def play(environment, actor, timestep, steps):
        chosen = []
        for _ in range(steps):
            actions = actor.select_actions(timestep)
            chosen.append({key: tensor.clone() for key, tensor in actions.items()})
            timestep = environment.step(actions)
            actor.observe(actions, timestep)
        return chosen

    environment, actor = begin()
    first = environment.reset()
    actor.observe_first(first)
    play(environment, actor, first, 13)
    saved = {
        part: {key: tensor.clone() for key, tensor in getattr(actor, part)().items()}
        for part in ("state_dict", "env_state_dict")
    }
    envs = {key: tensor.clone() for key, tensor in environment.env_state_dict().items()}
    expected = play(environment, actor, environment.current(), 20)
    environment, actor = begin()
    environment.load_env_state_dict(envs)
    actor.load_state_dict(saved["state_dict"])
    actor.load_env_state_dict(saved["env_state_dict"])
    actor.observe_first(environment.current())
    for ours, theirs in zip(play(environment, actor, environment.current(), 20), expected, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
