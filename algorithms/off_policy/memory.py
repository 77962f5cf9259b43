"""Memory that an update from replay takes, compared before learning begins."""

from __future__ import annotations

from marl.algorithms.off_policy.config import OffPolicyConfig
from marl.builders import RunContext
from marl.distributed.communicators import split
from marl.networks.images import is_convolved
from marl.networks.torso import kept_bytes
from marl.replay import Items, Replay, SequenceItems
from marl.resources.memory import SMALLER_IMAGES, require_memory
from marl.specs import ArraySpec, EnvironmentSpec


def batch_bytes(spec: EnvironmentSpec, config: OffPolicyConfig, items: Items, *, batch_size: int) -> int:
    """Bytes that images of a batch take at least, in the update: as they come, and as one network reads them.

    Args:
        spec: of the environment.
        config: of networks.
        items: of replay.
        batch_size: this rank's share.
    """
    steps = items.length if isinstance(items, SequenceItems) else 1
    inputs: list[tuple[ArraySpec, int]] = [(group.observation, group.size) for group in spec.groups]
    if spec.state is not None:
        inputs.append((spec.state, 1))
    total = 0
    for array, count in inputs:
        if not array.is_image:
            continue
        numbers = batch_size * steps * count * array.size
        # Observations and those that follow.
        total += 2 * numbers * array.dtype.itemsize
        if is_convolved(array, config.convolutions):
            total += batch_size * steps * count * kept_bytes(array, config.convolutions)
        elif not array.dtype.is_floating_point:
            total += 8 * numbers
    return total


def require_batch_memory(spec: EnvironmentSpec, config: OffPolicyConfig, replay: Replay, context: RunContext) -> None:
    """Raises InputError where replay, and an update from it, need more memory than there is. Collective."""
    size = config.replay.batch_size
    _, share_of_batch = split(size, context.communicator.size, context.communicator.rank)
    batch = batch_bytes(spec, config, replay.items, batch_size=share_of_batch)
    if not any(group.observation.is_image for group in spec.groups):
        return
    on_host = context.device.type == "cpu"

    def message(needs: str, share: float) -> str:
        what = f"replay of {replay.capacity:,} items with" if on_host else "an update from"
        return (
            f"{what} batches of {size:,} {needs}, {batch / 2**30:,.1f} GiB of it for one batch; lower "
            f"--algorithm.replay.batch-size{' or --algorithm.replay.capacity' if on_host else ''}, {SMALLER_IMAGES}"
        )

    require_memory(batch + (replay.nbytes if on_host else 0), message, context.communicator, context.device)
