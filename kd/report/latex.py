"""Tables in LaTeX, ready to paste: longtables with the lines of booktabs, their words escaped."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

_SIGNS = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "|": "$|$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "τ": r"$\tau$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "∞": r"$\infty$",
    "≤": r"$\le$",
    "→": r"$\to$",
    "−": "$-$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "\N{NO-BREAK SPACE}": "~",
}


def longtable(words: pd.DataFrame, widths: Sequence[float], about: str) -> str:
    """Return a frame of words as a longtable with these `widths`, shares of a line, and the caption `about`.

    It needs the packages array, booktabs and longtable.
    """
    columns = "".join(
        rf">{{\raggedright\arraybackslash}}p{{\dimexpr{width}\linewidth-2\tabcolsep}}" for width in widths
    )
    return "\n".join(
        [
            r"% \usepackage{array,booktabs,longtable}",
            r"{\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\LTcapwidth}{\linewidth}",
            rf"\begin{{longtable}}{{{columns}}}",
            rf"\caption{{{_escaped(' '.join(about.splitlines()))}}}\\",
            r"\toprule",
            _row(words.columns),
            r"\midrule",
            r"\endhead",
            *map(_row, words.to_numpy()),
            r"\bottomrule",
            r"\end{longtable}}",
            "",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: object) -> str:
    return "".join(_SIGNS.get(letter, letter) for letter in str(text))
