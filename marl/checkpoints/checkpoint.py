"""Checkpoints: safetensors and JSON, whole or not there, checked when they are read.

A folder of checkpoints holds one folder for each, named after its environment steps::

    checkpoints/000000123456/
        tensors.safetensors    every tensor, by dotted name
        metadata.json          counters, configuration: everything that is not a tensor
        manifest.json          size and SHA-256 of the two; written last

A checkpoint is written under a temporary name, flushed to the disk, renamed, and the folder flushed: a process may
be killed at any moment, and what carries a checkpoint's name is complete. Nothing in it is executable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from marl.core import State
from marl.errors import InputError
from marl.files import Json, explain, render_json, sync_directory, write_durably
from marl.resources.streams import write_error

_TENSORS: Final = "tensors.safetensors"
_METADATA: Final = "metadata.json"
_MANIFEST: Final = "manifest.json"
_FORMAT: Final = "marl checkpoint 1"
# A second checkpoint of the same step, after a resume for example, is called 000000123456-1: nothing is overwritten.
_NAME: Final = re.compile(r"(\d{12,})(?:-(\d+))?")
_TEMPORARY: Final = ".tmp-"

# Names of the safetensors format, https://github.com/huggingface/safetensors#format
_DTYPES: Final = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint, read back and verified."""

    step: int
    """Environment steps, over all copies and ranks."""
    tensors: State
    """On the CPU."""
    metadata: dict[str, Any]
    path: Path
    """Its folder."""


def save_checkpoint(directory: Path, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Json]) -> Path:
    """Writes one checkpoint and returns once it is safe on the disk.

    Only one process may write to a folder. Leftovers of a killed one are removed first.

    Args:
        directory: the folder of checkpoints; made if it is not there.
        step: environment steps so far, over all copies and ranks.
        tensors: any shapes and devices.
        metadata: everything else that is needed, as JSON.

    Returns:
        The checkpoint's own folder.

    Raises:
        InputError: the disk is full, or the folder cannot be written to. Older checkpoints are as they were.
    """
    if step < 0:
        raise ValueError(f"a checkpoint's step is a count, not {step}")
    try:
        return _save(Path(directory), step, tensors, render_json(metadata))
    except OSError as error:
        raise InputError(
            f"cannot write the checkpoint of step {step} in {directory}: {explain(error)} "
            "(checkpoints written before are intact)"
        ) from error


def load_checkpoint(path: Path, *, warn: Callable[[str], None] | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Args:
        path: one checkpoint, which must be whole; or a folder of them, of which the newest whole one is taken.
        warn: called with one line for each damaged one that was passed over; by default they go to stderr.

    Raises:
        InputError: nothing usable; names the file and what is wrong with it.
    """
    path = Path(path)
    if _NAME.fullmatch(path.name) or (path / _MANIFEST).exists():
        return _load(path)
    candidates = list_checkpoints(path)
    if not candidates:
        raise InputError(f"no checkpoint in {path}")
    problems: list[str] = []
    for candidate in reversed(candidates):
        try:
            checkpoint = _load(candidate)
        except InputError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            (warn or _to_stderr)(f"{problem}; going back to {checkpoint.path.name}")
        return checkpoint
    raise InputError(f"no usable checkpoint in {path}: {'; '.join(problems)}")


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first, verified or not."""
    try:
        entries = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Path(directory, name) for name in sorted((n for n in entries if _NAME.fullmatch(n)), key=checkpoint_order)]


