"""What ranks do together, seen from the library: the serial communicator, flat gradients, replica checks.

The communicator over MPI is in ``launchers.mpi``; nothing here knows about it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from marl.core import Communicator

_ALIGNMENT: Final = 64
"""Bytes: every parameter begins on a cache line, as it would if it were allocated by itself."""


class ReplicaError(RuntimeError):
    """Replicas that must be equal are not; ``ranks`` are those that differ from the majority."""

    def __init__(self, what: str, ranks: list[int]) -> None:
        self.ranks = ranks
        names = ", ".join(str(rank) for rank in ranks)
        super().__init__(f"{what} differ between ranks: rank {names} disagrees with the majority")


def check_collective(tensor: Tensor, operation: Literal["sum", "min", "max"] | None = None) -> None:
    """Raises ValueError where a tensor cannot take part in a collective, whatever the number of ranks.

    Args:
        tensor: what is to be sent; it must be contiguous.
        operation: how it is to be reduced; sums of bool are refused, since True + True has no meaning as a bool.
    """
    if not tensor.is_contiguous():
        raise ValueError(f"collectives need contiguous tensors, got strides {tensor.stride()} for {tensor.shape}")
    if operation == "sum" and tensor.dtype == torch.bool:
        raise ValueError("a bool tensor cannot be summed over ranks; reduce it by max (any) or min (all)")


class DelegatingCommunicator(Communicator):
    """Another communicator's collectives as they are; subclasses add to some of them.

    Args:
        communicator: the ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._inner = communicator
        self.rank = communicator.rank
        self.size = communicator.size

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """See Communicator."""
        self._inner.all_reduce(tensor, operation)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """See Communicator."""
        self._inner.broadcast(tensor, root)

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """See Communicator."""
        return self._inner.gather_rows(tensor)

    def abort(self, code: int) -> None:
        """See Communicator."""
        self._inner.abort(code)


class SerialCommunicator(Communicator):
    """One process: every collective is the identity. It refuses the tensors that several ranks would refuse."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """Leaves the tensor as it is."""
        check_collective(tensor, operation)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Leaves the tensor as it is; ValueError where the root is not rank 0."""
        check_collective(tensor)
        if root != 0:
            raise ValueError(f"there is no rank {root} in a single process")

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor."""
        check_collective(tensor)
        if tensor.dim() == 0:
            raise ValueError("a scalar has no rows to gather")
        return tensor.detach().clone()

    def abort(self, code: int) -> None:
        """Leaves the process with this exit code."""
        raise SystemExit(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One named part of FlatParameters."""

    slice: slice
    """Where it lies in the flat tensors, padding included."""
    parameters: Tensor
    """View of the flat parameters."""
    gradients: Tensor
    """View of the flat gradients."""


