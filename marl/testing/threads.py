"""Several ranks on the threads of one process, for tests of distribution without MPI."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from marl.core import Communicator
from marl.distributed.communicators import check_collective
from marl.errors import OrderlyExit
from marl.testing.environment_checks import ConformanceError

ResultT = TypeVar("ResultT")


class ThreadCommunicator(Communicator):
    """One of several ranks of one process; see ``run_on_threads``."""

    def __init__(self, rank: int, exchange: _Exchange) -> None:
        self.rank = rank
        self.size = exchange.size
        self._exchange = exchange

    def all_reduce(self, tensor: Tensor, operation: Literal["sum", "min", "max"] = "sum") -> None:
        """Reduces in the order of ranks."""
        check_collective(tensor, operation)
        parts = self._exchange.post(self.rank, f"all_reduce {operation}", tensor, tensor.shape)
        total = parts[0].clone()
        for part in parts[1:]:
            if operation == "sum":
                total += part
            else:
                total = torch.minimum(total, part) if operation == "min" else torch.maximum(total, part)
        tensor.copy_(total)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Overwrites every rank's tensor with the root's."""
        check_collective(tensor)
        tensor.copy_(self._exchange.post(self.rank, f"broadcast from {root}", tensor, tensor.shape)[root])

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """All ranks' rows on rank 0."""
        check_collective(tensor)
        parts = self._exchange.post(self.rank, "gather_rows", tensor, tensor.shape[1:])
        return torch.cat(parts) if self.rank == 0 else tensor.new_empty((0, *tensor.shape[1:]))

    def abort(self, code: int) -> None:
        """Ends this rank, and with it the others."""
        raise OrderlyExit(code)


class _OtherRankError(Exception):
    """Another rank failed, so this one cannot go on."""


@dataclass(frozen=True, slots=True)
class _Posted:
    round: int
    call: str
    tensor: Tensor


class _Exchange:
    """The exchange of tensors between ranks on threads.

    One thread runs at a time, from one collective to the next, and then it is the next rank's turn. So whatever
    threads share, torch's global generator above all, is used as it would be by one process after the other.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed = threading.Condition()
        self._turn = 0
        self._failed = False
        self._left: set[int] = set()
        # A rank may post for the next round before the others have read this one, but not for the one after it.
        self._slots = [[_Posted(-1, "nothing", torch.empty(0))] * size for _ in range(2)]
        self._rounds = [0] * size

    def start(self, rank: int) -> None:
        """Waits for the first turn."""
        with self._changed:
            self._await(rank)

    def post(self, rank: int, call: str, tensor: Tensor, shape: Sequence[int]) -> list[Tensor]:
        """Returns all ranks' tensors, once all ranks have posted theirs."""
        with self._changed:
            number = self._rounds[rank]
            self._rounds[rank] += 1
            slots = self._slots[number % 2]
            slots[rank] = _Posted(number, f"{call} of {tuple(shape)} {tensor.dtype}", tensor.detach().clone())
            self._pass_on(rank)
            self._await(rank)
            calls = [posted.call if posted.round == number else "has ended" for posted in slots]
            if len(set(calls)) > 1:
                detail = "; ".join(f"rank {one}: {what}" for one, what in enumerate(calls))
                raise ConformanceError("all ranks make the same collective calls", detail)
            return [posted.tensor for posted in slots]

    def leave(self, rank: int, *, failed: bool) -> None:
        """A rank has ended."""
        with self._changed:
            self._left.add(rank)
            self._failed |= failed
            self._pass_on(rank)

    def _pass_on(self, rank: int) -> None:
        following = [(rank + step) % self.size for step in range(1, self.size + 1)]
        self._turn = next((one for one in following if one not in self._left), rank)
        self._changed.notify_all()

    def _await(self, rank: int) -> None:
        self._changed.wait_for(lambda: self._turn == rank or self._failed)
        if self._failed:
            raise _OtherRankError


def run_on_threads(size: int, work: Callable[[Communicator], ResultT]) -> list[ResultT]:
    """Calls ``work`` with the communicators of so many ranks, and returns the results in rank order.

    Ranks take turns at collective calls, so the result is always the same. If one raises, all end, and the error is
    raised here.

    Raises:
        ConformanceError: ranks called different collectives.
    """
    exchange = _Exchange(size)
    results: dict[int, ResultT] = {}
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        failed = True
        try:
            exchange.start(rank)
            results[rank] = work(ThreadCommunicator(rank, exchange))
            failed = False
        except _OtherRankError:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            exchange.leave(rank, failed=failed)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [results[rank] for rank in range(size)]
