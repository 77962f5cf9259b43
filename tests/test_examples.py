"""The programs of examples/ run as they stand, only shorter."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SAYS = {
    "train": r"return -\d+",
    "own_environment": r"return -?\d+\.\d\d; the best is 1\.94",
    "own_algorithm": r"return -?\d+",
    "league": r"\d+ snapshots; score \d\.\d\d",
    "tournament": r"blocker",
}


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(program, tmp_path, monkeypatch, capsys):
    text = re.sub(r"^STEPS = .*$", "STEPS = 1280", program.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^GAMES = .*$", "GAMES = 4", text, flags=re.MULTILINE)
    copy = tmp_path / program.name
    copy.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = None
    try:
        runpy.run_path(str(copy), run_name="__main__")
    except SystemExit as done:
        code = done.code
    assert not code
    assert re.search(SAYS[program.stem], capsys.readouterr().out)


def test_there_are_five_examples():
    assert [path.stem for path in EXAMPLES] == sorted(SAYS)