class FlatParameters:
    """One flat buffer of parameters and one of gradients, of which every ``p.data`` and ``p.grad`` is a view.

    So ranks meet in one in-place all-reduce, norms and optimizers can work on whole segments, and no gradient is
    ever copied. Parameters begin on 64-byte boundaries; the padding in between is zero and stays zero under any
    optimizer that moves a parameter only by its gradient and its own value.

    The gradient buffer ends in a tail for bookkeeping: sample counts, a non-finite flag, a stop flag. It has the
    dtype of the gradients, so in float32 a count is exact up to 2²⁴ = 16,777,216 summed over ranks; count in
    larger units where an update sees more.

    Gradients are accumulated: call ``zero_gradients`` before ``backward``, and never ``optimizer.zero_grad()``,
    whose default replaces the views by None. ``check_views`` finds this; it runs before the first all-reduce and at
    every ``zero_gradients``, so that the collective itself costs nothing more than its bytes.

    Args:
        segments: parameters by segment name, for instance one for each group's actor and critic. Their order is
            the order in the buffers and must be the same on all ranks. One dtype, one device, none twice.
        tail: number of floats after the gradients.
    """

    def __init__(self, segments: Mapping[str, Iterable[nn.Parameter]], *, tail: int = 0) -> None:
        named = {name: list(parameters) for name, parameters in segments.items()}
        everything = [parameter for parameters in named.values() for parameter in parameters]
        if not everything:
            raise ValueError("there are no parameters to make flat")
        kinds = {(parameter.dtype, parameter.device) for parameter in everything}
        if len(kinds) > 1:
            raise ValueError(f"flat parameters need one dtype and one device, got {sorted(map(str, kinds))}")
        if len({id(parameter) for parameter in everything}) < len(everything):
            raise ValueError("a parameter is listed twice; put modules that share parameters into one segment")
        dtype, device = kinds.pop()
        unit = max(1, _ALIGNMENT // dtype.itemsize)
        starts: list[int] = []
        slices: dict[str, slice] = {}
        end = 0
        for name, parameters in named.items():
            first = end
            for parameter in parameters:
                starts.append(end)
                end += -(-parameter.numel() // unit) * unit
            slices[name] = slice(first, end)

        self.parameters: Tensor = torch.zeros(end, dtype=dtype, device=device)
        """(N,) all parameters, padding included."""
        self._buffer = torch.zeros(end + tail, dtype=dtype, device=device)
        self.gradients: Tensor = self._buffer[:end]
        """(N,) all gradients, without the tail."""
        self.tail: Tensor = self._buffer[end:]
        """(tail,) bookkeeping that travels with the gradients."""
        self._views: list[tuple[nn.Parameter, Tensor, int]] = []
        for parameter, start in zip(everything, starts, strict=True):
            data = self.parameters[start : start + parameter.numel()].view(parameter.shape)
            data.copy_(parameter.detach())
            gradient = self.gradients[start : start + parameter.numel()].view(parameter.shape)
            parameter.data = data
            self._adopt(parameter, gradient)
        self._segments = {
            name: Segment(slice=place, parameters=self.parameters[place], gradients=self.gradients[place])
            for name, place in slices.items()
        }
        self._flat: dict[str | None, nn.Parameter] = {}
        self._checked = False

    def _adopt(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        parameter.grad = gradient
        # The gradient object is kept, so that one identity test tells whether anybody replaced it.
        self._views.append((parameter, gradient, parameter.data_ptr()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the segments, in their order."""
        return tuple(self._segments)

    def segment(self, name: str) -> Segment:
        """Where one segment lies, and its views; KeyError for an unknown name."""
        return self._segments[name]

    def flat_parameter(self, name: str | None = None) -> nn.Parameter:
        """One segment (or everything) as a single (N,) parameter with its gradient, for optimizers.

        An optimizer that treats all elements alike (Adam, SGD, RMSprop) computes on it what it would compute on
        the single parameters, in one pass. The same object on every call.
        """
        if name not in self._flat:
            data = self.parameters if name is None else self._segments[name].parameters
            parameter = nn.Parameter(data)
            self._adopt(parameter, self.gradients if name is None else self._segments[name].gradients)
            self._flat[name] = parameter
        return self._flat[name]

    def check_views(self) -> None:
        """Raises RuntimeError where somebody replaced a parameter's data or gradient instead of writing into it."""
        for parameter, gradient, pointer in self._views:
            if parameter.grad is not gradient:
                raise RuntimeError(
                    f"the gradient of a parameter of shape {tuple(parameter.shape)} is no longer a view of the flat "
                    "buffer; clear gradients with zero_gradients(), not with optimizer.zero_grad()"
                )
            if parameter.data_ptr() != pointer:
                raise RuntimeError(
                    f"a parameter of shape {tuple(parameter.shape)} is no longer a view of the flat buffer; "
                    "write into it with copy_ or load_state_dict, and move modules to devices before making them flat"
                )

    def zero_gradients(self) -> None:
        """Clears all gradients and the tail; RuntimeError where gradients are no longer views (``check_views``)."""
        self.check_views()
        self._buffer.zero_()

    def all_reduce(self, communicator: Communicator) -> None:
        """Sums gradients and tail over ranks: one collective, in place."""
        if not self._checked:
            self.check_views()
            self._checked = True
        communicator.all_reduce(self._buffer)

    def broadcast(self, communicator: Communicator, root: int = 0) -> None:
        """Gives every rank the root's parameters."""
        self.check_views()
        communicator.broadcast(self.parameters, root)


def _fingerprint(tensor: Tensor) -> Tensor:
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    digest = hashlib.blake2b(content.data, digest_size=16).digest()
    words = [int.from_bytes(digest[begin : begin + 8], "little") >> 1 for begin in (0, 8)]
    return torch.tensor(words, dtype=torch.int64)


def replica_difference(communicator: Communicator, tensor: Tensor) -> list[int]:
    """Ranks whose tensor differs, bit by bit, from that of most ranks; the same list on all ranks.

    Equal replicas cost one all-reduce of 32 bytes. Where two contents are equally frequent, the one on the lowest
    rank counts as right.

    Args:
        communicator: the ranks that compare; all must call.
        tensor: any shape and dtype.

    Returns:
        Ascending ranks; empty where all agree.
    """
    words = _fingerprint(tensor)
    # The minimum of the complement is the complement of the maximum: one collective finds both.
    extremes = torch.cat((words, ~words))
    communicator.all_reduce(extremes, "min")
    if torch.equal(extremes[:2], ~extremes[2:]):
        return []
    guilty = torch.zeros(communicator.size, dtype=torch.int64)
    rows = communicator.gather_rows(words.view(1, 2))
    if communicator.rank == 0:
        contents = [tuple(row) for row in rows.tolist()]
        # most_common keeps the order of first appearance among equals.
        right = Counter(contents).most_common(1)[0][0]
        guilty.copy_(torch.tensor([content != right for content in contents]))
    communicator.broadcast(guilty)
    return [rank for rank, flag in enumerate(guilty.tolist()) if flag]


def assert_replicas_equal(communicator: Communicator, tensor: Tensor, what: str = "parameters") -> None:
    """Raises ReplicaError, naming the ranks, where a tensor is not bit-identical on all ranks; all must call."""
    if ranks := replica_difference(communicator, tensor):
        raise ReplicaError(what, ranks)


def split(total: int, size: int, rank: int) -> tuple[int, int]:
    """A rank's contiguous share of ``total`` things, for instance environment copies.

    Shares differ by at most one; the first ranks hold the larger ones. With fewer things than ranks the last
    ranks hold none.

    Returns:
        The index of the first thing, and how many.
    """
    if total < 0 or not 0 <= rank < size:
        raise ValueError(f"cannot give rank {rank} of {size} its share of {total}")
    share, rest = divmod(total, size)
    return share * rank + min(rank, rest), share + (rank < rest)


def reduce_sums(communicator: Communicator, values: Mapping[str, float]) -> dict[str, float]:
    """Sums named figures over ranks, in float64 and one all-reduce.

    Args:
        communicator: the ranks that sum; all must call.
        values: the same names on all ranks, in any order.

    Returns:
        The sums, in the order of ``values``.

    Raises:
        RuntimeError: where ranks brought different names (as many of them; a different number fails in MPI).
    """
    names = sorted(values)
    # A checksum of the names travels along: sums of different things would otherwise go unnoticed.
    checksum = float(zlib.crc32("\n".join(names).encode()))
    buffer = torch.tensor([checksum, *(float(values[name]) for name in names)], dtype=torch.float64)
    communicator.all_reduce(buffer)
    total, *sums = buffer.tolist()
    if total != checksum * communicator.size:
        raise RuntimeError(f"ranks reduce figures of different names; rank {communicator.rank} has {names}")
    reduced = dict(zip(names, sums, strict=True))
    return {name: reduced[name] for name in values}
