"""Small pieces of text for messages, and the reading of options."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from marl.errors import InputError

OptionsT = TypeVar("OptionsT")


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the nearest known word, or all of them where none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(words)}"


def read_options(kind: type[OptionsT] | Any, words: Sequence[str], *, program: str, **settings: Any) -> OptionsT:
    """Reads a dataclass from command-line words; ``--help`` prints and exits.

    Raises:
        InputError: an option is unknown (the nearest is named) or its value cannot be read; one line.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options: OptionsT = tyro.cli(kind, args=list(words), prog=program, **settings)
            return options
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise InputError(_one_line(said.getvalue())) from None


def _one_line(box: str) -> str:
    """What tyro says in a framed box, without the frame."""
    sections: list[str] = [""]
    for line in box.splitlines():
        if "────" in line:
            sections.append("")
        else:
            sections[-1] += " " + line.strip("│ ")
    said, *others = [re.sub(r"\s+", " ", section).strip() for section in sections if section.strip()]
    near = re.search(r"Perhaps you meant: (--\S+)", " ".join(others))
    return said.rstrip(".") + (f"; did you mean {near[1]}?" if near else "")
