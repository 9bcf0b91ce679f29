"""Measures on the answers of networks: functions from tensors to tensors or numbers, each with its source.

N examples, K classes, D pre-logits. Logits are z, or s of a student and t of its teacher. All logarithms are natural.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd.losses.kl import divergence

# -- one network ------------------------------------------------------------------------------------------------------


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the label has the highest logit, [N] bool."""
    return logits.argmax(-1) == labels


def top1_by_class(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the classes [C] that occur in `classes` [N], the share of each that is answered rightly, and its count."""
    names, members = classes.unique(return_inverse=True)
    counts = members.bincount()
    hits = torch.zeros(len(names), dtype=torch.float64).index_add_(0, members, right(logits, classes).double())
    return names, hits / counts, counts


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(z) in nats, [N]."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def confidence(logits: Tensor) -> Tensor:
    """Return the probability of the most likely class, [N]."""
    return logits.softmax(-1).amax(-1)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error, 0 to 1, over `bins` intervals ((b - 1) / bins, b / bins] of confidence.

    Each bin's |accuracy - mean confidence| is weighted by its share of the examples (Guo et al., arXiv 1706.04599,
    eq. 3).
    """
    sure, correct = confidence(logits).double(), right(logits, labels).double()
    place = (sure * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, correct - sure)
    return (gaps.abs().sum() / len(labels)).item()


def true_logit_difference(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logit of the true class minus the largest other logit, [N]: the TLD of arXiv 2105.08919."""
    true = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, labels[:, None], True)
    return logits[true] - logits.masked_fill(true, -torch.inf).amax(-1)


def scatter_ratio(features: Tensor, classes: Tensor) -> float:
    """Return trace(S_W) / trace(S_B) of features [N, D]: how loose the classes are, 0 if each is a point.

    S_W = sum_i (x_i - m_c)(x_i - m_c)' with the mean m_c of the class of i, S_B = sum_c n_c (m_c - m)(m_c - m)'
    (Fukunaga, Introduction to Statistical Pattern Recognition, ch. 10).
    """
    features = features.double()
    names, members = classes.unique(return_inverse=True)
    counts = members.bincount().double()[:, None]
    means = features.new_zeros(len(names), features.shape[1]).index_add_(0, members, features) / counts
    within = (features - means[members]).square().sum()
    between = (counts * (means - features.mean(0)).square()).sum()
    return (within / between).item()


# -- a student and its teacher ----------------------------------------------------------------------------------------


def agree(student: Tensor, teacher: Tensor) -> Tensor:
    """Return whether both have their highest logit at the same class, [N] bool: the fidelity of arXiv 2106.05945."""
    return student.argmax(-1) == teacher.argmax(-1)


def churn_by_class(student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
    """Return for each class that occurs, in ascending order, the share of its examples on which the two differ, [C]."""
    names, members = classes.unique(return_inverse=True)
    differ = (~agree(student, teacher)).double()
    return torch.zeros(len(names), dtype=torch.float64).index_add_(0, members, differ) / members.bincount()


def surprise(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(softmax(t) || softmax(s)) in nats, [N]."""
    return divergence(teacher.log_softmax(-1), student.log_softmax(-1))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment, 0 to 1, of features [N, D] and [N, E] of the same examples.

    ||Y'X||^2 / (||X'X|| ||Y'Y||) in Frobenius norms, columns centred (Kornblith et al., arXiv 1905.00414, sec. 3): with
    D x E products instead of N x N kernels.
    """
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    shared, own, other = (torch.linalg.matrix_norm(product) for product in (y.T @ x, x.T @ x, y.T @ y))
    return (shared.square() / (own * other)).item()


# -- three classes on a plane -----------------------------------------------------------------------------------------


def plane(templates: Tensor) -> Tensor:
    """Return an orthonormal basis [2, D] of the plane through three templates [3, D].

    The first axis goes from the first template to the second; the third template has a positive second coordinate
    (Mueller et al., arXiv 1906.02629, sec. 2). Only the part in this plane decides between the three classes.
    """
    along, aside = templates[1] - templates[0], templates[2] - templates[0]
    first = along / along.norm()
    aside = aside - (aside @ first) * first
    return torch.stack([first, aside / aside.norm()])


# -- the gradient of KL and its limits --------------------------------------------------------------------------------


def gradient(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return the gradient of tau^2 KL with respect to s, [N, K]: tau (softmax(s/tau) - softmax(t/tau)).

    It tends to `logit_matching` for tau -> inf. Divided by tau, it tends to `label_matching` for tau -> 0 (arXiv
    2105.08919).
    """
    return tau * ((student / tau).softmax(-1) - (teacher / tau).softmax(-1))


def logit_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Return (D - mean_k D) / K with D = s - t, [N, K]."""
    difference = student - teacher
    return (difference - difference.mean(-1, keepdim=True)) / difference.shape[-1]


def label_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 at the class of the highest s minus 1 at the class of the highest t, [N, K]: all 0 where they agree."""
    return _highest(student) - _highest(teacher)


def _highest(logits: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1)


def nearness(found: Tensor, limit: Tensor) -> tuple[float, float]:
    """Return cosine and relative error ||found - limit|| / ||limit|| of two gradients [N, K]; NaN if the limit is 0.

    Both are taken over all examples at once, so that each example counts by the size of its gradient, as in training.
    """
    if not limit.any():
        return float("nan"), float("nan")
    cosine = (found * limit).sum() / (found.norm() * limit.norm())
    return cosine.item(), ((found - limit).norm() / limit.norm()).item()
