"""Settings tuned for an algorithm on an environment: plain functions from the defaults to what works better.

``marl train`` takes the recipe of its pair, says so in its first line, and writes its name into ``config.json``.
``--recipe none`` keeps the defaults; single options override either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from launchers.settings import Settings, changed
from launchers.text import nearest
from marl.errors import InputError

Recipe = Callable[[Settings[Any]], Settings[Any]]


def ppo_spread(settings: Settings[Any]) -> Settings[Any]:
    """Simple spread: what an agent does matters for a few steps only, and a short horizon learns it faster."""
    return changed(settings, algorithm={"discount": 0.9})


RECIPES: Final[Mapping[tuple[str, str], Recipe]] = {
    ("mappo", "mpe2.simple_spread_v3"): ppo_spread,
    ("ippo", "mpe2.simple_spread_v3"): ppo_spread,
}


def find_recipe(algorithm: str, env: str, wanted: str | None) -> Recipe | None:
    """The recipe called ``wanted``, or the pair's own where nothing is wanted; None for plain defaults."""
    if wanted == "none":
        return None
    if wanted is None:
        return RECIPES.get((algorithm, env))
    named = {recipe.__name__: recipe for recipe in RECIPES.values()}
    if wanted not in named:
        raise InputError(f"there is no recipe {wanted!r}{nearest(wanted, named)}; or none for plain defaults")
    return named[wanted]
