"""Read what a figure shows."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from kd.report.figures import style


def words_on(figure: Figure) -> list[Text]:
    """Draw a figure and return the texts that were drawn: an axis also has tick labels that it does not draw."""
    seen, draw = [], Text.draw
    with pytest.MonkeyPatch.context() as patch, style.paper():
        patch.setattr(Text, "draw", lambda self, *renderer: seen.append(self) or draw(self, *renderer))
        figure.canvas.draw()
    return [text for text in dict.fromkeys(seen) if text.get_visible() and text.get_text().strip()]
