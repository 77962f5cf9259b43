"""Standard streams that are not files: a notebook's, none at all, closed ones, narrow ones."""

import io
import os
import subprocess
import sys

import pytest
from command_line import HERE, POLITE

from marl.resources.streams import ErrorBytes, flush_standard_streams, is_terminal, write_error


class OutStream:
    """As ipykernel's: it takes text only, and has no ``buffer`` and no number."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        assert isinstance(text, str)
        self.text += text

    def flush(self):
        pass


def test_bytes_reach_a_notebooks_stream_as_text_even_in_pieces(monkeypatch):
    notebook = OutStream()
    monkeypatch.setattr(sys, "stderr", notebook)
    sink = ErrorBytes()
    for byte in "marl: ±1 …\n".encode():
        sink.write(bytes([byte]))
    sink.flush()
    assert notebook.text == "marl: ±1 …\n"


def test_bytes_reach_a_files_stream_as_they_are(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw))
    sink = ErrorBytes()
    sink.write(b"\xff\n")
    sink.flush()
    assert raw.getvalue() == b"\xff\n"


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [lambda: None, OutStream, closed], ids=["none", "notebook", "closed"])
def test_no_stream_is_too_poor_to_be_written_to(monkeypatch, make):
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    flush_standard_streams()
    write_error("a line\n")
    ErrorBytes().write(b"a line\n")
    ErrorBytes().flush()
    assert not is_terminal(sys.stdout)


RANKS = """
import sys
from marl.launchers.main import main

class OutStream:
    def write(self, text): assert isinstance(text, str)
    def flush(self): pass

kept = sys.__stdout__
sys.stdout = sys.stderr = {stream}
code = main(["train", "ippo", "toy_game:make", "--num-envs", "4", "--steps", "32", "--out", sys.argv[1],
             "--evaluation-episodes", "2", *sys.argv[2:]])
kept.write(f"{{code}}")
"""


@pytest.mark.parametrize("stream", ["OutStream()", "None"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_training_starts_from_a_notebook_and_without_a_console(tmp_path, stream, ranks):
    argv = ["--ranks", "2"] if ranks == 2 else []
    done = subprocess.run(
        [sys.executable, "-c", RANKS.format(stream=stream), str(tmp_path / "run"), *argv],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **POLITE, "PYTHONPATH": str(HERE)},
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", ""), done
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_narrow_encoding_costs_no_results(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "marl.launchers.main",
            "train",
            "ippo",
            "toy_game:make",
            "--num-envs",
            "4",
            "--steps",
            "32",
            "--evaluation-episodes",
            "8",
            "--out",
            str(tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **POLITE, "PYTHONPATH": str(HERE), "PYTHONIOENCODING": "ascii:strict"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "\\xb1" in done.stdout
