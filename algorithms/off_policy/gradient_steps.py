"""Optimizer steps on samples of replay: a function gives sums of losses, plainly or through torch's compiler."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from marl.core import Communicator
from marl.learning.compilation import compiled_gradients
from marl.learning.optimizers import ReplicatedAdam
from marl.replay import Sequences, Transitions

ValueT = TypeVar("ValueT")
SampleT = TypeVar("SampleT", bound="Transitions | Sequences")
Noise = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What one step minimises, summed over a sample's B items."""

    total: Tensor
    """(): the sum of all groups' losses."""
    figures: Tensor
    """(groups, figures) sums without gradient; the first figure is how many samples there were."""
    td_errors: Tensor
    """(B,) without gradient: how wrong the predictions of each item were, for its priority; or empty."""


def added(losses: Sequence[Losses]) -> Losses:
    """All groups' losses together, of (figures,) each; an item's td_errors is its largest."""
    return Losses(
        total=torch.stack([loss.total for loss in losses]).sum(),
        figures=torch.stack([loss.figures for loss in losses]),
        td_errors=torch.stack([loss.td_errors for loss in losses]).amax(0),
    )


LossFunction = Callable[[SampleT, Noise], Losses]


def _share_size(batch_size: int, ranks: int) -> int:
    """Items of a rank's share of a batch: shares differ from batch to batch, but are hardly ever larger than this."""
    share = batch_size / ranks
    return min(batch_size, math.ceil(share + 3.0 * math.sqrt(share)))


class GradientStep(Generic[SampleT]):
    """One optimizer step of all groups' networks of one kind: sums of losses in, one all-reduce, averages out.

    Args:
        segments: by group, the parameters to improve by segment name.
        figures: names of the figures; the first, ``samples``, is what gradients and all other figures are divided by.
        losses: of this rank's share of a sample, and uniform numbers of its items.
        networks: all that the losses compute with, whether improved or not.
        communicator: among whose ranks the replicas live.
        learning_rate: Adam's.
        epsilon: Adam's.
        max_gradient_norm: to which each segment's gradient is clipped, after the all-reduce.
        compiled_batch_size: items of a global batch, for which losses and gradients are compiled; None to compute
            them plainly.
    """

    def __init__(
        self,
        segments: Mapping[str, Mapping[str, Sequence[nn.Parameter]]],
        figures: Sequence[str],
        losses: LossFunction[SampleT],
        networks: Sequence[nn.Module],
        communicator: Communicator,
        *,
        learning_rate: float,
        epsilon: float,
        max_gradient_norm: float,
        compiled_batch_size: int | None = None,
    ) -> None:
        self._segments = {name: tuple(f"{name}.{part}" for part in parts) for name, parts in segments.items()}
        flat = {f"{name}.{part}": list(value) for name, parts in segments.items() for part, value in parts.items()}
        self._parameters = [parameter for parameters in flat.values() for parameter in parameters]
        self._figures = tuple(figures)
        self._losses = losses
        self._networks = tuple(networks)
        self._size: int | None = None
        if compiled_batch_size is not None:  # a compiled function is for so many items, no more and no less
            self._size = _share_size(compiled_batch_size, communicator.size)
        self._compiled: Callable[..., Sequence[Tensor]] | None = None
        self.optimizer = ReplicatedAdam(
            flat,
            communicator,
            learning_rate=learning_rate,
            epsilon=epsilon,
            max_gradient_norm=max_gradient_norm,
            bookkeeping=len(segments) * len(figures),
        )

    def __call__(self, sample: SampleT, noise: Noise) -> tuple[dict[str, float], Tensor]:
        """One step.

        Args:
            sample: this rank's share of a global batch; it may be empty.
            noise: (B, A, numbers) uniform by group.

        Returns:
            Figures ``GROUP/NAME``, averaged over all ranks' samples, and the gradient's norm; and (B,) td_errors.
        """
        self.optimizer.zero()
        add = self._add_plainly if self._size is None else self._add_compiled
        figures, td_errors = add(sample, noise)
        self.optimizer.tail.copy_(figures.flatten())
        self.optimizer.reduce()
        averages: dict[str, float] = {}
        counts: dict[str, float] = {}
        sums = self.optimizer.tail.view(len(self._segments), -1).tolist()
        for (name, segments), (samples, *values) in zip(self._segments.items(), sums, strict=True):
            counts |= dict.fromkeys(segments, samples)
            for figure, value in zip(self._figures[1:], values, strict=True):
                averages[f"{name}/{figure}"] = value / max(samples, 1.0)
        norm = self.optimizer.step(counts)
        return {**averages, "gradient_norm": norm}, td_errors

    def _add_plainly(self, sample: SampleT, noise: Noise) -> tuple[Tensor, Tensor]:
        losses = self._losses(sample, noise)
        # Gradients into other networks on the way are left out: they are neither needed nor computed.
        losses.total.backward(inputs=self._parameters)
        return losses.figures, losses.td_errors

    def _add_compiled(self, sample: SampleT, noise: Noise) -> tuple[Tensor, Tensor]:
        """The same in parts of one size, the last one filled up with items of no weight."""
        assert self._size is not None
        figures = torch.zeros_like(self.optimizer.tail)
        td_errors: list[Tensor] = [sample.weights[:0]]
        count, whole = len(sample.weights), tensors_of((sample, dict(noise)))
        for start in range(0, count, self._size):
            rows = torch.arange(start, start + self._size, device=sample.weights.device)
            tensors = [tensor.index_select(0, rows.to(tensor.device).clamp(max=count - 1)) for tensor in whole]
            tensors.append((rows < count).to(sample.weights.dtype))
            if self._compiled is None:
                function = _Function(self._losses, self._networks, (sample, dict(noise)))
                self._compiled = compiled_gradients(function, self._parameters)
            sums, chunk_td_errors = self._compiled(*tensors)
            figures += sums.flatten()
            td_errors.append(chunk_td_errors[: count - start])
        return figures, torch.cat(td_errors)


class _Function(nn.Module):
    """Losses as a function of tensors alone, with all networks' parameters as its own; for a compiler."""

    def __init__(self, losses: LossFunction[Any], networks: Sequence[nn.Module], like: tuple[Any, Noise]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self._losses = losses
        self._like = like

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors of sample and noise, and (B,) ones, or zeros for items that only fill up."""
        *given, inside = tensors
        sample, noise = with_tensors(self._like, given)
        losses = self._losses(replace(sample, weights=sample.weights * inside), noise)
        return losses.total, losses.figures, losses.td_errors


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors within dataclasses, mappings and tuples, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in _parts(value).values() for tensor in tensors_of(part)]


def with_tensors(like: ValueT, tensors: Sequence[Tensor]) -> ValueT:
    """A value like the given one, whose tensors, in the order of ``tensors_of``, are others."""
    rest = iter(tensors)

    def rebuilt(value: Any) -> Any:
        if isinstance(value, Tensor):
            return next(rest)
        parts = {name: rebuilt(part) for name, part in _parts(value).items()}
        if isinstance(value, Mapping):
            return parts
        if isinstance(value, tuple):
            return tuple(parts.values())
        return replace(value, **parts) if parts else value

    result: ValueT = rebuilt(like)
    return result


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return dict(enumerate(value))
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}
