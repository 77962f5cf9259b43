import pytest
from commands import all_commands

from marl.launchers.command_line.help import help_text, topic_of
from marl.launchers.command_line.options import find_options
from marl.launchers.command_line.topics import MOST_USED, TOPICS

OPTIONS = {name: find_options(*both) for name, both in all_commands(each="configuration").items()}
TRAINING = [name for name in OPTIONS if " " in name]


@pytest.mark.parametrize("command", TRAINING)
def test_help_of_training_shows_the_most_used_by_topic(command):
    text = help_text("marl", OPTIONS[command], everything=False)
    shown = [line for line in text.splitlines() if line.startswith("  --")]
    assert 20 <= len(shown) <= 32
    assert all(f"\n{topic}:" in text for topic in ("run", "environment", "learning", "networks", "evaluation"))
    assert f"{len(OPTIONS[command]) - len(shown)} more options: marl --help-all" in text


@pytest.mark.parametrize("command", OPTIONS)
def test_all_options_are_in_the_whole_help_with_a_line_and_a_default(command):
    lines = help_text("marl", OPTIONS[command], everything=True).splitlines()
    for option in OPTIONS[command]:
        assert option.description, option.name
        (at,) = (index for index, line in enumerate(lines) if f"{line} ".startswith(f"  {option.name} "))
        entry = " ".join(lines[at].split()[1:])
        following = lines[at + 1 :]
        while following and following[0].startswith(" " * 10):
            entry += f" {following.pop(0).strip()}"
        assert option.description in entry
        if isinstance(option.default, (bool, int)) and not option.positional:
            assert f"[{option.kind.show(option.default)}]" in entry
    assert max(map(len, lines)) <= 120


def test_help_names_topics_and_options_that_exist():
    paths = {".".join(option.path[:end]) for options in OPTIONS.values() for option in options for end in (1, 2, 3)}
    assert {path for members in TOPICS.values() for path in members} - paths == set()
    assert MOST_USED - paths == set()


def test_options_of_a_dataclass_are_in_its_topic():
    topics = {option.name: topic_of(option) for option in OPTIONS["league ippo"]}
    assert topics["--algorithm.learning-rate"] == "learning"
    assert topics["--preprocessing.grey"] == "environment"
    assert topics["--nfsp.reservoir"] == "average policy, with --matchmaking nfsp"
    assert "more" not in topics.values()
    assert "more of the algorithm" not in topics.values()
