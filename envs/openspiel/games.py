"""OpenSpiel's games by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marl.envs.imports import import_module
from marl.envs.suites import OPENSPIEL, split_name
from marl.errors import InputError, nearest


def import_openspiel(env: str, game: str) -> Any:
    """The module ``pyspiel``, which has the game of an environment ``openspiel/GAME``.

    Raises:
        InputError: OpenSpiel has no such game (the nearest is suggested), or is not installed.
    """
    pyspiel = import_module(env, OPENSPIEL.packages[0], install=OPENSPIEL.install)
    known = pyspiel.registered_names()
    if game.partition("(")[0] not in known:
        hint = nearest(game, known, prefix=OPENSPIEL.name(""), list_all=False)
        raise InputError(f"{OPENSPIEL.title} has no game {game!r}{hint}")
    return pyspiel


def load_game(env: str, env_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The OpenSpiel game of an environment ``openspiel/GAME``.

    Raises:
        InputError: it is no game of OpenSpiel, one of perfect information, or OpenSpiel is not installed.
    """
    found = split_name(env)
    if found is None or found[0] is not OPENSPIEL:
        raise InputError(
            f"the exploitability of {env} cannot be computed: it is exact, for OpenSpiel's games such as "
            "openspiel/kuhn_poker; --best-response STEPS learns a lower bound"
        )
    name = found[1]
    pyspiel = import_openspiel(env, name)
    game = pyspiel.load_game(name, dict(env_kwargs or {}))
    kind = game.get_type()
    cannot = f"the exploitability of {env} cannot be computed"
    if kind.dynamics != pyspiel.GameType.Dynamics.SEQUENTIAL:
        raise InputError(f"{cannot}: its moves are simultaneous")
    if kind.information != pyspiel.GameType.Information.IMPERFECT_INFORMATION:
        raise InputError(f"{cannot}: it is for games with hidden cards, whose agents see their information states")
    if not kind.provides_information_state_tensor:
        raise InputError(f"{cannot}: OpenSpiel shows no information states of it")
    return game
