"""Inputs as networks read them: flattened and scaled, and normalised in one of several ways or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from marl.core import State
from marl.networks.images import Convolutions
from marl.networks.normalizers import ObservationNormalizer
from marl.networks.torso import prepare_input
from marl.specs import ArraySpec

InputNormalization = Literal["none", "running", "layer"]
"""Inputs as they are; each element by its running moments; or each vector by its own moments (layer normalisation, Ba
et al. 2016), which deletes the vector's mean and scale. Images are scaled to [0, 1] in any case, and no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReader:
    """Turns one kind of raw input, observations or states, into what a torso takes.

    Args:
        spec: of the input.
        layer: whether vectors are layer-normalised.
        convolutions: which images stay images.
        normalizer: of vectors, (size,); None where they have no running moments.
    """

    spec: ArraySpec
    layer: bool = False
    convolutions: Convolutions = "auto"
    normalizer: ObservationNormalizer | None = None

    def prepare(self, raw: Tensor) -> Tensor:
        """(..., *shape) raw inputs flattened and scaled, before running moments."""
        return prepare_input(self.spec, raw, normalize=self.layer, convolutions=self.convolutions)

    def read(self, raw: Tensor) -> Tensor:
        """(..., *shape) raw inputs as torsos take them."""
        prepared = self.prepare(raw)
        return prepared if self.normalizer is None else self.normalizer.normalize(prepared)

    def batch_moments(self, raw: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sums over (..., *shape) raw inputs where the (...) mask is True, for the normalizer's ``update``."""
        assert self.normalizer is not None
        return self.normalizer.batch_moments(self.prepare(raw), mask)

    def state_dict(self) -> State:
        """The running moments; empty without."""
        return {} if self.normalizer is None else self.normalizer.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Takes back the running moments."""
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state)


def make_reader(
    spec: ArraySpec, normalization: InputNormalization, *, convolutions: Convolutions = "auto"
) -> InputReader:
    """Makes a reader; its running moments, where it has them, are of vectors: images are only scaled."""
    normalizer = ObservationNormalizer((spec.size,)) if normalization == "running" and not spec.is_image else None
    return InputReader(spec=spec, layer=normalization == "layer", convolutions=convolutions, normalizer=normalizer)
