"""Measure the answers of the networks of an experiment: a tidy frame for each of `ANALYSES`, from the answers alone.

Every frame has the columns by which the table names a cell, and `reference` with its lineage: the network that the cell
is measured against, "" for none. On the training split, labels are the ones that the network was given. Scatter and
planes use the classes before label noise, because there it matters what an image shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch import Tensor

from kd.core.errors import ConfigError, DataError, StorageError, itemised, nearest
from kd.losses.hard import ce
from kd.measure import answers, measures
from kd.measure.answers import Answers, Split
from kd.measure.frames import Artefacts, frame_files, setting, with_hyperparameters
from kd.study.cells import Cell
from kd.study.config import Study
from kd.study.expansion import measured

SPLITS = ("test", "train")
# Four in each decade, more of them where one limit gives way to the other, and the temperatures that papers use.
TAUS = sorted({*(round(10 ** (n / 4), 4) for n in range(-8, 13)), 0.5, 0.75, 1.3, 2.3, 3, 4, 5, 7, 14, 20, 25})
TLD_BINS = np.linspace(-10, 20, 301)  # as in arXiv 2105.08919
_BINS = 200  # in the other densities
_POINTS = 200  # per class on a plane


@dataclass(frozen=True)
class Subject:
    """A network with its answers, and the network that it is measured against."""

    cell: Cell
    own: Answers
    about: dict  # manifest of its answers
    reference: Cell | None = None
    theirs: Answers | None = None

    @functools.cached_property
    def identity(self) -> dict:
        """The columns by which frames name it."""
        reference = {"reference": "", "reference_lineage": ""}
        if self.reference:
            reference = {"reference": self.reference.path, "reference_lineage": self.reference.seedless}
        return {"cell": self.cell.path, **setting(self.cell, self.about), **reference}

    def splits(self) -> Iterator[tuple[str, Split, Split | None]]:
        """Yield (name, own, theirs) for each split; with a reference, only the examples that both networks answered."""
        for name in SPLITS:
            own = getattr(self.own, name)
            if self.theirs is None:
                yield name, own, None
            else:
                yield name, *_shared(own, getattr(self.theirs, name))


def measure(study: Study, experiment: str, analysis: str) -> Artefacts:
    """Return one analysis of an experiment, as CSV and parquet.

    Raises DataError that names the networks whose answers are missing or damaged.
    """
    for word, known in ((experiment, study.experiments), (analysis, ANALYSES)):
        if word not in known:
            raise ConfigError(f"{word!r}: unknown{nearest(word, known)}")
    cells = (cell for pair in measured(study, experiment) for cell in pair if cell)
    frame = with_hyperparameters(ANALYSES[analysis](subjects(study, experiment)), cells)
    frame.insert(0, "experiment", experiment)
    return frame_files(frame, f"analyses/{experiment}.{analysis}")


# -- the networks -----------------------------------------------------------------------------------------------------


def subjects(study: Study, experiment: str) -> Iterator[Subject]:
    """Yield the networks of an experiment and their teachers one by one, because all may not fit into memory.

    Networks that diverged are left out, as subjects and as references.
    """
    pairs = measured(study, experiment)
    well = _well(dict.fromkeys(cell for pair in pairs for cell in pair if cell))
    read = functools.lru_cache(maxsize=4)(answers.read)
    kept = dict.fromkeys((cell, other if other in well else None) for cell, other in pairs if cell in well)
    if not kept:
        raise DataError(f"experiment {experiment}: every network of it diverged; there is nothing to measure")
    for cell, other in kept:
        yield Subject(cell, read(cell), well[cell], other, read(other) if other else None)


def _well(cells: Iterable[Cell]) -> dict[Cell, dict]:
    """Return {cell: manifest of its answers} for the cells that did not diverge.

    Raises DataError that names the cells whose answers cannot be used.
    """
    well, problems = {}, []
    for cell in cells:
        try:
            manifest = answers.manifest_of(cell)
            if manifest["status"] == "ok":
                well[cell] = manifest
        except StorageError as error:
            problems.append(str(error))
    if problems:
        count = len(problems)
        raise DataError(f"the answers of {count} networks cannot be used; run snakemake\n{itemised(problems)}")
    return well


def _shared(one: Split, other: Split) -> tuple[Split, Split]:
    """Reduce two splits to their common examples, because a student of a fraction learnt from fewer."""
    if one.index.equal(other.index):
        return one, other
    places = np.intersect1d(one.index.numpy(), other.index.numpy(), return_indices=True)[1:]
    return tuple(
        replace(split, **{name: tensor[at] for name, tensor in vars(split).items() if tensor is not None})
        for split, at in zip((one, other), places, strict=True)
    )


# -- measures: a row for each network and split -----------------------------------------------------------------------


def measures_of(subjects: Iterable[Subject]) -> pd.DataFrame:
    """Measure each network on each split, alone and against its reference (NaN if it has none).

    Shares are in percent. `churn` is the share of examples that the network and its reference answer with different
    classes, `worst_class_top1` the lowest top-1 of a class that occurs, by its label. `gap` is top-1 on the training
    examples, without augmentation, minus top-1 on the test set, in points.
    """
    rows = []
    for subject in subjects:
        found = {name: _alone(own) | _against(own, theirs) for name, own, theirs in subject.splits()}
        gap = found["train"]["top1"] - found["test"]["top1"]
        rows += [{**subject.identity, "split": name, **numbers, "gap": gap} for name, numbers in found.items()]
    return pd.DataFrame(rows)


def _alone(split: Split) -> dict:
    logits = split.logits.double()
    inside = {"prelogit_norm": np.nan, "scatter_ratio": np.nan}
    if split.prelogits is not None:
        prelogits = split.prelogits.double()
        inside = {
            "prelogit_norm": _mean(prelogits.norm(dim=-1)),
            "scatter_ratio": measures.scatter_ratio(prelogits, split.clean),
        }
    return {
        "n": len(logits),
        "top1": 100 * _mean(measures.right(logits, split.labels)),
        "worst_class_top1": 100 * measures.top1_by_class(logits, split.labels)[1].min().item(),
        "nll": _mean(ce(logits, None, split.labels)),
        "ece": 100 * measures.calibration_error(logits, split.labels),
        "entropy": _mean(measures.entropy(logits)),
        "confidence": 100 * _mean(measures.confidence(logits)),
        "tld": _mean(measures.true_logit_difference(logits, split.labels)),
        "logit_mean": _mean(logits),
        "logit_mean_sd": logits.mean(-1).std().item(),
        **inside,
    }


def _against(own: Split, theirs: Split | None) -> dict:
    if theirs is None:
        return dict.fromkeys(("agreement", "churn", "kl", "distance", "reference_logit_mean", "cka"), np.nan)
    s, t = own.logits.double(), theirs.logits.double()
    both = own.prelogits is not None and theirs.prelogits is not None
    agreement = 100 * _mean(measures.agree(s, t))
    return {
        "agreement": agreement,
        "churn": 100 - agreement,
        "kl": _mean(measures.surprise(s, t)),
        "distance": _mean((s - t).norm(dim=-1)),
        "reference_logit_mean": _mean(t),
        "cka": measures.linear_cka(own.prelogits, theirs.prelogits) if both else np.nan,
    }


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


# -- classes: a row for each network and class ------------------------------------------------------------------------


def classes_of(subjects: Iterable[Subject]) -> pd.DataFrame:
    """Return top-1 (percent) on each class of the test set, and on how many of its n images the reference differs.

    `churn` is that share in percent, NaN without a reference. A class without test images has no row.
    """
    parts = []
    for subject in subjects:
        own, theirs = subject.own.test, subject.theirs.test if subject.theirs else None
        names, top1, counts = measures.top1_by_class(own.logits, own.labels)
        churn = measures.churn_by_class(own.logits, theirs.logits, own.labels).numpy() if theirs else np.nan
        called = [subject.about["class_names"][name] for name in names]
        of = {"class": names.numpy(), "class_name": called, "n": counts.numpy(), "top1": 100 * top1.numpy()}
        parts.append(pd.DataFrame({**subject.identity, **of, "churn": 100 * churn}))
    return pd.concat(parts, ignore_index=True)


# -- densities --------------------------------------------------------------------------------------------------------


def densities_of(subjects: Iterable[Subject]) -> pd.DataFrame:
    """Return histograms, a row for each bin: `density` is the bin's share of the n examples, divided by its width.

    `quantity` is the distance ||z_s - z_t|| to the reference's logits, the norm of the pre-logits, or the true logit
    difference. The bins of the first two hold every value of the experiment; some differences may lie outside theirs.
    """
    found = [
        ({**subject.identity, "split": name, "quantity": quantity, "n": len(values)}, values)
        for subject in subjects
        for name, own, theirs in subject.splits()
        for quantity, values in _quantities(own, theirs)
    ]
    ends: dict[str, float] = {}
    for about, values in found:
        ends[about["quantity"]] = max(ends.get(about["quantity"], 0.0), values.max())
    bins = {quantity: np.linspace(0, end, _BINS + 1) for quantity, end in ends.items()} | {"tld": TLD_BINS}
    return pd.concat([_histogram(about, values, bins[about["quantity"]]) for about, values in found], ignore_index=True)


def _quantities(own: Split, theirs: Split | None) -> Iterator[tuple[str, np.ndarray]]:
    if theirs is not None:
        yield "distance", (own.logits - theirs.logits).norm(dim=-1).numpy()
    if own.prelogits is not None:
        yield "prelogit_norm", own.prelogits.float().norm(dim=-1).numpy()
    yield "tld", measures.true_logit_difference(own.logits, own.labels).numpy()


def _histogram(about: dict, values: np.ndarray, bins: np.ndarray) -> pd.DataFrame:
    counts, edges = np.histogram(values.astype(float), bins)
    density = counts / len(values) / np.diff(edges)
    return pd.DataFrame({**about, "low": edges[:-1], "high": edges[1:], "density": density})


# -- three classes on the plane of their templates --------------------------------------------------------------------


def planes_of(subjects: Iterable[Subject]) -> pd.DataFrame:
    """Return the pre-logits of the first three classes on the plane of these classes' templates, a row for each point.

    (x, y) are coordinates in the basis of `measures.plane`. Rows with `split` template are the templates, with their
    biases. The border between two classes is where (w_i - w_j)'x + b_i - b_j = 0. `scatter_ratio` is computed from the
    three classes in all dimensions. An ensemble has no pre-logits, and no rows.
    """
    every = {subject.cell: replace(subject, reference=None, theirs=None) for subject in subjects}
    parts = [part for subject in every.values() if subject.own.weight is not None for part in _plane(subject)]
    if not parts:
        raise DataError("planes: no network here has pre-logits of its own; ensembles have none")
    return pd.concat(parts, ignore_index=True)


def _plane(subject: Subject) -> Iterator[pd.DataFrame]:
    templates, bias = subject.own.weight[:3].double(), subject.own.bias[:3].double()
    basis = measures.plane(templates)
    names = subject.about["class_names"]

    def placed(split: str, classes: Tensor, points: Tensor, more: dict) -> pd.DataFrame:
        x, y = (points @ basis.T).T.numpy()
        of = {"class": classes.numpy(), "class_name": [names[c] for c in classes]}
        return pd.DataFrame({**subject.identity, "split": split, **of, "x": x, "y": y, **more})

    for name, own, _ in subject.splits():
        of_three = own.clean < 3
        points, classes = own.prelogits[of_three].double(), own.clean[of_three]
        ratio = measures.scatter_ratio(points, classes)
        some = np.sort(np.concatenate([np.flatnonzero(classes == c)[:_POINTS] for c in range(3)]))
        yield placed(name, classes[some], points[some], {"bias": np.nan, "scatter_ratio": ratio})
    yield placed("template", classes.new_tensor([0, 1, 2]), templates, {"bias": bias.numpy(), "scatter_ratio": np.nan})


# -- the limits of the gradient ---------------------------------------------------------------------------------------


def limits_of(subjects: Iterable[Subject]) -> pd.DataFrame:
    """Return how near the gradient of KL at each tau is to its limits, on the test set, in float64.

    A row for each student and tau: `logit_cosine` and `logit_error` compare the gradient with logit matching
    (tau -> inf), `label_cosine` and `label_error` the gradient divided by tau with label matching (tau -> 0).
    """
    rows = []
    for subject in subjects:
        if subject.theirs is None:
            continue
        s, t = subject.own.test.logits.double(), subject.theirs.test.logits.double()
        limits = measures.logit_matching(s, t), measures.label_matching(s, t)
        about = {**subject.identity, "n": len(s), "disagreement": 100 * (1 - _mean(measures.agree(s, t)))}
        rows += [{**about, "tau": tau, **_nearness(s, t, tau, *limits)} for tau in TAUS]
    if not rows:
        raise DataError("limits: no network here has a teacher that it could be measured against")
    return pd.DataFrame(rows)


def _nearness(s: Tensor, t: Tensor, tau: float, logit: Tensor, label: Tensor) -> dict:
    gradient = measures.gradient(s, t, tau)
    found = measures.nearness(gradient, logit) + measures.nearness(gradient / tau, label)
    return dict(zip(("logit_cosine", "logit_error", "label_cosine", "label_error"), found, strict=True))


# Under the names that kd.report.figures.ANALYSES uses.
ANALYSES: dict[str, Callable[[Iterable[Subject]], pd.DataFrame]] = {
    "measures": measures_of,
    "classes": classes_of,
    "densities": densities_of,
    "planes": planes_of,
    "limits": limits_of,
}
