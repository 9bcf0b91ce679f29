"""KL taken apart: a weighted squared error between logit differences, and a soft cross-entropy.

The gradient of KL(p(t) || p(s)) is that of DKL = wMSE + SCE, where wMSE = 1/4 sum_jk w_j w_k (D_j - D_k)^2 with
D = t - s, w = p(t), its weights and s without gradient (Cui et al., arXiv 2305.13948, theorem 1). A frozen teacher
leaves wMSE no gradient at all. IKL gives it one: that of s. GKL (arXiv 2503.08038) flattens the weights to w^gamma.

wMSE is half the variance of D under the weights, which takes K numbers an example instead of K^2. With uniform weights
it is KL at infinite tau.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd.losses.divergences import soft_ce
from kd.losses.hard import ce as cross_entropy
from kd.losses.kl import half_variance
from kd.losses.objective import Batch, Course, Objective
from kd.losses.warmup import rising


def weighted_error(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Return half the variance over classes of s - t, each class counted as `weights` [B, K] say (sum 1), [B]."""
    difference = student - teacher
    mean = (weights * difference).sum(-1, keepdim=True)
    return (weights * (difference - mean).square()).sum(-1) / 2


class Ikl(Objective):
    """ce CE + min(epoch / warm-up, 1) (wmse wMSE + sce SCE), where SCE is the soft cross-entropy at tau, without tau^2.

    The weights are those of each example, softmax(t/wtau), or the mean of these over its class in the epoch before
    (`prior: class`, GI in the paper; uniform in the first epoch).
    """

    def __init__(
        self,
        course: Course,
        *,
        wmse: float,
        sce: float,
        tau: float,
        wtau: float,
        prior: str,
        warmup: float,
        ce: float,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        self._wmse, self._sce, self._ce = wmse, sce, ce
        self._tau, self._wtau, self._gamma = tau, wtau, gamma
        self._warmup, self._epochs = warmup, course.epochs
        self._of_classes = prior == "class"
        if self._of_classes:
            self.register_buffer("means", torch.zeros(course.classes, course.classes))
            self.register_buffer("sums", torch.zeros(course.classes, course.classes))
            self.register_buffer("counts", torch.zeros(course.classes, 1))

    def epoch_begins(self, epoch: int) -> None:
        """Take the class means of the epoch before as weights; uniform ones where it had no example of a class."""
        if self._of_classes:
            uniform = torch.full_like(self.sums, 1 / self.sums.shape[1])
            self.means.copy_(torch.where(self.counts > 0, self.sums / self.counts.clamp(min=1), uniform))
            self.sums.zero_()
            self.counts.zero_()

    def forward(self, batch: Batch) -> Tensor:
        """Return the values [B]."""
        said, taught, labels = batch.student[0].logits, batch.teacher[0].logits, batch.labels
        terms = []  # a term that does not count must not pass on its infinities as 0 * inf
        if self._wmse:
            terms.append(self._wmse * self.error(said, taught, labels))
        if self._sce:
            soft = soft_ce(said, taught, labels, tau=self._tau, scale="one", alpha=1, weight=1)
            terms.append(self._sce * soft)
        soft = rising(batch.epoch, self._warmup, self._epochs) * sum(terms[1:], terms[0])
        return soft + self._ce * cross_entropy(said, None, labels) if self._ce else soft

    def error(self, said: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        """Return wMSE of each example, [B]."""
        if math.isinf(self._wtau):
            return half_variance(said, taught)
        return weighted_error(said, taught, self.weights(taught, labels))

    def weights(self, taught: Tensor, labels: Tensor) -> Tensor:
        """Return the weights of each example's classes, [B, K]."""
        own = (taught / self._wtau).softmax(-1)
        if not self._of_classes:
            return own
        # a product gives the same sums in every run; one_hot looks at what the labels are, which no recording can
        members = (labels[:, None] == torch.arange(len(self.sums), device=labels.device)).to(own.dtype)
        self.sums += members.T @ own
        self.counts += members.sum(0)[:, None]
        return self.means[labels].to(own.dtype)


class Dkl(Ikl):
    """IKL whose wMSE has no gradient: a control with the value of IKL and the gradient of its soft cross-entropy."""

    def error(self, said: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        """Return wMSE of each example, [B], a constant to the student."""
        return super().error(said.detach(), taught, labels)


class Gkl(Ikl):
    """IKL with weights w^gamma; what they sum to in a batch, sum_n,j,k (w_nj w_nk)^gamma, divides in place of B."""

    def error(self, said: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        """Return wMSE of each example, [B], counted by the square of what its weights sum to."""
        weights = self.weights(taught, labels).pow(self._gamma)
        total = weights.sum(-1, keepdim=True)
        counted = total.squeeze(-1).square()
        return weighted_error(said, taught, weights / total) * (counted / counted.mean())
