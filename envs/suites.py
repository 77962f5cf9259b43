"""The suites of environments that are known by name: one table for resolving names, error texts and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Environments that come with the same packages and are named alike."""

    title: str
    packages: tuple[str, ...]
    """Imported in this order."""
    install: str
    """Arguments of ``pip install``."""
    usage: str | None = None
    """The form of its names, as help texts show it; None where another suite's says it."""
    prefix: str | None = None
    """Names begin with it and a slash; None where they have no prefix of their own."""
    modules: str | None = None
    """The package whose modules are its environments."""
    gymnasium_ids: str | None = None
    """The beginning of its ids in gymnasium's registry, in lower case."""
    time_limit: str = ""
    """The attribute of its gymnasium environments that holds their step limit."""

    def name(self, identifier: str) -> str:
        """The full name of one of its environments."""
        return identifier if self.prefix is None else f"{self.prefix}/{identifier}"


MPE: Final = Suite(
    title="MPE",
    packages=("mpe2",),
    install="mpe2",
    usage="package.module (mpe2.simple_spread_v3)",
    modules="mpe2",
)
MAGENT: Final = Suite(title="MAgent", packages=("magent2",), install="magent2")
PETTINGZOO: Final = Suite(
    title="PettingZoo",
    packages=("pettingzoo",),
    install="pettingzoo",
    usage="a PettingZoo id (classic/connect_four-v3)",
)
OPENSPIEL: Final = Suite(
    title="OpenSpiel",
    packages=("pyspiel",),
    install="open-spiel",
    usage="openspiel/GAME",
    prefix="openspiel",
)
FORAGING: Final = Suite(
    title="level-based foraging",
    packages=("lbforaging",),
    install="lbforaging",
    usage="lbf/ID",
    prefix="lbf",
    gymnasium_ids="foraging",
    time_limit="_max_episode_steps",
)
WAREHOUSE: Final = Suite(
    title="robot warehouse",
    packages=("rware",),
    install="rware",
    usage="rware/ID",
    prefix="rware",
    gymnasium_ids="rware",
    time_limit="max_steps",
)
SUITES: Final = (MPE, MAGENT, PETTINGZOO, OPENSPIEL, FORAGING, WAREHOUSE)
"""All of them; environments of other packages are named by module or callable."""


def split_name(name: str) -> tuple[Suite, str] | None:
    """The suite whose prefix a name has, and the rest of the name; None where it has no suite's prefix."""
    prefix, _, rest = name.partition("/")
    return next(((suite, rest) for suite in SUITES if rest and suite.prefix == prefix), None)


def describe_names() -> str:
    """The names that ENV can be, in one line."""
    usages = [suite.usage for suite in SUITES if suite.usage is not None]
    return f"ENV is {', '.join(usages)}, or package.module:callable."
