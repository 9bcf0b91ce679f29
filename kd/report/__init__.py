"""From the published cells to table, figures, verdict and page; no torch."""
