"""What the tests share: a small study on made images, and a project folder to run it in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from kd.config import Study, validate

ROOT = Path(__file__).parent.parent

# The same examples each time, so that a red run can be looked at; to search on: pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # thread counts change bits, and the tests run side by side


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, made the working directory: kd's paths are relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(**changes: object) -> Study:
    """A study of two losses on digits that trains in a second, with some keys changed."""
    values = {
        "study": "small",
        "dataset": "digits",
        "protocol": {"name": "quick", "epochs": 3, "batch": 64, "precision": "fp32"},
        "seeds": [0, 1],
        "experiments": {
            "losses": {
                "teacher": "resnet14",
                "student": "resnet8",
                "loss": ["ce", {"kl": {"tau": 3}}],
                "figure": "dots",
            }
        },
    }
    return validate({**values, **changes})
