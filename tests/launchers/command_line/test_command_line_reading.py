"""One way of giving values, in all options of all commands."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from commands import all_commands

from marl.errors import InputError
from marl.launchers.command_line.kinds import SECTION, Choice, Count, File, Kind, Maybe, Number, Switch, Text
from marl.launchers.command_line.lists_and_maps import ChoiceOrPairs, Pairs, Several
from marl.launchers.command_line.options import ObjectText, Option, Positional, find_options
from marl.launchers.command_line.reading import build_options, read_values
from marl.launchers.console import read_options
from marl.replay.selectors import Priorities

AGENTS = {"agent_0": "a", "agent_1": "b"}


def forms(kind: Kind) -> list[tuple[object, list[list[str]]]]:
    """Values of a kind, each with all forms in which it may be typed."""
    if isinstance(kind, Maybe):
        return [*forms(kind.kind), (None, [["none"], ["None"]])]
    if isinstance(kind, Count):
        return [(1_500_000, [["1500000"], ["1_500_000"], ["1.5e6"], ["1500k"], ["1.5M"]]), (-3, [["-3"]])]
    if isinstance(kind, Number):
        return [(0.0005, [["0.0005"], ["5e-4"], [".0005"]]), (-2.0, [["-2"], ["-2e0"]])]
    if isinstance(kind, Choice):
        return [(choice, [[choice]]) for choice in kind.choices]
    if isinstance(kind, ChoiceOrPairs):
        return forms(kind.choice) + forms(kind.pairs)
    if isinstance(kind, File):
        return [(Path("a folder/run=1"), [["a folder/run=1"]])]
    if isinstance(kind, Text):
        return [("two words", [["two words"]]), ("a=b", [["a=b"]])]
    if isinstance(kind, Several):
        words, values = ["64", "32"], (64, 32)
        if isinstance(kind.item, Text):
            words, values = ["a=x", "random"], ("a=x", "random")
        listed = ", ".join(f'"{word}"' if isinstance(kind.item, Text) else word for word in words)
        plain = ",".join(words)
        return [(values, [words, [plain], [f"[{listed}]"], [f"({listed})"], f"[{listed}]".split(), [f"[{plain}]"]])]
    assert isinstance(kind, Pairs)
    json = '{"agent_0": "a", "agent_1": "b"}'
    pairs = [
        ["agent_0=a", "agent_1=b"],
        ["agent_0=a,agent_1=b"],
        ["agent_0", "a", "agent_1", "b"],
        [json],
        json.split(),
    ]
    values = [(json if kind.as_json else AGENTS, pairs)]
    if not kind.texts:
        values.append(('{"N": 5, "x": [1, 2], "on": true}', [["N=5", "x=[1, 2]", "on=True"]]))
    return values


def typed(option: Option) -> list[tuple[object, list[str]]]:
    """Command lines that give an option, each with the value that it must have."""
    name = option.name
    if isinstance(option.kind, Switch):
        *outer, last = name[2:].split(".")
        on = [[name], [f"{name}=True"], *([name, word] for word in ("true", "True", "1", "yes", "on"))]
        off = [[f"{name}=False"], *([name, word] for word in ("false", "False", "0", "no", "off"))]
        off += [[f"--no-{name[2:]}"], ["--" + ".".join([*outer, f"no-{last}"])], [f"--no-{name[2:]}".replace("-", "_")]]
        off = [[f"--{line[0].lstrip('_-')}", *line[1:]] for line in off]
        return [(True, line) for line in on] + [(False, line) for line in off]
    lines = []
    for value, ways in forms(option.kind):
        for words in ways:
            lines.append((value, [name, *words]))
            lines.append((value, [f"{name}={words[0]}", *words[1:]]))
            lines.append((value, [name.replace("-", "_").replace("__", "--", 1), *words]))
    return lines


COMMANDS = all_commands(each="configuration")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_takes_every_form_of_its_values(command):
    options = find_options(*COMMANDS[command])
    needed = [option.path[-1] for option in options if option.positional and option.default is MISSING]
    named = [option for option in options if not option.positional]
    for option in named:
        for value, line in typed(option):
            # Another option behind it, and one before: the order does not matter.
            other = next(one for one in named if one.path[0] != option.path[0])
            around = typed(other)[0][1]
            for argv in ([*line], [*around, *line], [*line, *around]):
                read = read_values([*needed, *argv], options, "marl")
                assert read[option.path] == value, (argv, read)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_read_becomes_the_dataclass(command):
    kind, default = COMMANDS[command]
    options = find_options(kind, default)
    needed = {option.path: "x" for option in options if option.positional and option.default is MISSING}
    for option in options:
        if option.positional or option.kind is SECTION:
            continue
        for value in {repr(value): value for value, _ in typed(option)}.values():
            try:
                built = build_options(kind, {**needed, option.path: value}, default)
            except InputError:
                assert len(option.path) > 1  # some dataclasses check their values themselves
                continue
            for name in option.path:
                built = getattr(built, name)
            assert built == value, option.path


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    sizes: tuple[int, ...] = (1, 2)
    priorities: Priorities | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    run: Positional[Path]
    more: Positional[tuple[Path, ...]] = ()
    inner: Inner = field(default_factory=Inner)
    count: int = 1
    kind: Literal["one", "other"] = "one"
    fast: bool = False
    kwargs: ObjectText = "{}"


def read(*argv: str) -> Outer:
    return read_options(Outer, argv, program="marl p")


def test_settings_that_may_be_absent_are_a_switch_and_their_own_options():
    assert read("r").inner.priorities is None
    for switch in ([], ["true"], ["yes"]):
        assert read("r", "--inner.priorities", *switch).inner.priorities == Priorities()
    for argv in (["--inner.priorities.alpha", "0.7"], ["--inner.priorities.alpha=0.7", "--inner.priorities"]):
        assert read("r", *argv, "--count", "2").inner.priorities == Priorities(alpha=0.7)
        assert read("--count", "2", *argv, "--fast", "r").inner.priorities == Priorities(alpha=0.7)
    default = Outer(run=Path("r"), inner=Inner(priorities=Priorities(beta=0.5), rate=3.0))
    for argv, expected in (
        ([], default.inner.priorities),
        (["--inner.priorities.alpha", "0.7"], Priorities(alpha=0.7, beta=0.5)),
        (["--inner.no-priorities"], None),
        (["--no-inner.priorities"], None),
        (["--inner.priorities", "none"], None),
    ):
        given = read_options(Outer, ["r", *argv], program="p", default=default)
        assert given.inner == Inner(priorities=expected, rate=3.0)
    with pytest.raises(InputError, match=r"^--inner.priorities.alpha is a setting of what --inner.pr"):
        read("r", "--inner.no-priorities", "--inner.priorities.alpha", "1")


def test_places_and_options_may_stand_in_any_order():
    run, *more = (Path(name).absolute() for name in ("a", "b", "c d"))
    expected = Outer(run=run, more=tuple(more), fast=True, kwargs='{"N": 3}')
    assert read("a", "b", "c d", "--fast", "--kwargs", "N=3") == expected
    assert read("--kwargs", "N=3", "a", "--fast", "b", "c d") == expected
    assert read("a", '--kwargs={"N": 3}', "b", "--fast", "true", "c d") == expected


def test_the_last_of_two_counts():
    assert read("a", "--count", "1", "--count", "2").count == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--count 2.5", "--count takes a whole number, for instance 1000 or 1e6, not '2.5'"),
        ("--count 1e-3", "--count takes a whole number, for instance 1000 or 1e6, not '1e-3'"),
        ("--count 1e999999999", "--count takes a whole number, for instance 1000 or 1e6, not '1e999999999'"),
        ("--count nan", "--count takes a whole number, for instance 1000 or 1e6, not 'nan'"),
        ("--count inf", "--count takes a whole number, for instance 1000 or 1e6, not 'inf'"),
        ("--count M", "--count takes a whole number, for instance 1000 or 1e6, not 'M'"),
        ("--count=", "--count takes a whole number, for instance 1000 or 1e6, not ''"),
        ("--count", "--count needs a value: a whole number, for instance 1000 or 1e6"),
        ("--count --fast", "--count needs a value: a whole number, for instance 1000 or 1e6"),
        ("--inner.rate nan", "--inner.rate takes a number, for instance 0.5 or 5e-4, not 'nan'"),
        ("--inner.rate fast", "--inner.rate takes a number, for instance 0.5 or 5e-4, not 'fast'"),
        ("--inner.sizes 64 wide", "--inner.sizes takes one or more whole numbers, for instance 64 64 or [64, 64]"),
        ("--fast=maybe", "--fast takes true or false, or nothing for true, not 'maybe'"),
        ("--no-fast=1", "--no-fast takes no value; leave out '1'"),
        ("--kind Other", "--kind takes one or other, not 'Other'; did you mean 'other'?"),
        ("--kind third", "--kind takes one or other, not 'third'"),
        ("--kwargs N", "--kwargs takes pairs or a JSON object, for instance N=5 name=abc or '{"),
        ("--kwargs N=1 N=2", "'N' is named twice"),
        ('--kwargs {"N":1,"N":2}', "'N' is named twice"),
        ('--kwargs {"N":NaN}', "NaN is no number"),
        ("--cuont 2", "there is no option --cuont; did you mean --count?"),
        ("--rate 2", "there is no option --rate; did you mean --inner.rate?"),
        ("--lr 2", "there is no option --lr; --help-all lists all"),
        ("-n 5", "there is no option -n; --help-all lists all"),
        ("–count 5", "there is no option –count; did you mean --count?"),
        ("—count 5", "there is no option —count; did you mean --count?"),
        ("--prioritized-replay", "there is no option --prioritized-replay; did you mean --inner.priorities?"),
        ("--inner.prioritized", "there is no option --inner.prioritized; did you mean --inner.priorities?"),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_the_option(argv, message):
    with pytest.raises(InputError) as refusal:
        read("r", *argv.split())
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_words_that_nothing_takes_are_told():
    kind = find_options(Inner)
    for argv, message in (
        (["5"], "p has no use for '5'; its options begin with --"),
        (["--rate", "1", "2", "3"], "--rate takes one value, a number, for instance 0.5 or 5e-4, not '1 2 3'"),
        (["--priorities", "maybe"], "--priorities takes true or false, or nothing for true, not 'maybe'"),
        (["--no-priorities", "x"], "--no-priorities takes no value, not 'x'"),
    ):
        with pytest.raises(InputError) as refusal:
            read_values(argv, kind, "p")
        assert str(refusal.value) == message


@pytest.mark.parametrize("command", COMMANDS)
def test_a_suggestion_is_an_option_and_not_the_word_that_was_typed(command):
    options = find_options(*COMMANDS[command])
    known = [option.name for option in options if not option.positional]
    for word in [*known, "--lr", "--gamma", "--gpu", "--prioritized-replay", "--out", "--output", "--xyz"]:
        for typed_word in (word, f"{word}x", word[:-1], "--" + word.rpartition(".")[2].lstrip("-")):
            try:
                read_values([typed_word], options, "p")
            except InputError as error:
                _, found, near = str(error).partition("did you mean --")
                if found:
                    assert f"--{near.rstrip('?')}" in known
                    assert f"--{near.rstrip('?')}" != typed_word
