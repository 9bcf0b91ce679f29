"""What a bf16 network gains from a classifier in float32: errors against float32, and time. Writes classifier.csv.

Result: the error of the logits is 6 to 16 % smaller. The error of the gradient, 7 to 8 % of its length, is the same. So
kd computes the classifier in bf16, like all other layers. The times decide nothing: with the classifier in float32 a
step took 0.88 to 1.12 times as long, but the machine did other work at the same time.

A network is trained in bf16 on pairs of handwritten digits, 100 classes of 32x32 pixels. Then the same weights answer
in float32, in bf16, and in bf16 with the classifier in float32. Steps are timed in turns on one thread; times are
medians.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench import RESULTS, write
from bench.parts import BATCH, BF16, COMPILING, FP32, interleaved
from bench.worker import plan
from kd import models
from kd.machine.processor import cpu_name
from kd.models.network import Network
from kd.train import arithmetic
from kd.train.device import Place
from kd.train.fit import Sgd

TEST = 512  # images


class Wide(nn.Linear):
    """A classifier that is computed in float32 even under autocast."""

    def forward(self, prelogits: Tensor) -> Tensor:
        """Return the logits [B, K], float32."""
        with torch.autocast(prelogits.device.type, enabled=False):
            return super().forward(prelogits.float())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet8", "wrn-16-2"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    native = "bf16 native" if arithmetic.fastest(torch.device("cpu")) == "bf16" else "bf16 emulated: time says nothing"
    rows = []
    for name in options.networks:
        for row in measured(name, options.steps, options.rounds):
            rows.append({"network": name, **row, "machine": f"{cpu_name()}, {native}, torch {torch.__version__}"})
            print(*rows[-1].values(), sep=" | ", flush=True)
    write(options.out / "classifier.csv", rows, by="network")


def measured(name: str, steps: int, rounds: int) -> list[dict]:
    """Return each error and time with the classifier in bf16 and in float32."""
    images, labels = pairs_of_digits(steps * BATCH + TEST)
    now = trained(name, images[TEST:], labels[TEST:])
    wide = widened(now)
    both, batch = (now, wide), (images[:BATCH], labels[:BATCH])
    found = [
        compared("error of logits in evaluation", "%", [logits_error(one, images[:TEST], False) for one in both]),
        compared("error of logits in training", "%", [logits_error(one, images[:BATCH], True) for one in both]),
        compared("error of the gradient", "%", [gradient_error(one, *batch) for one in both]),
    ]
    for what, place in {"step": BF16, "step, compiled": COMPILING}.items():
        seconds = interleaved({str(n): _step(one, place, *batch) for n, one in enumerate(both)}, rounds)
        found.append(compared(what, "ms", [1e3 * median for median in seconds.values()]))
    return found


def compared(what: str, unit: str, values: list[float]) -> dict:
    bf16, float32 = (float(f"{value:.4g}") for value in values)
    ratio = round(values[1] / values[0], 3)
    return {"what": what, "classifier bf16": bf16, "classifier float32": float32, "unit": unit, "ratio": ratio}


def pairs_of_digits(count: int) -> tuple[Tensor, Tensor]:
    """Return images [N, 1, 32, 32] of two digits side by side, and their labels [N], 0 to 99."""
    digits = load_digits()
    pixels, names = torch.tensor(digits.images, dtype=torch.float32), torch.tensor(digits.target)
    left, right = torch.randint(0, len(names), (2, count), generator=torch.Generator().manual_seed(0))
    images = torch.cat([pixels[left], pixels[right]], dim=2)[:, None] / 16 - 0.3
    return images.repeat_interleave(4, 2).repeat_interleave(2, 3), 10 * names[left] + names[right]


def trained(name: str, images: Tensor, labels: Tensor) -> Network:
    """Train a network in bf16, one step a batch. The learning rate drops after 1/2 and 3/4 of the steps."""
    torch.manual_seed(0)
    network = models.build(name, 100, 1).to(memory_format=torch.channels_last)
    optimiser, count = Sgd(network.parameters(), plan()), len(labels) // BATCH
    for step, (batch, truth) in enumerate(zip(images.split(BATCH), labels.split(BATCH), strict=True)):
        with BF16.autocast():
            logits = network(batch)
        cross_entropy(logits.float(), truth).backward()
        optimiser.step(0.1 * 0.1 ** sum(step >= share * count for share in (0.5, 0.75)))
    return network


def widened(network: Network) -> Network:
    """Return a copy whose classifier is computed in float32."""
    made = copy.deepcopy(network)
    made.classifier.__class__ = Wide
    return made


def logits_error(network: Network, images: Tensor, training: bool) -> float:
    """Return the root mean square error of a bf16 network's logits, in % of the root mean square in float32.

    The mean of each row is subtracted first, because a softmax ignores it.
    """
    network = copy.deepcopy(network).train(training)  # training changes the running statistics
    with torch.no_grad():
        exact, rounded = (_logits(network, images, place) for place in (FP32, BF16))
    exact, rounded = (logits - logits.mean(1, keepdim=True) for logits in (exact, rounded))
    return 100 * float((rounded - exact).norm() / exact.norm())


def gradient_error(network: Network, images: Tensor, labels: Tensor) -> float:
    """Return the error of the gradient of cross-entropy with respect to all weights, in % of its length."""
    exact, rounded = (_gradient(copy.deepcopy(network), images, labels, place) for place in (FP32, BF16))
    return 100 * float((rounded - exact).norm() / exact.norm())


def _gradient(network: Network, images: Tensor, labels: Tensor, place: Place) -> Tensor:
    loss = cross_entropy(_logits(network.train(), images, place), labels)
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(network.parameters()))])


def _logits(network: Network, images: Tensor, place: Place) -> Tensor:
    with place.autocast():
        return network(images).float()


def _step(network: Network, place: Place, images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = copy.deepcopy(network).train()
    forward, optimiser = place.compiled(network, BATCH), Sgd(network.parameters(), plan())

    def step() -> None:
        with place.autocast():
            logits = forward(images)
        cross_entropy(logits.float(), labels).backward()
        optimiser.step(0.001)

    return step


if __name__ == "__main__":
    main()
