"""OpenSpiel's games by name."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from marl.envs.imports import import_module, one_line
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


def load(name: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """An OpenSpiel game that agents can learn in.

    Args:
        name: OpenSpiel's short name, which may hold parameters: ``kuhn_poker(players=3)``.
        parameters: the game's parameters, such as ``{"players": 3}``.

    Raises:
        InputError: OpenSpiel has no such game, it does not take the parameters, or it is a mean-field game, or one
            without choices or without tensors to observe.
    """
    env, parameters = OPENSPIEL.name(name), dict(parameters or {})
    pyspiel = import_openspiel(env, name)
    short_name = name.partition("(")[0]
    kind = next(kind for kind in pyspiel.registered_games() if kind.short_name == short_name)
    if kind.dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
        raise InputError(
            f"{env} is a mean-field game: its rewards follow from how a whole population plays, which no environment "
            "of single agents has"
        )
    takes = sorted(kind.parameter_specification)
    if unknown := sorted(set(parameters) - set(takes)):
        hint = nearest(unknown[0], takes, list_all=False) if takes else ""
        known = f"it takes {', '.join(takes)}" if takes else "it takes none"
        raise InputError(f"{env} takes no argument {', '.join(unknown)}{hint}; {known}")
    try:
        with _told_in_exceptions():
            game = pyspiel.load_game(name, parameters) if parameters else pyspiel.load_game(name)
            actions = game.num_distinct_actions()
    except (RuntimeError, TypeError, LookupError) as error:  # a RuntimeError is pyspiel.SpielError
        reason = one_line(error).removeprefix("SpielError: ")
        needs = "" if parameters else f"; its parameters, by --env-kwargs, are {', '.join(takes)}"
        given = f"with {parameters}" if parameters else "without parameters"
        raise InputError(f"{env} cannot be made {given}: {reason[:200]}{needs}") from error
    # The game's own kind: a transformation's is that of the game in it.
    kind = game.get_type()
    if kind.dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
        raise InputError(f"{env} is a mean-field game: its rewards follow from how a whole population plays")
    if not actions:
        raise InputError(f"{env} has no actions to choose from")
    if not (kind.provides_observation_tensor or kind.provides_information_state_tensor):
        raise InputError(f"{env} shows its players no tensors, only texts, which networks cannot read")
    return game


@contextmanager
def _told_in_exceptions() -> Iterator[None]:
    """Keeps what OpenSpiel's C++ writes to standard error, and passes it on where no exception says it."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
        written.seek(0)
        sys.stderr.write(written.read().decode(errors="replace"))


def load_game(env: str, env_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The OpenSpiel game of an environment ``openspiel/GAME`` whose exploitability can be computed.

    Raises:
        InputError: it is no game of OpenSpiel, one of perfect information, or OpenSpiel is not installed.
    """
    found = split_name(env)
    if found is None or found[0] is not OPENSPIEL:
        raise InputError(
            f"the exploitability of {env} cannot be computed: it is exact, for OpenSpiel's games such as "
            "openspiel/kuhn_poker; --best-response STEPS learns a lower bound"
        )
    game = load(found[1], env_kwargs)
    kind = game.get_type()
    instead = "--best-response STEPS learns a lower bound"
    cannot = f"the exploitability of {env} cannot be computed"
    if kind.dynamics != type(kind.dynamics).SEQUENTIAL:
        raise InputError(f"{cannot}: its moves are simultaneous; {instead}")
    if kind.information != type(kind.information).IMPERFECT_INFORMATION:
        raise InputError(
            f"{cannot}: it is for games with hidden cards, whose agents see their information states; {instead}"
        )
    if not kind.provides_information_state_tensor:
        raise InputError(f"{cannot}: OpenSpiel shows no information states of it; {instead}")
    return game
