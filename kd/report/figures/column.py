"""A figure for one column of a paper, or a phone: its panels stand one below another, each as wide as the column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure, FigureBase

_LETTERS = 54  # in a line of text
_ENTRY = 0.15  # inches that a line of a legend takes
_MARK = 6  # letters that the mark of a legend's entry takes


class Column(Figure):
    """A figure whose grids of panels have one column, as high as all of them need."""

    panel_lines = 1  # a line of panels became so many

    def subplots(self, *shape: int, **options: Any) -> Any:
        """Return axes in the shape that was asked for, drawn one below another."""
        return _stacked(self, super().subplots, *shape, **options)

    def subfigures(self, *shape: int, **options: Any) -> Any:
        """Return parts whose panels stand one below another, too."""
        found = super().subfigures(*shape, **options)
        for part in np.ravel(found):
            part.subplots = partial(_stacked, self, part.subplots)
            part.suptitle = partial(_wrapped, part.suptitle)
        return found

    def legend(self, **options: Any) -> Any:
        """Return a legend over the panels, which the figure makes room for, of as many entries a line as fit."""
        columns = _fitting(options["handles"], options.pop("ncols", 3))
        self.set_figheight(self.get_figheight() + _ENTRY * (-(-len(options["handles"]) // columns) - 1))
        loc = options.pop("loc").replace("right upper", "upper center")
        return super().legend(loc=loc, ncols=columns, **options)


def _stacked(figure: Column, subplots: Any, nrows: int = 1, ncols: int = 1, **options: Any) -> Any:
    options.pop("width_ratios", None)
    if "height_ratios" in options:  # a line's height is that of each of its panels
        options["height_ratios"] = np.repeat(options["height_ratios"], ncols)
    squeeze = options.pop("squeeze", True)
    if ncols > figure.panel_lines:
        figure.set_figheight(figure.get_figheight() * ncols / figure.panel_lines)
        figure.panel_lines = ncols
    grid = subplots(nrows * ncols, 1, squeeze=False, **options).reshape(nrows, ncols)
    if not squeeze:
        return grid
    return grid.item() if grid.size == 1 else grid.squeeze()


def _wrapped(suptitle: Any, text: str, **options: Any) -> Any:
    return suptitle(textwrap.fill(text, _LETTERS), **options)


def _fitting(handles: Sequence[Artist], most: int) -> int:
    """Return how many columns of a legend fit side by side."""
    letters = [len(handle.get_label()) + _MARK for handle in handles]
    fits = (n for n in range(min(most, len(letters)), 1, -1) if sum(map(max, np.array_split(letters, n))) <= _LETTERS)
    return next(fits, 1)


def lines_and_columns(figure: FigureBase, lines: int, columns: int, count: int) -> tuple[int, int]:
    """Return the shape of a grid of which `count` panels are used; a column's has no others, and is as high."""
    if not isinstance(figure, Column) or count == lines * columns:
        return lines, columns
    figure.set_figheight(figure.get_figheight() * count / lines)
    return count, 1
