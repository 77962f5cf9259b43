"""The formats of tournaments."""

from __future__ import annotations

from typing import Literal

Format = Literal["round-robin", "gauntlet", "swiss"]
"""All meet all; the first player meets all others; or rounds among players with similar scores."""
