"""Passes over a rollout: cut into minibatches, whose gradients are added in parts that fit the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from marl.algorithms.on_policy.losses import RolloutLoss, TensorLoss
from marl.algorithms.on_policy.minibatches import assign
from marl.algorithms.on_policy.rollouts import Rollout
from marl.builders import RunContext
from marl.core import Saveable, State
from marl.errors import InputError
from marl.learning.compilation import compiled_gradients
from marl.learning.config_checks import require_at_least
from marl.random_streams import Stream

_MICROBATCH = 4096
"""Agents' steps at a time."""


@dataclass(frozen=True, kw_only=True)
class PassesConfig:
    """Settings of algorithms that go over each rollout several times."""

    epochs: int = 10
    """Passes over each rollout."""
    minibatches: int = 4
    """Parts of each pass, with one gradient step each."""


def check_passes(config: PassesConfig, context: RunContext, *, rollout_length: int, chunk_length: int | None) -> None:
    """InputError where rollouts cannot be cut into so many minibatches."""
    require_at_least(1, config, "epochs", "minibatches")
    units = -(-rollout_length // (chunk_length or 1))
    if config.minibatches > units * context.total_envs:
        raise InputError(
            f"{config.minibatches} minibatches cannot be cut from {units} x {context.total_envs} "
            f"{'steps' if chunk_length is None else 'chunks'}; lower --algorithm.minibatches"
        )


class RolloutPasses(Saveable):
    """Passes of several minibatches, the same for any number of ranks, and their gradients.

    Args:
        losses: of each group.
        context: the run, whose environments the rollouts are of.
        config: how many passes, of how many minibatches.
        chunk_length: steps that stay together, over which gradients flow back through a GRU; None for networks
            without memory, whose steps are dealt out one by one.
        compile: whether gradients come from torch's compiler; for networks without memory.
    """

    def __init__(
        self,
        losses: Mapping[str, RolloutLoss],
        context: RunContext,
        config: PassesConfig,
        *,
        chunk_length: int | None,
        compile: bool,
    ) -> None:
        self._losses = losses
        self._epochs = config.epochs
        self._minibatches = config.minibatches
        self._recurrent = chunk_length is not None
        self._chunk_length = chunk_length or 1
        self._first_env = context.first_env
        self._num_envs = context.num_envs
        self._device = context.device
        self._shuffle = Stream(context.seed, "minibatches", first_env=context.first_env, num_envs=context.num_envs)
        self._compile = compile
        self._compiled: dict[str, Callable[..., Sequence[Tensor]]] = {}
        self._passes = 0

    def cut(self, length: int) -> Iterator[Tensor | None]:
        """Cuts a rollout of ``length`` steps into the minibatches of all passes, one after the other.

        Each is (B,) int64, indices of units (steps or chunks): unit u is the (u // E)th one of environment u % E. None
        stands for all steps at once.
        """
        for _ in range(self._epochs):
            self._passes += 1
            yield from self._cut(-(-length // self._chunk_length))

    def _cut(self, units: int) -> list[Tensor | None]:
        if self._minibatches == 1:
            return [torch.arange(units * self._num_envs, device=self._device) if self._recurrent else None]
        numbers = assign(
            self._shuffle,
            self._passes,
            units=units,
            first_env=self._first_env,
            num_envs=self._num_envs,
            minibatches=self._minibatches,
        ).flatten()
        # Cut on the host, where finding positions waits for nothing.
        cuts = [(numbers == number).nonzero().squeeze(-1) for number in range(self._minibatches)]
        return [cut.to(self._device) for cut in cuts]

    def add_gradients(self, name: str, rollout: Rollout, units: Tensor | None, sums: Tensor) -> None:
        """Adds the gradient of a group's loss, summed over a minibatch's samples.

        Args:
            name: of the group.
            rollout: of the group.
            units: one of the minibatches of ``cut``.
            sums: (len(METRICS),), to which those of the loss are added.
        """
        if self._compile:
            self._add_compiled(name, rollout, units, sums)
        else:
            self._add_plainly(name, rollout, units, sums)

    def _add_compiled(self, name: str, rollout: Rollout, units: Tensor | None, sums: Tensor) -> None:
        everything, agents = rollout.weights.shape
        add = self._compiled.get(name)
        if add is None:
            add = self._compiled[name] = compiled_gradients(TensorLoss(self._losses[name], rollout))
        fields = [field for field in rollout if field is not None]
        units = torch.arange(everything, device=sums.device) if units is None else units
        # One shape for all parts of all minibatches, the last part filled up.
        largest = -(-everything // self._minibatches)
        size = -(-largest // max(1, -(-largest * agents // _MICROBATCH)))
        for part in units.split(size):
            inside = torch.arange(size, device=part.device) < part.numel()
            sums += add(pad(part, (0, size - part.numel())), inside, *fields)[0]

    def _add_plainly(self, name: str, rollout: Rollout, units: Tensor | None, sums: Tensor) -> None:
        everything, agents = rollout.weights.shape
        size = max(1, _MICROBATCH // (self._chunk_length * agents))
        for start in range(0, everything if units is None else units.numel(), size):
            # Small enough for the processor's cache. Slices are views, indices are gathered.
            rows: Tensor | slice
            rows, inside = slice(start, min(start + size, everything)), None
            if units is not None:
                rows = units[start : start + size]
                if self._recurrent:
                    rows, inside = self._sequences(rows, everything // self._num_envs)
            loss, added = self._losses[name](rollout, rows, inside)
            loss.backward()
            sums += added

    def _sequences(self, chunks: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Rows (L, B) of chunks (B,), and which of them exist: the last chunk may reach over the end."""
        steps = torch.arange(self._chunk_length, device=chunks.device).unsqueeze(1)
        times = steps + chunks // self._num_envs * self._chunk_length
        rows = times.clamp(max=length - 1) * self._num_envs + chunks % self._num_envs
        return rows, times < length

    def state_dict(self) -> State:
        """The number of passes, from which minibatches follow."""
        return {"passes": torch.tensor(self._passes)}

    def load_state_dict(self, state: State) -> None:
        self._passes = int(state["passes"])
