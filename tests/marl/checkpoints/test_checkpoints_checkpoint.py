import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import safetensors.torch
import torch

import marl.files
from marl.checkpoints.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from marl.checkpoints.checkpointer import AsyncCheckpointer, Checkpointer
from marl.checkpoints.state import flatten_state, unflatten_state
from marl.errors import InputError

TENSORS = {
    "learner.weight": torch.randn(3, 4),
    "learner.transposed": torch.randn(2, 5).T,
    "learner.scalar": torch.tensor(2.5),
    "learner.wide": torch.randn(3, dtype=torch.float64),
    "learner.narrow": torch.randn(5).bfloat16(),
    "learner.half": torch.randn(5).half(),
    "copies.empty": torch.zeros(0, 7),
    "copies.flags": torch.tensor([True, False, True]),
    "copies.bytes": torch.arange(5, dtype=torch.uint8),
    "copies.counts": torch.tensor([2**62, -1]),
    "copies.seeds": torch.tensor([2**32 - 1], dtype=torch.uint32),
}


def equal(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and torch.equal(left[name], right[name])
        for name in left
    )


def names(directory):
    return [path.name for path in list_checkpoints(directory)]


def no_warning(line):
    raise AssertionError(line)


@pytest.fixture
def full_disk(monkeypatch):
    """Lets so many bytes through, then the disk is full."""
    room = [0]
    write = os.write

    def limited(descriptor, data):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(len(data), room[0])
        room[0] -= taken
        return write(descriptor, memoryview(data)[:taken])

    def set_room(count):
        room[0] = count
        monkeypatch.setattr(marl.files.os, "write", limited)

    return set_room


def test_all_dtypes_and_shapes_come_back_bit_for_bit(tmp_path):
    metadata = {"counter": {"updates": 3}, "list": [1, 2.5, None, "ü"], "flag": True}
    path = save_checkpoint(tmp_path / "checkpoints", 123456, TENSORS, metadata)
    assert path == tmp_path / "checkpoints" / "000000123456"
    loaded = load_checkpoint(tmp_path / "checkpoints", warn=no_warning)
    assert (loaded.step, loaded.path, loaded.metadata) == (123456, path, metadata)
    assert equal(loaded.tensors, TENSORS)
    assert equal(load_checkpoint(path).tensors, TENSORS)


def test_the_tensor_file_is_what_safetensors_itself_reads(tmp_path):
    path = save_checkpoint(tmp_path, 1, TENSORS, {})
    assert equal(safetensors.torch.load_file(path / "tensors.safetensors"), TENSORS)


def test_loaded_tensors_can_be_written_to_and_the_checkpoint_does_not_change(tmp_path):
    path = save_checkpoint(tmp_path, 1, TENSORS, {})
    for tensor in load_checkpoint(path).tensors.values():
        tensor.zero_()
    assert equal(load_checkpoint(path).tensors, TENSORS)


def test_a_checkpoint_may_have_no_tensors(tmp_path):
    assert load_checkpoint(save_checkpoint(tmp_path, 0, {}, {"a": 1})).metadata == {"a": 1}


def test_parameters_that_need_gradients_are_saved(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    assert equal(load_checkpoint(save_checkpoint(tmp_path, 0, {"a": parameter}, {})).tensors, {"a": torch.ones(2)})


def test_a_dtype_without_a_name_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"learner\.z: its dtype is torch\.complex64"):
        save_checkpoint(tmp_path, 0, {"learner.z": torch.zeros(2, dtype=torch.complex64)}, {})
    assert os.listdir(tmp_path) == []


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


def test_steps_past_twelve_digits_are_still_in_order(tmp_path):
    for step in (10**12, 999, 10**13):
        save_checkpoint(tmp_path, step, {}, {})
    assert load_checkpoint(tmp_path).step == 10**13


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


