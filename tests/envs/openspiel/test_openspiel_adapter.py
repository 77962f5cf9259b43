"""OpenSpiel's games as environments: what agents receive in an episode is what OpenSpiel says that they won."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from marl.acting.episodes import EpisodeTracker
from marl.core import EnvironmentRequest
from marl.envs.factory import make_constructor, make_factory
from marl.envs.openspiel.games import load_game
from marl.errors import InputError
from marl.testing.environment_checks import check_environment

pyspiel = pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (extra: games)")

KINDS = {
    "turns": ("tic_tac_toe", {}),
    "a deal first": ("kuhn_poker", {"players": 3}),
    "joint moves": ("goofspiel", {"num_cards": 4}),
    "joint moves of three players": ("goofspiel", {"num_cards": 4, "players": 3}),
    "one joint move": ("matrix_pd", {}),
    "joint moves that are rewarded": ("coop_box_pushing", {}),
    "joint moves, chance, rewards of one's own": ("laser_tag", {"horizon": 50}),
    "joint and single moves": ("oshi_zumo", {"coins": 6, "size": 2}),
    "chance between moves": ("pig", {"players": 3, "winscore": 20}),
    "hidden cards, common rewards": ("tiny_hanabi", {}),
    "general sum": ("bargaining", {}),
    "one player": ("catch", {}),
    "chance of the game's own": ("negotiation", {}),
    "a game within a game": ("turn_based_simultaneous_game(game=goofspiel(num_cards=3))", {}),
}


def play(environment, episodes, *, most=2000):
    """What agents received in random episodes, and what OpenSpiel says of those."""
    random = np.random.default_rng(0)
    for episode in range(episodes):
        environment.reset(seed=episode)
        received = np.array([environment.rewards[agent] for agent in environment.possible_agents])
        moves = 0
        while not any(environment.terminations.values()) and moves < most:
            agent = environment.agent_selection
            assert environment.observation_space(agent).contains(environment.observe(agent))
            environment.step(int(random.choice(np.flatnonzero(environment.infos[agent]["action_mask"]))))
            received += [environment.rewards[agent] for agent in environment.possible_agents]
            moves += 1
        yield received, np.array(environment.game_state.returns())


@pytest.mark.parametrize(("name", "parameters"), KINDS.values(), ids=KINDS)
def test_agents_receive_what_openspiel_says_that_they_won(name, parameters):
    environment = make_constructor(f"openspiel/{name}", parameters)()
    for received, returns in play(environment, 5):
        np.testing.assert_allclose(received, returns, atol=1e-9)


@pytest.mark.parametrize("kind", ["joint moves", "joint moves that are rewarded", "chance of the game's own"])
def test_games_keep_the_promises_of_environments(kind):
    name, parameters = KINDS[kind]
    check_environment(make_factory(f"openspiel/{name}", env_kwargs=parameters))


def test_a_joint_move_is_paid_once():
    """Each step costs both of two box pushers 0.1; who stays where it is for 100 steps has -10."""
    environments = make_factory("openspiel/coop_box_pushing")(EnvironmentRequest(num_envs=2, with_state=False))
    timestep = environments.reset()
    tracker = EpisodeTracker(environments.spec, 2)
    ended = None
    while ended is None:
        timestep = environments.step({name: torch.full(step.active.shape, 3) for name, step in timestep.groups.items()})
        ended = tracker.track(timestep)
    np.testing.assert_allclose(ended.returns, -10, atol=1e-5)
    assert ended.lengths.tolist() == [200, 200]
    environments.close()


def test_players_of_a_joint_move_are_asked_in_their_order():
    environment = make_constructor("openspiel/repeated_game(stage_game=matrix_mp(),num_repetitions=3)")()
    environment.reset(seed=0)
    asked = []
    while not any(environment.terminations.values()):
        asked.append(environment.agent_selection)
        environment.step(0)
    assert asked == ["player_0", "player_1"] * 3
    # Pennies that match are the first player's.
    assert environment.game_state.returns() == [3.0, -3.0]


def test_nothing_is_received_in_the_middle_of_a_joint_move():
    environment = make_constructor("openspiel/matrix_pd")()
    environment.reset(seed=0)
    environment.step(1)
    assert environment.rewards == {"player_0": 0.0, "player_1": 0.0}
    environment.step(0)
    # Who defects against one that cooperates has 10, the other 0.
    assert environment.rewards == {"player_0": 10.0, "player_1": 0.0}


@pytest.mark.parametrize("name", ["kuhn_poker", "negotiation", "stones_and_gems"])
def test_an_episode_follows_from_its_seed(name):
    first, again = (make_constructor(f"openspiel/{name}")() for _ in range(2))
    for (one, _), (other, _) in zip(play(first, 4, most=30), play(again, 4, most=30), strict=True):
        np.testing.assert_array_equal(one, other)
    first.reset(seed=1), again.reset(seed=1)
    assert str(first.game_state) == str(again.game_state)


def test_a_move_that_is_not_legal_is_refused_in_plain_words():
    environment = make_constructor("openspiel/tic_tac_toe")()
    environment.reset(seed=0)
    environment.step(4)
    for action in (4, 9, -1, None):
        with pytest.raises(ValueError, match=f"player_1 chose {action}, which is not legal"):
            environment.step(action)


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("mfg_crowd_modelling", {}, "mean-field game"),
        ("mfg_garnet", {}, "mean-field game"),
        ("cribbage", {}, "no tensors"),
        ("crossword", {}, "no actions"),
        ("start_at", {}, "its parameters, by --env-kwargs, are game, history"),
        ("nfg_game", {}, "cannot be made without parameters"),
        ("kuhn_poker", {"players": 11}, "cannot be made with"),
        ("kuhn_poker", {"players": "many"}, "cannot be made with"),
        ("kuhn_poker", {"player": 3}, "did you mean 'players'"),
        ("kuhn_poker(player=3)", {}, "Unknown parameter 'player'"),
        ("kuhn_poker", {"render_mode": "human"}, "it takes players"),
    ],
)
@pytest.mark.parametrize("backend", ["pettingzoo", "batched"])
def test_games_that_cannot_be_learned_are_refused_in_one_line(capfd, name, parameters, says, backend):
    with pytest.raises(InputError, match=says) as refusal:
        make_factory(f"openspiel/{name}", env_kwargs=parameters, backend=backend)(EnvironmentRequest(num_envs=1))
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr().err == ""


def test_exploitability_refuses_them_too():
    for game, says in (("mfg_garnet", "mean-field"), ("matrix_rps", "simultaneous"), ("tic_tac_toe", "hidden cards")):
        with pytest.raises(InputError, match=says):
            load_game(f"openspiel/{game}")


def playable():
    """All games that are not refused, for the slow test; made when it runs."""
    for kind in pyspiel.registered_games():
        with suppress(InputError):
            yield make_constructor(f"openspiel/{kind.short_name}")()


@pytest.mark.slow
def test_every_game_pays_what_openspiel_says():
    names = []
    for environment in playable():
        name = environment.metadata["name"]
        for received, returns in play(environment, 5):
            np.testing.assert_allclose(received, returns, atol=1e-6, err_msg=name)
        names.append(name)
    assert len(names) >= 95, sorted(names)
