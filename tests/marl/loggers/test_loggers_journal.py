import errno
import json
import math
import os
from contextlib import closing

import numpy as np
import pytest
import torch
from metric_rows import row

import marl.files
from marl.errors import InputError
from marl.loggers import JournalLogger, read_journal


def test_each_row_is_one_line_and_one_system_call(tmp_path, monkeypatch):
    calls = []
    write = os.write
    monkeypatch.setattr(marl.files.os, "write", lambda fd, data: calls.append(bytes(data)) or write(fd, data))
    journal = JournalLogger(tmp_path / "metrics.jsonl")
    journal.write({"env_steps": 128, "loss": 0.5})
    journal.write({"loss": np.float32(0.25), "count": np.int64(3), "tensor": torch.tensor(1.5), "flag": True})
    # Readable before it is closed.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    journal.close()
    journal.close()
    assert json.loads(lines[0]) == {"env_steps": 128, "loss": 0.5}
    assert lines[0] == '{"env_steps":128,"loss":0.5}'
    assert json.loads(lines[1]) == {"loss": 0.25, "count": 3.0, "tensor": 1.5, "flag": 1}
    assert len(calls) == 2


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_when_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = JournalLogger(path)
    journal.write({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    journal.close()
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {"a": None, "b": None, "c": None, "d": 1.0}
    (back,) = read_journal(path)
    assert back["d"] == 1.0
    assert all(math.isnan(back[key]) for key in "abc")


def test_a_journal_goes_on_where_another_process_stopped(tmp_path):
    for updates in (1, 2):
        journal = JournalLogger(tmp_path / "m")
        journal.write(row(updates))
        journal.close()
    assert list(read_journal(tmp_path / "m")) == [row(1), row(2)]


@pytest.mark.parametrize("tail", [b'{"updates":3,"lo', b'{"updates":3}', b"\0" * 40, b'{"a":\n', b"\xff\xfe\n"])
def test_an_unfinished_last_line_is_ignored_by_readers_and_removed_by_the_next_writer(tmp_path, tail):
    path = tmp_path / "m"
    journal = JournalLogger(path)
    journal.write(row(1))
    journal.write(row(2))
    journal.close()
    with path.open("ab") as file:
        file.write(tail)
    assert list(read_journal(path)) == [row(1), row(2)]
    journal = JournalLogger(path)
    journal.write(row(3))
    journal.close()
    assert list(read_journal(path)) == [row(1), row(2), row(3)]


def test_resuming_cuts_rows_beyond_the_checkpoint_so_that_none_is_missing_or_twice(tmp_path):
    path = tmp_path / "m"
    journal = JournalLogger(path)
    for updates in range(1, 11):
        journal.write(row(updates))
        if updates == 6:
            journal.write({"evaluation/return_mean": -35.0})  # without a count: belongs to the row before
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"updates":11,')
    journal = JournalLogger(path)
    assert journal.truncate_after(6) == 7
    for updates in range(7, 13):
        journal.write(row(updates))
    assert journal.truncate_after(100) == 13
    journal.close()
    rows = list(read_journal(path))
    assert [r["updates"] for r in rows if "updates" in r] == list(range(1, 13))
    assert rows[6] == {"evaluation/return_mean": -35.0}


def test_a_journal_can_be_cut_back_to_nothing(tmp_path):
    journal = JournalLogger(tmp_path / "m")
    journal.write(row(1))
    assert journal.truncate_after(0) == 0
    journal.write(row(1))
    journal.close()
    assert list(read_journal(tmp_path / "m")) == [row(1)]


def test_a_journal_damaged_in_the_middle_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "m"
    content = b'{"updates":1}\nrubbish\n{"updates":2}\n'
    path.write_bytes(content)
    with pytest.raises(InputError, match="line 2 is not a JSON object"):
        JournalLogger(path)
    with pytest.raises(InputError, match="line 2"):
        list(read_journal(path))
    assert path.read_bytes() == content


def test_a_full_disk_leaves_whole_rows_only(tmp_path, monkeypatch):
    path = tmp_path / "m"
    journal = JournalLogger(path)
    journal.write(row(1))
    write = os.write

    def limited(descriptor, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, memoryview(data)[:20])

    with monkeypatch.context() as patch:
        patch.setattr(marl.files.os, "write", limited)
        with pytest.raises(InputError, match="No space left on device"):
            journal.write(row(2))
    assert list(read_journal(path)) == [row(1)]
    assert path.read_bytes().endswith(b"\n")
    journal.write(row(2))
    journal.close()
    assert list(read_journal(path)) == [row(1), row(2)]


def test_a_journal_in_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        JournalLogger(tmp_path / "nowhere" / "m")
    with pytest.raises(InputError, match="cannot read"):
        list(read_journal(tmp_path / "nowhere"))


def test_a_row_that_will_be_written_once_more_is_cut(tmp_path):
    with closing(JournalLogger(tmp_path / "metrics.jsonl")) as journal:
        for row in ({"updates": 1, "final": 1}, {"updates": 2}, {"updates": 3}, {"updates": 3, "final": 3}):
            journal.write(row)
        assert journal.truncate_after(3) == 4
        assert journal.truncate_after(3, repeated="final") == 3
    assert [*read_journal(tmp_path / "metrics.jsonl")][-1] == {"updates": 3}
