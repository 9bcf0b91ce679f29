"""From the published cells to table, figures, verdict and page, without torch."""
