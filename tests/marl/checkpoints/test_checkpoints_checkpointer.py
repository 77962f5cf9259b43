import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from checkpoint_files import TENSORS, equal, no_warning

from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.errors import InputError


def names(directory):
    return [path.name for path in list_checkpoints(directory)]


def test_the_last_few_and_every_nth_stay(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2, keep_every=3)
    for step in range(100, 1001, 100):
        checkpointer.save(step, {}, {})
    # Numbers 3, 6 and 9 for good, and the last two.
    assert names(tmp_path) == [f"{step:012d}" for step in (300, 600, 900, 1000)]
    # Counting goes on in another process.
    resumed = Checkpointer(tmp_path, keep=1, keep_every=3)
    for step in (1100, 1200, 1300):
        resumed.save(step, {}, {})
    assert names(tmp_path) == [f"{step:012d}" for step in (300, 600, 900, 1200, 1300)]
    assert resumed.latest == tmp_path / "000000001300"


def test_without_every_nth_only_the_last_stay(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=3)
    assert checkpointer.latest is None
    for step in range(6):
        checkpointer.save(step, {}, {})
    assert names(tmp_path) == [f"{step:012d}" for step in (3, 4, 5)]


def test_saving_the_same_step_again_never_touches_the_first_before_the_second_is_there(tmp_path, full_disk):
    checkpointer = Checkpointer(tmp_path, keep=3)
    checkpointer.save(50, {"a": torch.zeros(1)}, {"try": 0})
    checkpointer.save(100, {"a": torch.zeros(1)}, {"try": 1})
    full_disk(10)
    with pytest.raises(InputError):
        checkpointer.save(100, {"a": torch.ones(1)}, {"try": 2})
    assert load_checkpoint(tmp_path, warn=no_warning).metadata == {"try": 1}
    full_disk(10**6)
    checkpointer.save(100, {"a": torch.ones(1)}, {"try": 3})
    assert load_checkpoint(tmp_path, warn=no_warning).metadata == {"try": 3}
    assert names(tmp_path) == ["000000000050", "000000000100-1"]


def test_a_run_resumed_from_an_older_checkpoint_gives_up_the_later_ones(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=3)
    for step in (100, 200, 300):
        checkpointer.save(step, {}, {})
    checkpointer.save(150, {}, {"line": "new"})
    assert names(tmp_path) == ["000000000100", "000000000150"]


@pytest.mark.parametrize(("keep", "every"), [(0, None), (-1, None), (1, 0)])
def test_keeping_nothing_is_refused(tmp_path, keep, every):
    with pytest.raises(InputError, match="keep"):
        Checkpointer(tmp_path, keep=keep, keep_every=every)


