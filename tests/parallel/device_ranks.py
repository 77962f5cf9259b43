"""Ranks whose tensors are on a device of their own; ``test_device_ranks.py`` runs it and reads its lines."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

import torch

# Before anything that uses torch.inference_mode.
from pretended_device import DEVICE, Elsewhere, pretended_device

sys.path.append(str(Path(__file__).parents[1] / "chaos"))

from resumptions import cases
from torch import Tensor

from marl.core import Communicator
from marl.launchers.mpi.devices import DeviceCommunicator, ProcessGroup, communicator_for, have_gpus_each
from marl.launchers.mpi.ranks import run_on_ranks

CPU = torch.device("cpu")


def check_collectives_go_through_the_memory_of_the_host(c: Communicator) -> None:
    on_device = DeviceCommunicator(c)
    with pretended_device():
        for dtype in (torch.float32, torch.float64, torch.int64):
            tensor = torch.full((3,), c.rank + 1, dtype=dtype, device=DEVICE)
            for _ in range(2):  # the second time in memory that is there
                total = tensor.clone()
                on_device.all_reduce(total)
                assert isinstance(total, Elsewhere)
                assert total.tolist() == [c.size * (c.size + 1) / 2] * 3
        flag = torch.tensor([c.rank == 0], device=DEVICE)
        on_device.all_reduce(flag, "max")
        assert flag.tolist() == [True]
        of_the_first = torch.full((2,), float(c.rank), device=DEVICE)
        on_device.broadcast(of_the_first)
        assert of_the_first.tolist() == [0.0, 0.0]
        rows = on_device.gather_rows(torch.full((1, 2), float(c.rank), device=DEVICE))
        assert rows.is_cpu
        assert len(rows) == (c.size if c.rank == 0 else 0)
    here = torch.ones(2)
    on_device.all_reduce(here)
    assert here.tolist() == [c.size, c.size]


def check_ranks_meet_in_a_process_group_of_torch(c: Communicator) -> None:
    group = ProcessGroup(c, "gloo", CPU)
    for operation, expected in (("sum", c.size * (c.size + 1) / 2), ("min", 1), ("max", c.size)):
        tensor = torch.full((3, 2), c.rank + 1, dtype=torch.float32)
        group.all_reduce(tensor, operation)  # type: ignore[arg-type]
        assert (tensor == expected).all()
    flags = torch.tensor([c.rank == 0, False])
    group.all_reduce(flags, "max")
    assert flags.tolist() == [True, False]
    group.close()


def check_ranks_without_gpus_have_none_each(c: Communicator) -> None:
    assert not have_gpus_each(c, CPU)
    assert communicator_for(c, CPU, elastic=False) is c


def check_training_on_a_device_is_training_on_the_cpu(c: Communicator) -> None:
    for case in cases():
        if str(case) not in ("mappo on mpe2.simple_spread_v3, batched", "vdn on mpe2.simple_spread_v3, pettingzoo"):
            continue
        weights: list[dict[str, Tensor]] = []
        for device in ("cpu", str(DEVICE)):
            with pretended_device():
                experiment = case.make(DeviceCommunicator(c), device, steps=20)
                experiment.run()
                weights.append({name: tensor.cpu() for name, tensor in experiment.learner.get_variables().items()})
                experiment.close()
        for name, tensor in weights[0].items():
            assert (tensor - weights[1][name]).abs().max() < 1e-5, name


def main(communicator: Communicator) -> int:
    torch.set_num_threads(1)
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check(communicator)
            communicator.all_reduce(torch.zeros(1))
            if communicator.rank == 0:
                sys.stdout.write(f"passed {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_on_ranks(main))
