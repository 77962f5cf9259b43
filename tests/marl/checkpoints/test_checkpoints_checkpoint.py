import errno
import json
import os
import random
import shutil

import pytest
import safetensors.torch
import torch
from checkpoint_files import TENSORS, equal, no_warning

from marl.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.errors import InputError


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


def test_steps_past_twelve_digits_are_still_in_order(tmp_path):
    for step in (10**12, 999, 10**13):
        save_checkpoint(tmp_path, step, {}, {})
    assert load_checkpoint(tmp_path).step == 10**13


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
