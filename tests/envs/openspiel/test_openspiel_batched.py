"""Tables of OpenSpiel's games against the unmodified ones; skipped where OpenSpiel is not installed."""

import numpy as np
import pytest
import torch

from marl.acting.episodes import EpisodeTracker
from marl.acting.random_actions import RandomActions
from marl.core import EnvironmentRequest
from marl.envs.factory import make_factory
from marl.envs.openspiel.game_tree import CHANCE, TERMINAL, read_tree
from marl.errors import InputError
from marl.testing.environment_checks import check_environment

pyspiel = pytest.importorskip("pyspiel", reason="OpenSpiel is not installed (extra: games)")

GAMES = [("kuhn_poker", {}), ("kuhn_poker", {"players": 3}), ("leduc_poker", {}), ("liars_dice", {"dice_sides": 2})]


def make(name, num_envs=4, *, sharing="spaces", seed=0, with_state=True, **parameters):
    factory = make_factory(f"openspiel/{name}", env_kwargs=parameters, backend="batched")
    return factory(EnvironmentRequest(num_envs=num_envs, seed=seed, sharing=sharing, with_state=with_state))


@pytest.mark.parametrize(("name", "parameters"), GAMES, ids=str)
def test_tables_keep_the_promises_of_environments(name, parameters):
    check_environment(make_factory(f"openspiel/{name}", env_kwargs=parameters, backend="batched"))


@pytest.mark.parametrize(("name", "nodes", "information_states"), [("kuhn_poker", 58, 12), ("leduc_poker", 9457, 936)])
def test_trees_have_as_many_histories_and_information_states_as_openspiel_says(name, nodes, information_states):
    # Lanctot et al. 2019, "OpenSpiel", and its get_all_states.
    tree = read_tree(pyspiel.load_game(name))
    assert len(tree.mover) == nodes
    moving = tree.mover >= 0
    seen = tree.information[moving].gather(1, tree.mover[moving].unsqueeze(1))
    assert len(seen.unique()) == information_states
    ends = tree.mover == TERMINAL
    assert torch.equal(tree.returns[~ends], torch.zeros_like(tree.returns[~ends]))
    assert torch.equal(tree.returns.sum(1), torch.zeros(nodes))
    assert (tree.mover[tree.outcomes[tree.thresholds <= 1]] != CHANCE).all()


@pytest.mark.parametrize(
    ("name", "sharing", "parameters"),
    [
        ("kuhn_poker", "spaces", {}),
        ("kuhn_poker", "none", {"players": 3}),
        ("leduc_poker", "spaces", {}),
        ("leduc_poker", {"player_0": "second", "player_1": "first"}, {}),
    ],
    ids=str,
)
def test_every_step_shows_what_the_unmodified_game_shows(name, sharing, parameters):
    """The same actions in both; chance in the table is asked again until it deals what the game dealt."""
    request = EnvironmentRequest(num_envs=1, sharing=sharing, with_state=False)
    table = make(name, 1, sharing=sharing, with_state=False, **parameters)
    game = make_factory(f"openspiel/{name}", env_kwargs=parameters)(request)
    assert table.spec == game.spec
    numbers = numbering(pyspiel.load_game(name, parameters))
    state = game._environments[0].unwrapped
    choose = RandomActions(game.spec, num_envs=1)

    def until_dealt_alike(step):
        saved = table.env_state_dict()
        for attempt in range(3000):
            ours = step()
            if table.env_state_dict()["node"].item() == numbers[tuple(state.game_state.history())]:
                return ours
            table.load_env_state_dict({**saved, "step": saved["step"] + attempt + 1})
        raise AssertionError("chance never deals these cards")

    theirs, episodes = game.reset(), 0
    ours = until_dealt_alike(table.reset)
    for _ in range(70):
        assert torch.equal(ours.first, theirs.first)
        assert (ours.final is None) == (theirs.final is None)
        for group in game.spec.groups:
            mine, other = ours.groups[group.name], theirs.groups[group.name]
            for field in ("observations", "active", "rewards", "terminated", "truncated"):
                assert torch.equal(getattr(mine, field), getattr(other, field)), field
            assert torch.equal(mine.action_masks[mine.active], other.action_masks[mine.active])
            if theirs.final is not None:
                mine, other = ours.final.groups[group.name], theirs.final.groups[group.name]
                assert torch.equal(mine.observations, other.observations)
        episodes += theirs.final is not None
        actions = choose(theirs)
        theirs = game.step(actions)
        ours = until_dealt_alike(lambda: table.step(actions))  # noqa: B023 (called at once)
    assert episodes > 8


_NUMBERS = {}