def checkpoint_order(name: str) -> tuple[int, int]:
    """The step and the revision of a checkpoint's name, by which checkpoints are sorted."""
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _save(directory: Path, step: int, tensors: Mapping[str, Tensor], metadata: bytes) -> Path:
    _make_directory(directory)
    for leftover in directory.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    existing = list_checkpoints(directory)
    revisions = [revision for path in existing for at, revision in [checkpoint_order(path.name)] if at == step]
    final = directory / (f"{step:012d}" + (f"-{max(revisions) + 1}" if revisions else ""))
    temporary = directory / f"{_TEMPORARY}{final.name}-{os.getpid()}"
    try:
        temporary.mkdir()
        files: dict[str, Json] = {}
        for name, chunks in ((_TENSORS, _serialise(tensors)), (_METADATA, iter([metadata]))):
            size, digest = write_durably(temporary / name, chunks)
            files[name] = {"size": size, "sha256": digest}
        manifest: dict[str, Json] = {
            "format": _FORMAT,
            "step": step,
            "number": _next_number(existing, step),
            "files": files,
        }
        write_durably(temporary / _MANIFEST, [_seal(manifest)])
        sync_directory(temporary)
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(directory)
    return final


def _make_directory(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_directory(path.parent)


def _next_number(existing: list[Path], step: int) -> int:
    """Number of checkpoints before, pruned ones included, plus one."""
    for path in reversed(existing):
        if checkpoint_order(path.name)[0] < step:
            with contextlib.suppress(InputError):
                return int(read_manifest(path)["number"]) + 1
    return 1


def _serialise(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The safetensors format, piece by piece, so that no second copy of everything stands in memory."""
    # Wide types first keeps every tensor aligned, as the reference implementation does.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Json] = {}
    offset = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"checkpoints cannot hold {name}: its dtype is {tensor.dtype}")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        if tensors[name].numel():
            flat = tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8)
            yield flat.numpy().data


def _seal(manifest: Mapping[str, Json]) -> bytes:
    """The manifest with its own SHA-256 in it, so that no bit of it can change unnoticed."""
    return render_json({**manifest, "sha256": hashlib.sha256(render_json(manifest)).hexdigest()})


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads and verifies the manifest of a checkpoint.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    file = path / _MANIFEST
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not a complete checkpoint: it has no {_MANIFEST}" if path.is_dir() else f"{path} does not exist"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise InputError(f"{file} is damaged: it is not JSON") from error
    if not isinstance(manifest, dict) or manifest.pop("format", None) != _FORMAT:
        raise InputError(f"{file} is not of this program, or of another version: its format is not {_FORMAT!r}")
    manifest["format"] = _FORMAT
    manifest.pop("sha256", None)
    if _seal(manifest) != data:
        raise InputError(f"{file} is damaged: its SHA-256 is another")
    return manifest


def _read_verified(file: Path, expected: Mapping[str, Any]) -> bytes:
    size = expected["size"]
    try:
        with file.open("rb") as stream:
            actual = os.fstat(stream.fileno()).st_size
            if actual != size:
                what = "truncated" if actual < size else "damaged"
                raise InputError(f"{file} is {what}: {actual} bytes instead of {size}")
            data = stream.read()
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing") from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise InputError(f"{file} is damaged: its SHA-256 is not the one in {_MANIFEST}")
    return data


def _load(path: Path) -> Checkpoint:
    manifest = read_manifest(path)
    if _NAME.fullmatch(path.name) and checkpoint_order(path.name)[0] != manifest["step"]:
        raise InputError(f"{path} is not what its name says: its manifest is of step {manifest['step']}")
    files = manifest["files"]
    if set(files) != {_TENSORS, _METADATA}:
        raise InputError(f"{path / _MANIFEST} is foreign: it lists {', '.join(sorted(files)) or 'no files'}")
    metadata = json.loads(_read_verified(path / _METADATA, files[_METADATA]))
    try:
        tensors = safetensors.torch.load(_read_verified(path / _TENSORS, files[_TENSORS]))
    except safetensors.SafetensorError as error:
        raise InputError(f"{path / _TENSORS} is foreign: {error}") from error
    return Checkpoint(step=manifest["step"], tensors=tensors, metadata=metadata, path=path)


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint so that a half-removed one never carries its name."""
    doomed = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}-old")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _to_stderr(line: str) -> None:
    write_error(f"{line}\n")
