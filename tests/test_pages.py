"""What the pages tell people to type exists: commands are parsed, Python compiles, and what is cheap is run."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from marl.launchers.bench import command as bench
from marl.launchers.commands import doctor, evaluate, exploitability, play, plot, track
from marl.launchers.console import read_options
from marl.launchers.main import COMMANDS, main
from marl.launchers.run.catalog import find_algorithm
from marl.launchers.tournament import options as tournament
from marl.launchers.training.league import LeagueOptions
from marl.launchers.training.options import TrainOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OPTIONS = {
    "evaluate": evaluate.EvaluateOptions,
    "play": play.PlayOptions,
    "plot": plot.PlotOptions,
    "track": track.TrackOptions,
    "doctor": doctor.DoctorOptions,
    "bench": bench.BenchOptions,
    "tournament": tournament.TournamentOptions,
    "exploitability": exploitability.ExploitabilityOptions,
}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PLACEHOLDERS = re.compile(r"…|\.\.\.|\b[A-Z]{2,}\b(?![\w\"=])")


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def quoted(page: Path) -> list[str]:
    """Lines of command blocks and inline code that call marl or make."""
    lines = [line for text in blocks(page, "", "sh", "bash", "console") for line in text.splitlines()]
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    starts = re.compile(r"^(\$ )?((PYTHONPATH=\S+|mpirun|srun)\b.* )?(marl|make) ")
    return [line for line in lines if starts.match(line) and "←" not in line]


COMMAND_LINES = [(page.name, line) for page in PAGES for line in quoted(page)]


def check_train(words: list[str], kind: type = TrainOptions) -> None:
    algorithm, env, *rest = words
    config = find_algorithm(algorithm).default_config()
    read_options(kind[type(config)], rest, program="marl train", default=kind(algorithm=config))
    if ":" not in env:
        from marl.envs.factory import make_constructor

        make_constructor(env)


def test_the_pages_are_there_and_quote_commands():
    names = {name for name, _ in COMMAND_LINES}
    assert {"README.md", "CONTRIBUTING.md", "training.md", "environments.md", "cluster.md"} <= names


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES)
def test_quoted_commands_exist(page, line):
    words = shlex.split(line, comments=True)
    if "make" in words:
        assert set(words[words.index("make") + 1 :]) <= TARGETS
        return
    words = words[words.index("marl") + 1 :]
    command, rest = words[0], words[1:]
    if command in ("COMMAND", "…", "...") or command.startswith("-"):
        return
    assert command in COMMANDS
    if PLACEHOLDERS.search(" ".join(rest)):
        # A form, not a command: its options are checked where it is explained.
        return
    if command in ("train", "league"):
        if rest:
            check_train(rest, {"train": TrainOptions, "league": LeagueOptions}[command])
    elif command == "bench":
        if rest:
            assert rest[0] in bench.BENCHMARKS
            read_options(bench.BenchOptions, rest[1:], program="marl bench")
    elif rest:
        read_options(OPTIONS[command], rest, program=f"marl {command}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_the_pages_compiles(page):
    for text in blocks(page, "python"):
        compile(text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_not_too_long(page):
    # Tables, and what a command prints, cannot be broken.
    text = re.sub(r"^(\||    ).*$", "", page.read_text(), flags=re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_classes_of_the_pages_exist(page):
    for name in set(re.findall(r"`(marl(?:\.\w+)+)`", page.read_text())):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), f"{page.name} names {name}"


def small(text: str) -> str:
    """The same program with few steps, so that it takes seconds."""
    return text.replace("20_000", "100").replace("num_envs=16", "num_envs=2")


def test_python_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--steps", "16", "--num-envs", "4", "--algorithm.rollout-length", "4", "--evaluation-episodes", "0"]
    assert main(["train", "mappo", "mpe2.simple_spread_v3", *words, "--out", "runs/spread"]) == 0
    page: dict[str, object] = {"__name__": "page"}
    for text in blocks(ROOT / "docs" / "python.md", "python"):
        exec(compile(small(text), "snippet", "exec"), page)
    # The script: its number of copies is the default, so here it is only begun.
    assert callable(page["main"])


def test_a_map_of_shared_policies_on_the_page_makes_its_groups(tmp_path):
    lines = [line for _, line in COMMAND_LINES if "--algorithm.sharing" in line and "agent_0" in line]
    assert len(lines) == 2  # as pairs and as JSON
    few = ["--steps", "16", "--num-envs", "4", "--algorithm.rollout-length", "4", "--evaluation-episodes", "0"]
    for number, line in enumerate(lines):
        run = tmp_path / str(number)
        assert main([*shlex.split(line)[1:], *few, "--row-every", "1", "--out", str(run)]) == 0
        assert json.loads((run / "config.json").read_text())["algorithm"]["sharing"] == {
            "agent_0": "pair",
            "agent_1": "pair",
            "agent_2": "single",
        }
        names = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        assert {name.partition("/")[0] for name in names if name.endswith("/entropy")} == {"pair", "single"}


def test_own_environment_of_the_page_is_sound_and_trains(tmp_path, monkeypatch):
    (text,) = (text for text in blocks(ROOT / "docs" / "environments.md", "python") if "my_game.py" in text)
    (tmp_path / "my_game.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["doctor", "my_game:make"]) == 0
    words = ["--steps", "200", "--num-envs", "4", "--evaluation-episodes", "2", "--env-kwargs", '{"width": 9}']
    assert main(["train", "mappo", "my_game:make", *words, "--out", "run"]) == 0
