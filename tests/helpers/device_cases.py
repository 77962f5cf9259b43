"""Trains by every algorithm on a pretended device and on the CPU; prints as JSON how far the results are apart.

    python tests/helpers/device_cases.py [CASE ...]

Each case is stopped in the middle, and what was saved on one of the two goes on on the other.
"""

import json
import sys
import traceback
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Before anything that uses torch.inference_mode.
from pretended_device import DEVICE, Elsewhere, pretended_device

sys.path.append(str(Path(__file__).parents[1] / "chaos"))

from resumptions import Case, cases

from marl.checkpoints.checkpoint import load_checkpoint
from marl.checkpoints.checkpointer import Checkpointer
from marl.distributed.communicators import SerialCommunicator

UPDATES = 20
"""Of each training, or about as many: what is pretended is slow."""


def train(case: Case, folder: Path, device: str, *, half: bool) -> None:
    """Trains on a device to the end, or for about half of the updates, from what was saved."""
    experiment = case.make(SerialCommunicator(), device, UPDATES)
    try:
        if any(folder.iterdir()):
            experiment.load(load_checkpoint(folder))
        there = {isinstance(tensor, Elsewhere) for tensor in experiment.learner.get_variables().values()}
        assert there == {device == str(DEVICE)}, "parameters are not where they should be"
        experiment.run(None, Checkpointer(folder, keep=1), lambda: half and experiment.counter.updates >= UPDATES // 2)
        if not half:
            experiment.evaluate()
    finally:
        experiment.close()


def distance(first: Path, second: Path) -> float:
    """The largest difference between two folders' newest checkpoints."""
    ones, others = load_checkpoint(first).tensors, load_checkpoint(second).tensors
    assert ones.keys() == others.keys()
    return max(
        float((tensor.double() - others[name].double()).abs().max()) for name, tensor in ones.items() if tensor.numel()
    )


def compare(case: Case) -> dict[str, float]:
    """How far results are apart from those of the CPU: on the device, and where the two take turns."""
    found = {}
    with TemporaryDirectory() as name:
        folders = [Path(name, kind) for kind in ("cpu", "device", "there", "back")]
        for folder in folders:
            folder.mkdir()
        cpu, device, there, back = folders
        train(case, cpu, "cpu", half=False)
        with pretended_device():
            train(case, device, str(DEVICE), half=False)
        found["device"] = distance(cpu, device)
        train(case, there, "cpu", half=True)
        with pretended_device():
            train(case, there, str(DEVICE), half=False)
        found["from the CPU to the device"] = distance(cpu, there)
        with pretended_device():
            train(case, back, str(DEVICE), half=True)
        train(case, back, "cpu", half=False)
        found["from the device to the CPU"] = distance(cpu, back)
    return found


def main() -> int:
    warnings.simplefilter("error")
    wanted = sys.argv[1:]
    results: dict[str, Any] = {}
    for case in cases():
        if wanted and str(case) not in wanted:
            continue
        try:
            results[str(case)] = compare(case)
        except Exception:
            results[str(case)] = traceback.format_exc()
    sys.stdout.write(json.dumps(results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
