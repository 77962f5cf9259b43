"""From words of a command line to values of options, and to the dataclass that has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Final, get_origin, get_type_hints

from marl.errors import InputError, closest
from marl.launchers.command_line.kinds import Switch, ValueRefused
from marl.launchers.command_line.lists_and_maps import Several
from marl.launchers.command_line.options import Option, OptionPath, default_of, option_name, section_type

_OPTION_LIKE: Final = re.compile(r"[-–—]+(?!inf\b|nan\b)[A-Za-z]")
_OTHER_NAMES: Final = {
    "lr": "learning-rate",
    "gamma": "discount",
    "n-envs": "num-envs",
    "timesteps": "steps",
    "total-timesteps": "steps",
    "output": "out",
    "gpu": "device",
    "cuda": "device",
    "procs": "ranks",
    "np": "ranks",
    "workers": "ranks",
    "per": "priorities",
    "prioritized-replay": "priorities",
    "lstm": "recurrent",
    "rnn": "recurrent",
    "gru": "recurrent",
    "parameter-sharing": "sharing",
    "entropy": "entropy-coef",
}
"""Names of options in other programs, for suggestions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An option on a command line."""

    option: Option | None
    """None for one that is not known, and for words that belong to no option."""
    word: str
    """The option as it was typed, without a value behind ``=``; empty for words that belong to no option."""
    words: list[str]
    """Its value."""
    typed: list[str]
    """All of its words, as they were typed."""
    on: bool = True
    """False for the forms that turn a switch off."""


def split_words(argv: Sequence[str], options: Sequence[Option]) -> list[Given]:
    """Divides a command line into options with their values, and words that belong to none."""
    names = {name: (option, on) for option in options if not option.positional for name, on in option.names().items()}
    found: list[Given] = []
    start = 0
    while start < len(argv):
        word, equals, value = argv[start].partition("=")
        if not _OPTION_LIKE.match(word):
            found.append(Given(option=None, word="", words=[argv[start]], typed=[argv[start]]))
            start += 1
            continue
        end = start + 1
        while end < len(argv) and not _OPTION_LIKE.match(argv[end]):
            end += 1
        option, on = names.get(word.replace("_", "-"), (None, True))
        words = [value] if equals else []
        behind = list(argv[start + 1 : end])
        count = 0
        if option is not None and on and (words or behind):
            count = max(0, option.kind.count([*words, *behind]) - len(words))
            words += behind[:count]
        found.append(Given(option=option, word=word, words=words, typed=list(argv[start : start + 1 + count]), on=on))
        start += 1 + count
    return found


def read_values(argv: Sequence[str], options: Sequence[Option], program: str) -> dict[OptionPath, Any]:
    """Reads the values that a command line gives; the last one where an option is given twice.

    Args:
        argv: the command line, behind the program.
        options: those that there are.
        program: the command, for messages.

    Raises:
        InputError: an option is unknown (the nearest is named), or its value is no such value; one line.
    """
    given = split_words(argv, options)
    for one in given:
        if one.word and one.option is None:
            raise InputError(f"there is no option {one.word}{nearest_option(one.word, options)}")
    values: dict[OptionPath, Any] = {}
    places = [option for option in options if option.positional]
    before: Given | None = None
    for one in given:
        if one.option is not None:
            values[one.option.path] = _read(one)
        elif places:
            place = places[0]
            if isinstance(place.kind, Several):
                values[place.path] = (*values.get(place.path, ()), place.kind.item.read(one.words))
            else:
                values[place.path] = places.pop(0).kind.read(one.words)
        else:
            raise InputError(_surplus(one, before, given, program, options))
        before = one
    for option in options:
        if option.default is MISSING and option.path not in values:
            if isinstance(option.kind, Several):
                values[option.path] = ()
            else:
                raise InputError(f"{program} needs {option.name}; {program} --help tells more")
    return values


def _read(given: Given) -> Any:
    option = given.option
    assert option is not None
    if not given.on:
        if given.words or "=" in given.typed[0]:
            raise InputError(f"{given.word} takes no value; leave out {given.typed[0].partition('=')[2]!r}")
        return False
    if not given.words and not isinstance(option.kind, Switch):
        raise InputError(f"{option.name} needs a value: {option.kind.wanted}")
    try:
        return option.kind.read(given.words)
    except ValueRefused as refusal:
        more = f"; {refusal}" if str(refusal) else ""
        raise InputError(f"{option.name} takes {option.kind.wanted}, not {_quoted(given.words)}{more}") from None


def _quoted(words: Sequence[str]) -> str:
    return repr(" ".join(words))


def _surplus(one: Given, before: Given | None, given: Sequence[Given], program: str, options: Sequence[Option]) -> str:
    """The message about a word that nothing takes."""
    if before is not None and before.option is not None:
        option, first = before.option, given.index(one)
        rest: list[str] = []
        for later in given[first:]:
            if later.word:
                break
            rest += later.words
        if isinstance(option.kind, Switch):
            taken = f"{option.name} takes {option.kind.wanted}" if before.on else f"{before.word} takes no value"
            return f"{taken}, not {_quoted(rest)}"
        return f"{option.name} takes one value, {option.kind.wanted}, not {_quoted([*before.words, *rest])}"
    if any(option.positional for option in options):
        return f"{program} has no use for {one.words[0]!r} besides the words before it"
    return f"{program} has no use for {one.words[0]!r}; its options begin with --"


def nearest_option(word: str, options: Sequence[Option]) -> str:
    """``; did you mean --steps?`` for a word that is no option; a hint at ``--help-all`` where none is like it."""
    known = [option.name for option in options if not option.positional]
    name = word.lstrip("-–—").replace("_", "-")
    # People leave out the part before the dot, so names are compared without it too.
    ends: dict[str, str] = {}
    for option in known:
        ends.setdefault(option.lstrip("-").rpartition(".")[2], option)
    last = name.rpartition(".")[2].removeprefix("no-")
    last = _OTHER_NAMES.get(last, last)
    near = f"--{name}" if f"--{name}" in known else ends.get(last)
    near = near or closest(f"--{name}", known, cutoff=0.7)
    if near is None and (end := closest(last, ends, cutoff=0.7)) is not None:
        near = ends[end]
    return "; --help-all lists all" if near is None or near == word else f"; did you mean {near}?"


def build_options(kind: Any, values: Mapping[OptionPath, Any], default: Any = None) -> Any:
    """Makes the dataclass: the values, and for what was not given the default's or the fields' own.

    Raises:
        InputError: settings are both turned off and given; or the dataclass itself refuses values.
    """
    return _build(get_origin(kind) or kind, values, default, ())


def _build(kind: type, values: Mapping[OptionPath, Any], default: Any, outer: OptionPath) -> Any:
    hints = get_type_hints(kind)
    changes: dict[str, Any] = {}
    for entry in fields(kind):
        path = (*outer, entry.name)
        before = getattr(default, entry.name) if default is not None else default_of(entry)
        section = section_type(hints[entry.name], before)
        inside = [given for given in values if given[: len(path)] == path and given != path]
        if section is None:
            if path in values:
                changes[entry.name] = values[path]
        elif values.get(path) is False:
            if inside:
                raise InputError(f"{option_name(inside[0])} is a setting of what {option_name(path)} turns off")
            changes[entry.name] = None
        elif inside or path in values:
            try:
                changes[entry.name] = _build(section, values, before, path)
            except InputError as error:
                raise InputError(_of_section(str(error), inside)) from error
    return kind(**changes) if default is None else replace(default, **changes)


def _of_section(error: str, given: Sequence[OptionPath]) -> str:
    """The message of settings that check themselves, and know nothing of options, with the options that were given."""
    return error if error.startswith("--") or not given else f"{', '.join(map(option_name, given))}: {error}"
