"""Games."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marl.errors import InputError, nearest


def load_game(env: str, env_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The OpenSpiel game of an environment ``openspiel/GAME``.

    Raises:
        InputError: it is no game of OpenSpiel, one of perfect information, or OpenSpiel is not installed.
    """
    suite, _, name = env.partition("/")
    if suite != "openspiel":
        raise InputError(
            f"the exploitability of {env} cannot be computed: it is exact, for OpenSpiel's games such as "
            "openspiel/kuhn_poker; --best-response STEPS learns a lower bound"
        )
    try:
        import pyspiel
    except ImportError as error:
        raise InputError(f"{env} needs a package that is not installed: pip install open-spiel") from error
    known = pyspiel.registered_names()
    if name.partition("(")[0] not in known:
        raise InputError(f"OpenSpiel has no game {name!r}{nearest(name, known)}")
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
