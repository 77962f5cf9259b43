"""The interface of distributions over one agent's action; ``make_distribution`` builds them from network outputs.

Samples are pure functions of uniform numbers (see ``marl.random_streams``), so that they depend on neither the rank
nor a global generator. Leading dimensions, written (...), are those of the network outputs without the last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Distribution(ABC):
    """A distribution over actions; action dimensions are independent, and the joint is meant throughout."""

    @abstractmethod
    def sample(self, uniforms: Tensor) -> Tensor:
        """Actions, one for each row of uniform numbers.

        Args:
            uniforms: (..., num_uniforms) float in (0, 1).

        Returns:
            (..., *action shape). Those of the Gaussians carry gradients (reparameterisation).
        """

    @abstractmethod
    def mode(self) -> Tensor:
        """The greedy actions, (..., *action shape)."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities, or log-densities, of actions (..., *action shape): (...)."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropies in nats, (...); differential entropies for continuous actions."""

    def sample_and_log_prob(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Actions as from ``sample``, and their log-probabilities (...) along the path of the sample."""
        actions = self.sample(uniforms)
        return actions, self.log_prob(actions)
