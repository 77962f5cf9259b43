"""The drawing of pictures with matplotlib, by its Agg canvas only: neither a screen nor pyplot has a part in it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from marl.errors import InputError
from marl.launchers.console import warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BACKEND: Final = "MPLBACKEND"


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure of this size in inches, whatever backend the user has chosen for pyplot.

    Raises:
        InputError: matplotlib is not installed.
    """
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def load_matplotlib() -> None:
    """Imports matplotlib, which refuses to be imported where MPLBACKEND names a backend that is not installed.

    Notebooks set it for their own kernel, and what they start inherits it.

    Raises:
        InputError: matplotlib is not installed.
    """
    if "matplotlib" in sys.modules:
        return
    chosen = os.environ.pop(_BACKEND, None)
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(f"matplotlib cannot be imported ({error}); pip install matplotlib") from error
    finally:
        if chosen is not None:
            os.environ[_BACKEND] = chosen
    if chosen is not None:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = chosen  # for the user's own pictures


def is_drawn(name: str, draw: Callable[[], object]) -> bool:
    """Draws a picture whose failure must not cost what it shows.

    Args:
        name: of the picture, for the warning.
        draw: draws and writes it.

    Returns:
        Whether it was drawn; if not, one line to standard error says why.
    """
    try:
        draw()
    except Exception as error:
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        warn(f"{name} was not drawn: {kind}{' '.join(str(error).split())[:300]}")
        return False
    return True


def text_colour(background: Sequence[float]) -> str:
    """Black or white, whichever has the higher contrast on a colour.

    Args:
        background: red, green and blue from 0 to 1; more is ignored.

    Returns:
        The colour of the text, by the relative luminance of WCAG 2.1; both have the same contrast at 0.179.
    """
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in background[:3]
    )
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def label_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Writes each point's name beside it, where it hides no other name or point, if there is such a place.

    Args:
        axes: everything else on them has been drawn.
        points: (x, y) in units of the axes.
        names: one a point.
    """
    figure: Any = axes.figure
    figure.canvas.draw()  # places are known in pixels from now on
    renderer = figure.canvas.get_renderer()
    marks = [axes.transData.transform(point) for point in points]
    inside = axes.get_window_extent(renderer)
    taken: list[Any] = []
    for point, name in zip(points, names, strict=True):
        best: tuple[float, Any, Any] | None = None
        for x, y, ha, va in _PLACES:
            text = axes.annotate(
                name, point, (x, y), textcoords="offset points", ha=ha, va=va, fontsize="x-small", annotation_clip=False
            )
            box = text.get_window_extent(renderer)
            hidden = sum(box.overlaps(other) for other in taken) + sum(box.contains(*mark) for mark in marks)
            outside = max(0.0, box.x1 - inside.x1, inside.x0 - box.x0, box.y1 - inside.y1, inside.y0 - box.y0)
            cost = hidden + (outside > 0.0) + 1e-3 * outside
            if best is not None and cost >= best[0]:
                text.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (cost, text, box)
            if not cost:
                break
        assert best is not None
        taken.append(best[2])


_PLACES: Final = tuple(
    (sign * 6.0 if ha != "center" else 0.0, y, ha, va)
    for y, va in ((0.0, "center"), (7.0, "bottom"), (-7.0, "top"), (16.0, "bottom"), (-16.0, "top"), (25.0, "bottom"))
    for sign, ha in ((1.0, "left"), (-1.0, "right"), (0.0, "center"))
    if (y, ha) != (0.0, "center")
)
"""Offsets of a name from its point in printer's points, and how it is aligned; the best first."""
