"""GPUs: the device of each rank, and collectives of tensors on devices."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import socket
from typing import Final, Literal

import torch
from torch import Tensor, distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from marl.core import Communicator
from marl.distributed.communicators import DelegatingCommunicator, check_collective
from marl.errors import InputError
from marl.launchers.environment_variables import local_rank

_TIMEOUT: Final = datetime.timedelta(minutes=2)
_OPERATIONS: Final = {
    "sum": distributed.ReduceOp.SUM,
    "min": distributed.ReduceOp.MIN,
    "max": distributed.ReduceOp.MAX,
}


def find_device(name: str) -> torch.device:
    """Finds the device that this rank computes on: the CPU, the GPU that is named, or one of its GPUs by local rank.

    Args:
        name: cpu, cuda, or cuda:N.

    Raises:
        InputError: there is no such device; the message says why.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"--device is cpu, cuda or cuda:N, not {name}")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        if not torch.backends.cuda.is_built():
            reason = f"torch {torch.__version__} was built without CUDA; install a build with it (pytorch.org)"
        else:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            limited = "" if visible is None else f", and CUDA_VISIBLE_DEVICES is {visible!r}"
            reason = f"torch {torch.__version__} sees no GPU here: look at nvidia-smi{limited}"
        raise InputError(f"--device {name}: {reason}; or leave it out")
    count = torch.cuda.device_count()
    if name == "cuda":
        return torch.device("cuda", local_rank() % count)
    if device.index >= count:
        raise InputError(f"--device {name}: there are {count} GPUs, cuda:0 to cuda:{count - 1}")
    return device


def use_device(device: torch.device) -> None:
    """Selects this rank's GPU, with deterministic algorithms: a resumed run must equal an uninterrupted one."""
    if device.type != "cuda":
        return
    # Read when cuBLAS starts; needed for sums in the same order every time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class ProcessGroup:
    """A process group of torch.distributed, NCCL for GPUs, which is set up over another communicator.

    Args:
        communicator: the ranks; collective.
        backend: nccl, or gloo for tensors on the CPU.
        device: the device of the tensors that are reduced.
    """

    def __init__(self, communicator: Communicator, backend: Literal["nccl", "gloo"], device: torch.device) -> None:
        is_root = communicator.rank == 0
        address = torch.zeros(256, dtype=torch.uint8)
        host = _address(communicator)
        if is_root:
            store = TCPStore(host, 0, communicator.size, is_master=True, wait_for_workers=False)
            encoded = f"{host} {store.port}".encode()
            address[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        communicator.broadcast(address)
        host, port = bytes(address.tolist()).rstrip(b"\0").decode().split()
        if not is_root:
            store = TCPStore(host, int(port), communicator.size, is_master=False, timeout=_TIMEOUT)
        distributed.init_process_group(
            backend,
            store=store,
            rank=communicator.rank,
            world_size=communicator.size,
            device_id=device if device.type == "cuda" else None,
        )

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """Reduces a tensor over ranks, in place; bool tensors as bytes."""
        values = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
        distributed.all_reduce(values, _OPERATIONS[operation])

    def close(self) -> None:
        """Destroys the group."""
        distributed.destroy_process_group()


def _address(communicator: Communicator) -> str:
    """Returns an address at which all ranks reach this one: its host name, or localhost on one machine. Collective."""
    name = socket.gethostname()
    machine = _hash(name)
    extremes = torch.tensor([machine, -machine])
    communicator.all_reduce(extremes, "max")
    return "127.0.0.1" if int(extremes.sum()) == 0 else name


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")


def have_gpus_each(communicator: Communicator, device: torch.device) -> bool:
    """Returns whether each rank has a GPU of its own. Collective."""
    table = torch.zeros(communicator.size, dtype=torch.int64)
    if device.type == "cuda":
        # By the GPU's UUID: each rank may see its own as the first.
        table[communicator.rank] = _hash(str(torch.cuda.get_device_properties(device).uuid))
    communicator.all_reduce(table)
    return len({*table.tolist()} - {0}) == communicator.size


class DeviceCommunicator(DelegatingCommunicator):
    """Collectives of tensors on a GPU: reduced by NCCL, or through the host's memory.

    Args:
        communicator: the ranks, and collectives of tensors on the CPU.
        group: reduces tensors on GPUs; None to reduce them in the host's memory.
    """

    def __init__(self, communicator: Communicator, group: ProcessGroup | None = None) -> None:
        super().__init__(communicator)
        self._group = group
        self._staging: dict[tuple[torch.dtype, torch.Size], Tensor] = {}

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        check_collective(tensor, operation)
        if tensor.is_cpu:
            super().all_reduce(tensor, operation)
        elif self._group is not None:
            self._group.all_reduce(tensor, operation)
        else:
            host = self._staged(tensor)
            super().all_reduce(host, operation)
            tensor.copy_(host)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        if tensor.is_cpu:
            super().broadcast(tensor, root)
            return
        host = self._staged(tensor)
        super().broadcast(host, root)
        tensor.copy_(host)

    def gather_rows(self, tensor: Tensor) -> Tensor:
        # Rows are gathered on the CPU.
        return super().gather_rows(tensor.cpu())

    def _staged(self, tensor: Tensor) -> Tensor:
        """Copies a tensor to host memory, into one buffer for each type and shape, pinned for copies from a GPU."""
        key = (tensor.dtype, tensor.shape)
        host = self._staging.get(key)
        if host is None:
            pinned = tensor.device.type == "cuda"
            host = self._staging[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        return host.copy_(tensor)


def communicator_for(communicator: Communicator, device: torch.device, *, elastic: bool) -> Communicator:
    """Makes a communicator that reduces tensors on the ranks' devices. Collective.

    Args:
        communicator: the ranks, which reduces tensors on the CPU.
        device: this rank's device.
        elastic: whether the job goes on when ranks die, which NCCL does not support.
    """
    if device.type == "cpu" or communicator.size == 1:
        return communicator
    use_nccl = not elastic and distributed.is_nccl_available() and have_gpus_each(communicator, device)
    return DeviceCommunicator(communicator, ProcessGroup(communicator, "nccl", device) if use_nccl else None)
