"""Configuration of policies that are learned by imitation."""

from __future__ import annotations

from dataclasses import dataclass

from marl.errors import InputError
from marl.learning.replicated_adam import MAX_SKIPPED_STEPS
from marl.networks.images import ImageConfig
from marl.networks.torso import Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitationConfig(ImageConfig):
    """Settings of a policy that is learned by imitation.

    Raises:
        InputError: a number is out of its range.
    """

    batch_size: int = 256
    """Steps of an update of the average policy, over all ranks."""
    learning_rate: float = 1e-3
    """Adam's step size for the average policy."""
    max_gradient_norm: float = 10.0
    """Norm to which its gradient is clipped."""
    max_skipped_steps: int = MAX_SKIPPED_STEPS
    """Its gradient steps in a row that may be skipped because gradients are not finite; then the run ends."""
    hidden_sizes: tuple[int, ...] = (128,)
    """Widths of its hidden layers."""
    activation: Activation = "relu"
    """After each hidden layer."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.max_skipped_steps, *self.hidden_sizes) < 1 or not self.hidden_sizes:
            raise InputError("batch size, skipped steps and the widths of hidden layers are at least 1")
        if not (self.learning_rate > 0.0 and self.max_gradient_norm > 0.0):
            raise InputError("learning rate and largest gradient norm are above 0")