WRITER = """
import os
import sys
import torch
from pathlib import Path
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
checkpointer = Checkpointer(Path(sys.argv[1]), keep=2)
if sys.argv[2] == "async":
    checkpointer = AsyncCheckpointer(checkpointer)
torch.set_num_threads(1)
step = 0 if checkpointer.latest is None else int(checkpointer.latest.name)
print(os.getpid(), flush=True)
while True:
    step += 1
    checkpointer.save(step, {"a": torch.full((1000,), step), "b": torch.full((100, 10), float(step))}, {"step": step})
    os.write(1, f"{step}\\n".encode())  # one call, so that no kill cuts it
"""


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_writer_killed_at_any_moment_leaves_its_last_checkpoint(tmp_path, mode):
    chooser = random.Random(mode)
    start = time.monotonic()
    save_checkpoint(tmp_path / "c", 1, {"a": torch.full((1000,), 1), "b": torch.ones(100, 10)}, {"step": 1})
    duration = time.monotonic() - start
    waited = acknowledged = 1
    # Forking a child that has everything imported, instead of starting Python anew, makes each kill cheap.
    forker = "import os, sys, torch, marl.checkpoints.checkpoint, marl.checkpoints.checkpointer\n" + "\n".join(
        [
            "for line in sys.stdin:",
            "    pid = os.fork()",
            "    if pid == 0:",
            f"        exec({WRITER!r})",
            "    os.waitpid(pid, 0)",
            "    print('dead', flush=True)",
        ]
    )
    with subprocess.Popen(
        [sys.executable, "-c", forker, str(tmp_path / "c"), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as parent:
        for _ in range(20):
            parent.stdin.write("go\n")
            child = int(parent.stdout.readline())
            saved = [int(parent.stdout.readline()) for _ in range(chooser.randrange(3))]
            waited += len(saved)
            time.sleep(chooser.uniform(0.0, 1.5 * duration))
            os.kill(child, signal.SIGKILL)
            while (line := parent.stdout.readline()) != "dead\n":
                saved.append(int(line))
            loaded = load_checkpoint(tmp_path / "c", warn=no_warning)
            # An asynchronous save has been acknowledged before it was on the disk.
            acknowledged = max([acknowledged, *(step - (mode == "async") for step in saved)])
            assert loaded.step >= acknowledged
            assert loaded.metadata == {"step": loaded.step}
            assert (loaded.tensors["a"] == loaded.step).all()
        parent.stdin.close()
    assert waited > 10
    assert acknowledged > 10


def test_an_asynchronous_checkpoint_is_of_the_moment_of_its_call(tmp_path):
    release = threading.Event()

    class Slow(Checkpointer):
        def save(self, step, tensors, metadata):
            assert release.wait(10)
            super().save(step, tensors, metadata)

    checkpointer = AsyncCheckpointer(Slow(tmp_path))
    tensors, metadata = {"a": torch.zeros(4), "b": torch.randn(2, 3).T}, {"list": [1]}
    b = tensors["b"].clone()
    checkpointer.save(100, tensors, metadata)
    tensors["a"] += 1
    tensors["b"].zero_()
    metadata["list"].append(2)
    assert checkpointer.latest is None
    release.set()
    checkpointer.save(200, tensors, metadata)  # waits for the first
    checkpointer.close()
    first, second = (load_checkpoint(path) for path in list_checkpoints(tmp_path))
    assert equal(first.tensors, {"a": torch.zeros(4), "b": b})
    assert first.metadata == {"list": [1]}
    assert equal(second.tensors, {"a": torch.ones(4), "b": torch.zeros(3, 2)})
    assert checkpointer.latest == second.path


def test_tensors_may_come_go_and_change_between_asynchronous_checkpoints(tmp_path):
    checkpointer = AsyncCheckpointer(Checkpointer(tmp_path))
    states = [{"a": torch.zeros(2)}, {"a": torch.zeros(3), "b": torch.ones(1)}, {"a": torch.zeros(3).long()}]
    for step, state in enumerate(states):
        checkpointer.save(step, state, {})
    checkpointer.close()
    for path, state in zip(list_checkpoints(tmp_path), states, strict=True):
        assert equal(load_checkpoint(path).tensors, state)


@pytest.mark.parametrize("call", [AsyncCheckpointer.close, AsyncCheckpointer.wait, lambda c: c.save(3, {}, {})])
def test_what_goes_wrong_in_the_thread_is_raised_by_the_next_call(tmp_path, full_disk, call):
    checkpointer = AsyncCheckpointer(Checkpointer(tmp_path))
    checkpointer.save(1, TENSORS, {})
    checkpointer.wait()
    full_disk(50)
    checkpointer.save(2, TENSORS, {})
    with pytest.raises(InputError, match="No space left"):
        call(checkpointer)
    assert names(tmp_path) == ["000000000001"]
    checkpointer.close()  # said once


def test_the_journal_is_flushed_before_the_checkpoint(tmp_path):
    seen = []
    checkpointer = Checkpointer(tmp_path, before=lambda: seen.append(names(tmp_path)))
    checkpointer.save(1, {}, {})
    checkpointer.save(2, {}, {})
    assert seen == [[], ["000000000001"]]
