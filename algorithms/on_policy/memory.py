"""Memory that rollouts and updates from them take: known from sizes, and compared before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator

from marl.algorithms.on_policy.config import OnPolicyConfig
from marl.builders import RunContext
from marl.networks.images import is_convolved
from marl.networks.torso import kept_bytes
from marl.resources.memory import SMALLER_IMAGES, require_memory
from marl.specs import ArraySpec, EnvironmentSpec


def update_bytes(spec: EnvironmentSpec, config: OnPolicyConfig, *, num_envs: int, minibatches: int) -> int:
    """Bytes that a rollout and its update take at least.

    Counted are the rollout's observations and states, once more as floats where bytes are read by plain layers, and
    what convolutions of one minibatch keep for the backward pass.

    Args:
        spec: of the environment.
        config: length of rollouts, networks.
        num_envs: E.
        minibatches: parts of a rollout whose gradients are computed one after the other.
    """
    rows = (config.rollout_length + 1) * num_envs
    total = 0
    for array, count, networks in _inputs(spec, config):
        numbers = rows * count * array.size
        total += numbers * array.dtype.itemsize
        if not array.dtype.is_floating_point and not is_convolved(array, config.convolutions):
            total += 4 * numbers
        at_once = config.rollout_length * num_envs // minibatches
        total += at_once * count * networks * kept_bytes(array, config.convolutions)
    return total


def _inputs(spec: EnvironmentSpec, config: OnPolicyConfig) -> Iterator[tuple[ArraySpec, int, int]]:
    """Each kind of input, how many of it there are at one step of one environment, and how many networks read it."""
    both = not config.centralized_critic or config.agent_features
    for group in spec.groups:
        yield group.observation, group.size, 2 if both else 1
    if spec.state is not None:
        yield spec.state, 1, len(spec.groups)


def require_update_memory(
    spec: EnvironmentSpec, config: OnPolicyConfig, context: RunContext, *, minibatches: int
) -> None:
    """Raises InputError where a rollout and its update need more memory than there is. Collective."""
    inputs = [group.observation for group in spec.groups]
    images = any(array.is_image for array in inputs)
    shapes = " and ".join(sorted({"×".join(map(str, array.shape)) or "1" for array in inputs}))
    agents = sum(group.size for group in spec.groups)

    def message(needs: str, share: float) -> str:
        return (
            f"a rollout of {config.rollout_length} steps in {context.total_envs} environments with {agents} agents "
            f"that see {shapes} {needs}; lower --num-envs below {max(2, int(context.total_envs * share) + 1)} or "
            f"--algorithm.rollout-length{', ' + SMALLER_IMAGES if images else ''}"
        )

    needed = update_bytes(spec, config, num_envs=context.num_envs, minibatches=minibatches)
    require_memory(needed, message, context.communicator, context.device)
