"""Gradient steps on samples of replay, of functions that sum losses; plain, or through torch's compiler."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from marl.core import Communicator
from marl.learning.compilation import compiled_gradients
from marl.learning.replicated_adam import MAX_SKIPPED_STEPS, ReplicatedAdam

ValueT = TypeVar("ValueT")
SampleT = TypeVar("SampleT")
Noise = Mapping[str, Tensor]
"""Uniform random numbers of a sample's items, (B, A, numbers) by group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Losses and metrics of one step, summed over a sample's B items."""

    total: Tensor
    """(): the sum of all groups' losses."""
    metrics: Tensor
    """(groups, metrics) sums without gradient; the first metric is the number of samples."""
    td_errors: Tensor
    """(B,) without gradient: each item's absolute temporal difference, for its priority; or empty."""


def sum_losses(losses: Sequence[Losses]) -> Losses:
    """Sums the losses of groups, whose metrics are (metrics,) each; an item's error is the largest group's."""
    return Losses(
        total=torch.stack([loss.total for loss in losses]).sum(),
        metrics=torch.stack([loss.metrics for loss in losses]),
        td_errors=torch.stack([loss.td_errors for loss in losses]).amax(0),
    )


LossFunction = Callable[[SampleT, Noise], Losses]


def _share_size(batch_size: int, ranks: int) -> int:
    """Bounds a rank's share of a batch: shares differ from batch to batch, but are hardly ever larger than this."""
    share = batch_size / ranks
    return min(batch_size, math.ceil(share + 3.0 * math.sqrt(share)))


class GradientStep(Generic[SampleT]):
    """One optimizer step of all groups' networks of one kind: sums of losses in, one all-reduce, averages out.

    Args:
        segments: by group, the parameters to improve by segment name.
        metrics: names of the metrics; the first, ``samples``, is what gradients and all other metrics are divided by.
        losses: of this rank's share of a sample, and uniform numbers of its items.
        networks: all that the losses compute with, whether improved or not.
        communicator: among whose ranks the replicas live.
        learning_rate: Adam's.
        epsilon: Adam's.
        max_gradient_norm: to which each segment's gradient is clipped, after the all-reduce.
        max_skipped_steps: see ReplicatedAdam.
        compiled_batch_size: items of a global batch, for which losses and gradients are compiled; None to compute
            them plainly. Samples are dataclasses then, whose ``weights`` (B,) are 0 for items that do not count.
    """

    def __init__(
        self,
        segments: Mapping[str, Mapping[str, Sequence[nn.Parameter]]],
        metrics: Sequence[str],
        losses: LossFunction[SampleT],
        networks: Sequence[nn.Module],
        communicator: Communicator,
        *,
        learning_rate: float,
        epsilon: float,
        max_gradient_norm: float,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
        compiled_batch_size: int | None = None,
    ) -> None:
        self._segments = {name: tuple(f"{name}.{part}" for part in parts) for name, parts in segments.items()}
        flat = {f"{name}.{part}": list(value) for name, parts in segments.items() for part, value in parts.items()}
        self._parameters = [parameter for parameters in flat.values() for parameter in parameters]
        self._metrics = tuple(metrics)
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
            bookkeeping=len(segments) * len(metrics),
            max_skipped_steps=max_skipped_steps,
        )

    def __call__(self, sample: SampleT, noise: Noise) -> tuple[dict[str, float], Tensor]:
        """Takes one step.

        Args:
            sample: this rank's share of a global batch; it may be empty.
            noise: (B, A, numbers) uniform by group.

        Returns:
            Metrics ``GROUP/NAME``, averaged over all ranks' samples, and the gradient's norm; and the items' (B,)
            errors.
        """
        self.optimizer.zero()
        add = self._add_plainly if self._size is None else self._add_compiled
        metrics, td_errors = add(sample, noise)
        self.optimizer.tail.copy_(metrics.flatten())
        self.optimizer.reduce()
        averages: dict[str, float] = {}
        counts: dict[str, float] = {}
        sums = self.optimizer.tail.view(len(self._segments), -1).tolist()
        for (name, segments), (samples, *values) in zip(self._segments.items(), sums, strict=True):
            counts |= dict.fromkeys(segments, samples)
            for metric, value in zip(self._metrics[1:], values, strict=True):
                averages[f"{name}/{metric}"] = value / max(samples, 1.0)
        norm = self.optimizer.step(counts)
        return {**averages, "gradient_norm": norm}, td_errors

    def _add_plainly(self, sample: SampleT, noise: Noise) -> tuple[Tensor, Tensor]:
        losses = self._losses(sample, noise)
        # Gradients into other networks on the way are left out: they are neither needed nor computed.
        losses.total.backward(inputs=self._parameters)
        return losses.metrics, losses.td_errors

    def _add_compiled(self, sample: Any, noise: Noise) -> tuple[Tensor, Tensor]:
        """Adds the same in chunks of one size, the last one padded with items of no weight."""
        assert self._size is not None
        metrics = torch.zeros_like(self.optimizer.tail)
        td_errors: list[Tensor] = [sample.weights[:0]]
        count, tensors = len(sample.weights), tensors_of((sample, dict(noise)))
        for start in range(0, count, self._size):
            rows = torch.arange(start, start + self._size, device=sample.weights.device)
            chunk = [tensor.index_select(0, rows.to(tensor.device).clamp(max=count - 1)) for tensor in tensors]
            chunk.append((rows < count).to(sample.weights.dtype))
            if self._compiled is None:
                module = _LossModule(self._losses, self._networks, (sample, dict(noise)))
                self._compiled = compiled_gradients(module, self._parameters)
            sums, chunk_td_errors = self._compiled(*chunk)
            metrics += sums.flatten()
            td_errors.append(chunk_td_errors[: count - start])
        return metrics, torch.cat(td_errors)


class _LossModule(nn.Module):
    """Losses as a function of tensors alone, with all networks' parameters as its own; for a compiler."""

    def __init__(self, losses: LossFunction[Any], networks: Sequence[nn.Module], template: tuple[Any, Noise]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self._losses = losses
        self._template = template

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses from the tensors of sample and noise, and (B,) ones, or zeros for items of the padding."""
        *given, counted = tensors
        sample, noise = with_tensors(self._template, given)
        losses = self._losses(replace(sample, weights=sample.weights * counted), noise)
        return losses.total, losses.metrics, losses.td_errors


def tensors_of(value: Any) -> list[Tensor]:
    """Lists all tensors within dataclasses, mappings and tuples, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in _parts(value).values() for tensor in tensors_of(part)]


def with_tensors(template: ValueT, tensors: Sequence[Tensor]) -> ValueT:
    """Copies a value with other tensors, in the order of ``tensors_of``, in place of its own."""
    remaining = iter(tensors)

    def rebuild(value: Any) -> Any:
        if isinstance(value, Tensor):
            return next(remaining)
        parts = {name: rebuild(part) for name, part in _parts(value).items()}
        if isinstance(value, Mapping):
            return parts
        if isinstance(value, tuple):
            return tuple(parts.values())
        return replace(value, **parts) if parts else value

    result: ValueT = rebuild(template)
    return result


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return dict(enumerate(value))
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}
