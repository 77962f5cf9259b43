"""Ranks that were started with other options than the others do not train: they would wait for each other for ever."""

from pathlib import Path

import pytest
import unlike_ranks


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--seed", "7"), "--seed 7, rank 0 0"),
        (("--algorithm.learning-rate", "0.5"), "learning_rate=0.5"),
        (("--evaluate-every", "200"), "--evaluate-every 200, rank 0 None"),
        (("--resume",), "--resume True, rank 0 False"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_ranks_with_other_options_are_refused_before_anything_is_written(mpirun, tmp_path, options, difference):
    finished = mpirun(2, Path(unlike_ranks.__file__), str(tmp_path / "run"), *options)
    assert finished.code == 2
    first, second = sorted((line for line in finished.stderr.splitlines() if line.startswith("marl: ")), key=len)
    assert first == "marl: ranks were started with other options or package versions than most: rank 1"
    assert second.startswith(f"{first}; rank 1 has ")
    assert difference in second
    assert not (tmp_path / "run").exists()
