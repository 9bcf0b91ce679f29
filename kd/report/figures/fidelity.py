"""How near students come to what their teacher answers: a panel each for four measures, a row for each objective.

The mean logit is the term in which MSE and KL at infinite tau differ: KL leaves it free, whatever tau is.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from kd.report.figures.analysed import Measure, analysed, measures_caption, panels

_MEASURES = [
    Measure("agreement", "agreement with\nthe teacher (%)", "agreement", " %", taught=False),
    Measure("kl", "KL from the\nteacher (nats)", "KL", " nats", taught=False),
    Measure("cka", "CKA with the\nteacher's pre-logits", "CKA", "", taught=False),
    Measure("logit_mean", "mean logit", "mean logit", "", taught=True),
]


def draw(rows: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Draw a line of panels for each student and data."""
    return panels(analysed("fidelity", rows, frame), _MEASURES)


def caption(rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Say for each measure between which objectives it lies."""
    shows = (
        "Students beside their teacher, on {on}: share of images at which both "
        "have the highest logit at one class; mean KL(teacher || student) at τ = 1; linear CKA of the pre-logits; mean "
        "logit over classes and images, which KL leaves free at every τ and MSE does not. CE learnt without the "
        "teacher. Marks are means, bars their intervals, small dots seeds."
    )
    return measures_caption("fidelity", shows, _MEASURES, rows, frame)