def test_leftovers_of_killed_processes_are_cleaned_by_the_next_save(tmp_path):
    leftover = tmp_path / ".tmp-000000000100-4242"
    leftover.mkdir()
    (leftover / "tensors.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, 200, {}, {})
    assert os.listdir(tmp_path) == ["000000000200"]


def test_everything_is_flushed_before_the_name_and_the_folder_after_it(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def note_rename(source, target):
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    save_checkpoint(tmp_path, 7, TENSORS, {})
    temporary = f".tmp-000000000007-{os.getpid()}"
    assert calls == [
        "tensors.safetensors",
        "metadata.json",
        "manifest.json",
        temporary,
        "rename",
        tmp_path.name,
    ]


@pytest.mark.parametrize("room", [0, 1, 100, 700, 1000])
def test_a_full_disk_gives_one_clear_line_and_keeps_what_was_there(tmp_path, full_disk, room):
    directory = tmp_path / "checkpoints"
    Checkpointer(directory).save(100, TENSORS, {"a": 1})
    full_disk(room)
    with pytest.raises(InputError) as raised:
        Checkpointer(directory, keep=1).save(200, TENSORS, {"a": 2})
    message = str(raised.value)
    assert "step 200" in message
    assert "No space left on device" in message
    assert str(directory) in message
    assert "\n" not in message
    assert os.listdir(directory) == ["000000000100"]
    assert load_checkpoint(directory, warn=no_warning).metadata == {"a": 1}


def test_a_disk_that_fails_only_when_flushed_is_noticed(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 100, TENSORS, {})

    def failing(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(InputError, match="Input/output error"):
        save_checkpoint(tmp_path, 200, TENSORS, {})
    assert os.listdir(tmp_path) == ["000000000100"]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Not a directory"):
        save_checkpoint(tmp_path / "file" / "checkpoints", 0, {}, {})


def damages(path, chooser):
    """One random damage to a checkpoint's files: a flipped bit, a cut, bytes added or zeroed, a file removed."""
    file = path / chooser.choice(["tensors.safetensors", "metadata.json", "manifest.json"])
    data = bytearray(file.read_bytes())
    kind = chooser.choice(["flip", "cut", "grow", "zero", "remove", "empty"])
    if kind == "flip":
        data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
    elif kind == "cut":
        del data[chooser.randrange(len(data)) :]
    elif kind == "grow":
        data += chooser.randbytes(chooser.randrange(1, 9))
    elif kind == "zero":
        start = chooser.randrange(len(data))
        data[start:] = bytes(len(data) - start)
    if kind == "remove":
        file.unlink()
    else:
        file.write_bytes(b"" if kind == "empty" else data)
    return f"{kind} {file.name}"


def test_every_random_damage_is_noticed_and_the_checkpoint_before_is_used(tmp_path):
    chooser = random.Random(0)
    older = save_checkpoint(tmp_path / "good", 100, TENSORS, {"which": "older"})
    newer = save_checkpoint(tmp_path / "good", 200, TENSORS, {"which": "newer", "text": "x" * 50})
    for trial in range(250):
        directory = tmp_path / str(trial)
        shutil.copytree(older, directory / older.name)
        shutil.copytree(newer, directory / newer.name)
        damage = damages(directory / newer.name, chooser)
        lines = []
        loaded = load_checkpoint(directory, warn=lines.append)
        assert loaded.metadata == {"which": "older"}, damage
        assert equal(loaded.tensors, TENSORS)
        (line,) = lines
        assert newer.name in line
        assert line.endswith(f"going back to {older.name}")
        shutil.rmtree(directory)


def test_every_byte_of_a_manifest_counts(tmp_path):
    path = save_checkpoint(tmp_path, 5, {"a": torch.ones(1)}, {})
    manifest = path / "manifest.json"
    good = manifest.read_bytes()
    for index in range(len(good)):
        data = bytearray(good)
        data[index] ^= 1 << (5 * index) % 8
        manifest.write_bytes(data)
        with pytest.raises(InputError, match=r"manifest\.json"):
            load_checkpoint(path)


@pytest.mark.parametrize("file", ["tensors.safetensors", "metadata.json", "manifest.json"])
def test_files_swapped_between_checkpoints_are_noticed(tmp_path, file):
    paths = [save_checkpoint(tmp_path, step, {"a": torch.full((2,), step)}, {"s": step}) for step in (100, 200)]
    first, second = ((path / file).read_bytes() for path in paths)
    (paths[0] / file).write_bytes(second)
    (paths[1] / file).write_bytes(first)
    with pytest.raises(InputError, match="no usable checkpoint") as raised:
        load_checkpoint(tmp_path)
    assert "000000000100" in str(raised.value)
    assert "000000000200" in str(raised.value)


def test_checkpoints_whose_names_were_swapped_are_noticed(tmp_path):
    first = save_checkpoint(tmp_path, 100, {}, {})
    second = save_checkpoint(tmp_path, 200, {}, {})
    first.rename(tmp_path / "other")
    second.rename(first)
    with pytest.raises(InputError, match="its manifest is of step 200"):
        load_checkpoint(first)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: (path / "tensors.safetensors").write_bytes(b"x"), r"tensors\.safetensors is truncated: 1 bytes"),
        (lambda path: (path / "metadata.json").unlink(), r"metadata\.json is missing"),
        (lambda path: (path / "manifest.json").write_text("[]"), "not of this program, or of another version"),
        (lambda path: (path / "manifest.json").write_text("{"), "it is not JSON"),
        (lambda path: (path / "manifest.json").unlink(), "it has no manifest"),
        (lambda path: shutil.rmtree(path), "does not exist"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path, break_it, message):
    path = save_checkpoint(tmp_path, 100, TENSORS, {})
    break_it(path)
    with pytest.raises(InputError, match=message):
        load_checkpoint(path)


def test_an_empty_folder_and_no_folder_have_no_checkpoint(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no checkpoint in"):
            load_checkpoint(path)


def test_a_file_with_valid_sums_but_foreign_content_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 100, TENSORS, {})
    import marl.checkpoints.checkpoint

    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    (path / "tensors.safetensors").unlink()
    size, digest = marl.files.write_durably(path / "tensors.safetensors", [b"\xff" * 64])
    manifest["files"]["tensors.safetensors"] = {"size": size, "sha256": digest}
    (path / "manifest.json").write_bytes(marl.checkpoints.checkpoint._seal(manifest))
    with pytest.raises(InputError, match=r"tensors\.safetensors is foreign"):
        load_checkpoint(path)
    manifest["files"] = {"../../secret": {"size": 1, "sha256": ""}}
    (path / "manifest.json").write_bytes(marl.checkpoints.checkpoint._seal(manifest))
    with pytest.raises(InputError, match="is foreign"):
        load_checkpoint(path)


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


def test_states_of_parts_are_joined_and_taken_apart():
    parts = {"learner": {"policy.0.bias": torch.ones(1), "step": torch.tensor(1)}, "actor": {"x": torch.zeros(2)}}
    flat = flatten_state(parts)
    assert list(flat) == ["learner.policy.0.bias", "learner.step", "actor.x"]
    assert unflatten_state(flat) == parts
    assert list(flatten_state({"copies": {"environment": {"a": torch.ones(1)}}})) == ["copies.environment.a"]


def test_names_that_could_not_be_taken_apart_are_refused():
    with pytest.raises(ValueError, match="no dot"):
        flatten_state({"a.b": {"c": torch.ones(1)}})
    with pytest.raises(ValueError, match=r"two tensors are called a\.b\.c"):
        flatten_state({"a": {"b": {"c": torch.ones(1)}, "b.c": torch.ones(1)}})
    with pytest.raises(ValueError, match="PART"):
        unflatten_state({"lonely": torch.ones(1)})
