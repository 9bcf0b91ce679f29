# What the rules share: how kd is called, and the parameters that say when a result is out of date.
import json
from pathlib import Path

KD = f"{sys.executable} -m kd"


def data_recipe(name):
    """What the dataset is, as JSON: when the study declares it otherwise, it is prepared anew."""
    return json.dumps(cells.data_recipe(STUDY, cells.parse_dataset(name)), sort_keys=True)


def recipe(cell):
    """What, beside its path, decides a cell's numbers, as JSON: when it changes, the cell is trained anew."""
    return json.dumps(cells.recipe(STUDY, cell.dataset), sort_keys=True)
