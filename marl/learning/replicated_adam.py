"""The optimizer whose replicas stay equal: one flat buffer, one all-reduce, one fused step."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from marl.core import Communicator, Saveable, State
from marl.distributed.flat_parameters import FlatParameters
from marl.errors import InputError

MAX_SKIPPED_STEPS: Final = 500
"""Steps in a row that are skipped by default before a run ends: dozens of updates from rollouts."""
_TOLD_FROM: Final = 20
"""Steps skipped in a row of which the user is told. One bad batch of a few steps is no news."""


class ReplicatedAdam(Saveable):
    """Adam (Kingma & Ba 2015) on parameters that are equal on all ranks.

    A learner's whole share of distribution: construction broadcasts rank 0's parameters; between ``backward``
    and ``step`` stands ``reduce``, one in-place all-reduce of gradients and bookkeeping together. Gradients
    are sums over samples; ``step`` divides them by the global counts.

    Args:
        segments: parameters by name, one name for each network whose gradient is clipped on its own.
        communicator: the ranks that hold replicas.
        learning_rate: step size; ``set_learning_rate`` changes it.
        epsilon: Adam's epsilon.
        max_gradient_norm: Euclidean norm to which each segment's gradient is clipped.
        bookkeeping: numbers that travel with the gradients, in ``tail``.
        max_skipped_steps: steps in a row that may be skipped because a gradient is not finite.
    """

    def __init__(
        self,
        segments: Mapping[str, Sequence[nn.Parameter]],
        communicator: Communicator,
        *,
        learning_rate: float,
        epsilon: float,
        max_gradient_norm: float,
        bookkeeping: int,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
    ) -> None:
        self._communicator = communicator
        # The last element is for votes, which cost no collective of their own (see StopVote).
        self._flat = FlatParameters(segments, tail=bookkeeping + 1)
        self._tail, self._ballot = self._flat.tail[:bookkeeping], self._flat.tail[bookkeeping:]
        self._flat.broadcast(communicator)
        self._names = tuple(segments)
        self._max_norm = max_gradient_norm
        self._parameter = self._flat.flat_parameter()
        self._epsilon = epsilon
        # Not torch.optim.Adam: the class imports torch's compiler, which takes two seconds and 330 MB of every rank.
        self._moments: State = {}
        self.learning_rate = learning_rate
        self.skipped = 0
        """Steps skipped so far because a gradient was not finite."""
        self._skipped_in_a_row = 0
        self._max_skipped_steps = max_skipped_steps

    @property
    def tail(self) -> Tensor:
        """The bookkeeping: this rank's numbers before ``reduce``, all ranks' sums after it."""
        return self._tail

    @property
    def parameters(self) -> Tensor:
        """All parameters, flat."""
        return self._flat.parameters

    def zero(self) -> None:
        """Clears gradients and bookkeeping."""
        self._flat.zero_gradients()

    def reduce(self) -> None:
        """Sums gradients and bookkeeping over ranks."""
        communicator = self._communicator
        communicator.cast_vote(self._ballot)
        self._flat.all_reduce(communicator)
        communicator.read_vote(self._ballot)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Changes the step size."""
        self.learning_rate = learning_rate

    def step(self, counts: Mapping[str, float]) -> float:
        """Averages, clips and applies the reduced gradients; skips the step if one of them is not finite.

        Args:
            counts: global number of samples behind each segment's gradient. Where it is zero, so is the gradient.

        Returns:
            The largest norm of a segment's averaged gradient, before clipping.

        Raises:
            InputError: too many steps in a row were skipped; on all ranks, since what is reduced is equal there.
        """
        norms: list[Tensor] = []
        for name in self._names:
            gradient = self._flat.segment(name).gradients
            gradient /= max(counts[name], 1.0)
            norm = torch.linalg.vector_norm(gradient)
            gradient *= torch.clamp(self._max_norm / (norm + 1e-6), max=1.0)
            norms.append(norm)
        largest = float(torch.stack(norms).max())
        # Reduced gradients are the same on all ranks, and so is this branch.
        if not largest < float("inf"):
            self._skip()
            return largest
        self._skipped_in_a_row = 0
        self._apply()
        return largest

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        count, limit = self._skipped_in_a_row, self._max_skipped_steps
        if count >= limit:
            raise InputError(
                f"the last {count} gradient steps were skipped, since gradients were not finite: learning has "
                "diverged, or observations or rewards are not finite or huge; lower the learning rate or scale "
                "rewards, and go on from the last checkpoint, or raise --algorithm.max-skipped-steps"
            )
        if count == _TOLD_FROM and self._communicator.rank == 0:
            sys.stderr.write(
                f"marl: {count} gradient steps in a row were skipped, since gradients were not finite; "
                f"after {limit} the run ends\n"
            )

    @torch.no_grad()
    def _apply(self) -> None:
        if not self._moments:
            self._moments = {
                "exp_avg": torch.zeros_like(self._parameter),
                "exp_avg_sq": torch.zeros_like(self._parameter),
                "step": torch.zeros((), device=self._parameter.device),
            }
        assert self._parameter.grad is not None
        adam(
            [self._parameter],
            [self._parameter.grad],
            [self._moments["exp_avg"]],
            [self._moments["exp_avg_sq"]],
            [],
            [self._moments["step"]],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=self._epsilon,
            maximize=False,
        )

    def state_dict(self) -> State:
        """Adam's moments and step count, and how many steps were skipped. Parameters are saved by their owners."""
        counts = torch.tensor([self.skipped, self._skipped_in_a_row])
        return {**self._moments, "skipped": counts}

    def load_state_dict(self, state: State) -> None:
        self.skipped, self._skipped_in_a_row = state["skipped"].tolist()
        moments = {name: tensor for name, tensor in state.items() if name != "skipped"}
        for name in ("exp_avg", "exp_avg_sq"):
            if name in moments and moments[name].shape != self._parameter.shape:
                raise ValueError(f"optimizer state of {moments[name].numel()} parameters for {self._parameter.numel()}")
        device = self._parameter.device
        self._moments = {name: tensor.to(device, copy=True) for name, tensor in moments.items()}
