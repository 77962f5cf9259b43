from dataclasses import dataclass, field
from typing import Literal

import pytest

from marl.errors import InputError, nearest
from marl.launchers.console import read_options, require_positive


@dataclass(frozen=True, kw_only=True)
class Inner:
    learning_rate: float = 1.0
    anneal_learning_rate: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    num_steps: int = 1
    kind: Literal["one", "other"] = "one"


def test_nearest_names_one_word_or_all():
    assert nearest("mapo", ["mappo", "qmix"]) == "; did you mean 'mappo'?"
    assert nearest("zzzz", ["qmix", "mappo"]) == "; there are mappo, qmix"


def test_options_are_read_with_their_defaults():
    argv = ["--inner.learning-rate", "2", "--kind", "other"]
    options = read_options(Outer, argv, program="p", default=Outer(num_steps=5))
    assert options == Outer(inner=Inner(learning_rate=2.0), kind="other", num_steps=5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--inner.learning-rat", "2"], "there is no option --inner.learning-rat; did you mean --inner.learning-rate?"),
        (["--learning-rate=2"], "there is no option --learning-rate; did you mean --inner.learning-rate?"),
        (["--step", "2"], "there is no option --step; did you mean --num-steps?"),
        (["--xyz"], "there is no option --xyz; --help-all lists all"),
        (["5"], "p has no use for '5'; its options begin with --"),
        (["--num-steps", "many"], "--num-steps takes a whole number, for instance 1000 or 1e6, not 'many'"),
        (["--num-steps"], "--num-steps needs a value: a whole number, for instance 1000 or 1e6"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(argv, message):
    with pytest.raises(InputError) as refusal:
        read_options(Outer, argv, program="p")
    assert str(refusal.value) == message


def test_choices_are_told():
    with pytest.raises(InputError, match=r"one.*other"):
        read_options(Outer, ["--kind", "third"], program="p")


def test_counts_below_one_are_refused_by_the_options_name():
    require_positive(num_envs=1, ranks=None)
    with pytest.raises(InputError, match=r"--num-envs must be at least 1, got 0"):
        require_positive(num_envs=0)
