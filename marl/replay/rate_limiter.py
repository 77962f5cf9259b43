"""The rate limiter of replay, which holds the number of samples per insert.

After Reverb's ``SampleToInsertRatio`` (Cassirer et al. 2021, "Reverb: a framework for experience replay", section
3.3). The limiter keeps no counts of its own: it is arithmetic on global counts, which all ranks know alike, so all
ranks take the same decision without talking to one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from marl.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesPerInsert:
    """Holds ``samples / inserts`` within a window, by making learning wait where it is ahead of acting.

    With ``lead = ratio * (inserts - min_size) - samples``, that is how many samples learning lags behind acting
    since the first ``min_size`` inserts, a batch is let through where ``lead >= -tolerance`` after it. A loop that
    learns whenever it may, and acts otherwise, also keeps ``lead <= tolerance``, because the window is wide enough
    for one batch and one insert together.

    Args:
        ratio: samples per insert, both counted in items of replay, over all copies and ranks.
        min_size: items that must have been inserted before the first sample.
        batch_size: items a sample draws, over all ranks.
        insert_size: the most items that one insert adds, over all ranks (one a copy).
        tolerance: half width of the window, in samples; the default lets learning begin at ``min_size`` at once.

    Raises:
        InputError: a number is out of range, or the window is too narrow for the ratio.
    """

    ratio: float
    min_size: int
    batch_size: int
    insert_size: int = 1
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise InputError(f"samples per insert must be a number above 0, not {self.ratio}")
        for name in ("min_size", "batch_size", "insert_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        needed = (self.batch_size + self.ratio * self.insert_size) / 2
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance >= needed):
            raise InputError(
                f"a tolerance (--algorithm.replay.tolerance) of {self.tolerance} samples cannot hold "
                f"{self.ratio} samples per insert with batches of {self.batch_size} and inserts of "
                f"{self.insert_size}: it must be at least {needed:g}"
            )

    @property
    def window(self) -> float:
        """Half width of the window in samples."""
        return self.tolerance if self.tolerance is not None else max(self.batch_size, self.ratio * self.insert_size)

    def lead(self, inserts: int, samples: int) -> float:
        """Samples by which learning lags behind acting; negative when it is ahead."""
        return self.ratio * (inserts - self.min_size) - samples

    def can_sample(self, inserts: int, samples: int) -> bool:
        """True if one more batch may be sampled after so many inserts and samples."""
        return inserts >= self.min_size and self.lead(inserts, samples) - self.batch_size >= -self.window
