"""What students make of their probabilities, and how much better they do on what they learnt from."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from kd.report.figures.analysed import Measure, analysed, measures_caption, panels

_MEASURES = [
    Measure("ece", "calibration\nerror (%)", "calibration error", " %", taught=True),
    Measure("nll", "NLL (nats)", "NLL", " nats", taught=True),
    Measure("entropy", "entropy (nats)", "entropy", " nats", taught=True),
    Measure("gap", "accuracy, train\nminus test (points)", "gap", " points", taught=True),
]


def draw(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw a line of panels for each student and data."""
    return panels(analysed("calibration", rows, frame), _MEASURES)


def caption(rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Say for each measure between which objectives it lies."""
    shows = (
        "Probabilities at τ = 1 on {on}: expected calibration error over 15 bins "
        "of equal width, negative log-likelihood, mean entropy; and the gap between top-1 on training images, as they "
        "are and by the labels that were learnt, and on test images. Marks are means, bars their intervals, small dots "
        "seeds."
    )
    return measures_caption("calibration", shows, _MEASURES, rows, frame)
