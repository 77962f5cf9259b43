"""Help: options in groups by topic, those that are used most first."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Final

from marl.launchers.command_line.options import Option
from marl.launchers.command_line.topics import MOST_USED, TOPICS

HELP_WORDS: Final = ("-h", "--help", "--help-all")
_FEW: Final = 24
"""Options up to which all are shown at once."""
_INDENT: Final = 34
_EXAMPLES: Final = {
    "algorithm.sharing": "agent_0=runner agent_1=runner agent_2=chaser",
    "env_kwargs": "N=5 local_ratio=0.5",
    "teams": "red_0=red red_1=red blue_0=blue",
}


def wants_help(argv: Sequence[str]) -> bool:
    """Returns whether a command line asks for help."""
    return any(word in HELP_WORDS for word in argv)


def help_text(program: str, options: Sequence[Option], *, everything: bool) -> str:
    """Explains a command's options.

    Args:
        program: the command, with the words before its options.
        options: all of them.
        everything: whether all options are listed, with all that is said about each; otherwise the most used.
    """
    width = min(120, max(80, shutil.get_terminal_size((110, 24)).columns))
    named = [option for option in options if not option.positional]
    shown = named
    if not everything and len(named) > _FEW:
        shown = [option for option in named if ".".join(option.path) in MOST_USED]
    left = len(named) - len(shown)
    places = [option for option in options if option.positional]
    lines = [" ".join(["usage:", program, *(_place(option) for option in places), "[OPTIONS]"]), ""]
    for option in places:
        lines += _entry(option.name, option, width, full=True)
    groups: dict[str, list[Option]] = {}
    for option in shown:
        groups.setdefault(topic_of(option), []).append(option)
    for name in [*TOPICS, *(name for name in groups if name not in TOPICS)]:
        if name in groups:
            lines += ["", f"{name}:"] if len(groups) > 1 else [""]
            members = TOPICS.get(name, ())
            for option in sorted(groups[name], key=lambda option: _place_in(members, option)):
                lines += _entry(_typed(option), option, width, full=everything or len(named) <= _FEW)
    lines += ["", "Counts may be typed as 1e6, lists as 64 64 or '[64, 64]', maps as a=1 b=2 or JSON, and switches are"]
    lines += ["turned off as in --no-resume."]
    if left:
        lines.append(f"{left} more options: {program} --help-all")
    return "\n".join(lines)


def topic_of(option: Option) -> str:
    """The group in which help shows an option."""
    words = (".".join(option.path[:end]) for end in range(len(option.path), 0, -1))
    for word in words:
        for topic, members in TOPICS.items():
            if word in members:
                return topic
    return "more of the algorithm" if option.path[0] == "algorithm" else "more"


def _place_in(members: Sequence[str], option: Option) -> int:
    path = ".".join(option.path)
    return members.index(path) if path in members else len(members)


def _place(option: Option) -> str:
    return option.name if option.default is MISSING else f"[{option.name}]"


def _typed(option: Option) -> str:
    metavar = option.kind.metavar
    if len(metavar) > _INDENT and "|" in metavar:
        metavar = "WORD"
    return f"{option.name} {metavar}".rstrip()


def _entry(typed: str, option: Option, width: int, *, full: bool) -> list[str]:
    text = option.description
    if not full:
        text = re.split(r"(?<=[.:;])\s", text)[0].rstrip(".:;")
    if typed.endswith(" WORD"):
        text += f" One of {option.kind.wanted}."
    default = "" if option.default in (MISSING, None) else option.kind.show(option.default)
    if default:
        text += f" [{default}]"
    example = _EXAMPLES.get(".".join(option.path))
    if example is not None and full:
        text += f" For instance {option.name} {example}."
    lines = textwrap.wrap(text, width - _INDENT, break_on_hyphens=False)
    head = f"  {typed}"
    if len(head) > _INDENT - 2:
        return [head, *(" " * _INDENT + line for line in lines)]
    first = lines[0] if lines else ""
    return [f"{head:<{_INDENT}}{first}".rstrip(), *(" " * _INDENT + line for line in lines[1:])]