def numbering(game):
    """Histories in the order in which a tree is walked: breadth first."""
    if str(game) not in _NUMBERS:
        states = [game.new_initial_state()]
        for state in states:
            states += [state.child(action) for action in (state.legal_actions() if not state.is_terminal() else [])]
        _NUMBERS[str(game)] = {tuple(state.history()): number for number, state in enumerate(states)}
    return _NUMBERS[str(game)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [*GAMES, *((name, {}) for name in ("tiny_hanabi", "lewis_signaling", "first_sealed_auction", "sheriff"))],
    ids=str,
)
def test_a_table_pays_what_openspiel_says_of_how_the_game_ended(name, parameters):
    """Zero-sum, common and general rewards, of two players and more, with deals first."""
    envs = 32
    table, tree = make(name, envs, with_state=False, **parameters), read_tree(pyspiel.load_game(name, parameters))
    tracker, act = EpisodeTracker(table.spec, envs), RandomActions(table.spec, num_envs=envs)
    histories = {number: history for history, number in numbering(pyspiel.load_game(name, parameters)).items()}
    timestep, ended = table.reset(), 0
    while ended < 100:
        before, actions = table.env_state_dict()["node"], act(timestep)
        (chosen,) = actions.values()
        timestep = table.step(actions)
        over = tracker.track(timestep)
        for env in [] if over is None else over.envs.tolist():
            node = int(before[env])
            node = int(tree.children[node, chosen[env, tree.mover[node]]])
            ends = [node] if int(tree.mover[node]) == TERMINAL else tree.outcomes[tree.chance[node]].tolist()
            received = over.returns[over.envs.tolist().index(env)].numpy()
            assert any(np.allclose(received, returns_after(name, parameters, histories[end])) for end in ends)
            ended += 1


def returns_after(name, parameters, history):
    state = pyspiel.load_game(name, parameters).new_initial_state()
    for action in history:
        state.apply_action(action)
    return state.returns()


def test_cards_are_dealt_evenly_and_independently_of_one_another():
    envs = 6000
    environment = make("kuhn_poker", envs)
    deals = []
    for _ in range(2):
        # One-hot player, one-hot card, then bets: both players' information states.
        state = environment.reset().state.view(envs, 2, 11)
        cards = state[:, :, 2:5].argmax(-1)
        assert (cards[:, 0] != cards[:, 1]).all()
        deals.append(cards[:, 0] * 3 + cards[:, 1])
    for deal in deals:
        counts = torch.bincount(deal, minlength=9)[[1, 2, 3, 5, 6, 7]].double()
        # A 99.99 % quantile of chi-squared with 5 degrees of freedom is 25.7.
        assert float(((counts - envs / 6) ** 2 / (envs / 6)).sum()) < 25.7
    table = np.histogram2d(deals[0].numpy(), deals[1].numpy(), bins=9)[0]
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    # The same with 35 degrees of freedom: 78.
    assert ((table - envs / 36) ** 2 / (envs / 36)).sum() < 78


def test_random_play_earns_what_the_tree_says():
    # Kuhn, both uniform: the first player wins an eighth of a chip, by enumeration with OpenSpiel.
    environment = make("kuhn_poker", 2000)
    choose = RandomActions(environment.spec, num_envs=2000)
    timestep, total, games = environment.reset(), 0.0, 0
    for _ in range(40):
        timestep = environment.step(choose(timestep))
        total += float(timestep.groups["player"].rewards[:, 0].sum())
        games += int(timestep.first.sum())
    # Returns lie between -2 and 2: five standard errors.
    assert abs(total / games - 0.125) < 5 * 1.5 / games**0.5


def test_illegal_actions_are_refused():
    environment = make("leduc_poker")
    environment.reset()
    with pytest.raises(ValueError, match="player_0 in copy 0 chose an action that is not legal"):
        environment.step({"player": torch.zeros(4, 2, dtype=torch.int64)})  # to fold where nobody has raised
    with pytest.raises(ValueError, match="have shape"):
        environment.step({"player": torch.zeros(4, dtype=torch.int64)})
    with pytest.raises(ValueError, match="reset must be called"):
        make("leduc_poker").step({"player": torch.ones(4, 2, dtype=torch.int64)})


def test_what_was_saved_of_another_game_is_refused():
    leduc, kuhn = make("leduc_poker"), make("kuhn_poker")
    timestep = leduc.reset()
    timestep = leduc.step(RandomActions(leduc.spec, num_envs=4)(timestep))
    with pytest.raises(ValueError, match="another game"):
        kuhn.load_env_state_dict(leduc.env_state_dict())
    with pytest.raises(ValueError, match="has no seen"):
        kuhn.load_env_state_dict({"step": torch.zeros(4, dtype=torch.int64), "node": torch.zeros(4, dtype=torch.int64)})


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("matrix_rps", {}, "matrix_rps has no batched version: there are those of games with turns"),
        ("tic_tac_toe", {}, "tic_tac_toe has no batched version"),
        ("kuhn_poker", {"cards": 9}, "kuhn_poker takes no argument cards"),
        ("khun_poker", {}, "did you mean 'openspiel/kuhn_poker'"),
    ],
)
def test_games_that_are_no_tables_are_refused_in_one_line(name, parameters, message):
    with pytest.raises(InputError, match=message) as caught:
        make_factory(f"openspiel/{name}", env_kwargs=parameters, backend="batched")
    assert "\n" not in str(caught.value)


def test_large_games_are_refused_before_they_fill_the_memory():
    with pytest.raises(InputError, match=r"leduc_poker has no batched version: it has more than 1,000 histories"):
        read_tree(pyspiel.load_game("leduc_poker"), max_nodes=1000)
