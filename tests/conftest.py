"""What the tests share: a small study on made images, and a project folder to run it in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

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


@st.composite
def mutated_text(draw: st.DrawFn, whole: st.SearchStrategy[str], tokens: list[str]) -> str:
    """A text in which a few places were cut out, doubled or written over by any character or by a token."""
    text = draw(whole)
    for _ in range(draw(st.integers(1, 3))):
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        put = draw(st.sampled_from(["", text[begin:end] * 2, *tokens]) | st.text(max_size=3))
        text = text[:begin] + put + text[min(end, begin + 6) :]
    return text


@st.composite
def mutated_tree(draw: st.DrawFn, tree: object, values: st.SearchStrategy, keys: list[str]) -> object:
    """A tree of lists and dicts in which a few values were dropped, replaced or put in."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(_places(tree))))
        tree = _with(tree, place, draw(st.sampled_from(["drop", "replace", "insert"])), draw(values), draw(_key(keys)))
    return tree


def _key(keys: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(keys) | st.text(max_size=5)


def _places(tree: object, place: tuple = ()) -> Iterator[tuple]:
    yield place
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from _places(tree[key], (*place, key))


def _with(tree: object, place: tuple, how: str, value: object, key: str) -> object:
    """Return a copy of `tree` that differs at `place`."""
    if len(place) > 1:
        changed = copy.copy(tree)
        changed[place[0]] = _with(tree[place[0]], place[1:], how, value, key)
        return changed
    if not place:
        return {**tree, key: value} if isinstance(tree, dict) else value
    items = dict(tree) if isinstance(tree, dict) else dict(enumerate(tree))
    if how == "drop":
        del items[place[0]]
    else:
        items[place[0] if how == "replace" else key] = value
    return items if isinstance(tree, dict) else list(items.values())
