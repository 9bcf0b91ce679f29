"""The training loops of other distillation code, rewritten with their habits, to compare kd with.

`Mdistiller` works like the trainers of mdistiller and RepDistiller, `Paper` like the code of arXiv 2105.08919. Network,
batch, optimiser, augmentation and loss are kd's, so that the work is the same. "Habit" marks what they do otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WORKERS = 2
CPU = torch.device("cpu")


class Pictures(Dataset):
    """Habit: each image is a PIL object; images are cropped, flipped, made tensors and normalised one by one."""

    def __init__(self, images: Tensor, labels: Tensor, train: bool) -> None:
        self.images, self.labels = images.numpy(), labels.tolist()
        augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if train else []
        self.transform = transforms.Compose(
            [*augment, transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Mdistiller:
    """One epoch of training, then the test set, in float32 and NCHW."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        train: Dataset,
        test: Dataset,
        batch: int,
        device: torch.device = CPU,
        workers: int = WORKERS,
    ) -> None:
        torch.backends.cudnn.benchmark = True  # as mdistiller's script does; a CPU ignores it
        self.student, self.teacher, self.device = student, teacher, device
        loading = {"batch_size": batch, "num_workers": workers, "persistent_workers": True}
        self.train_loader = DataLoader(train, shuffle=True, **loading)
        self.test_loader = DataLoader(test, **loading)
        self.optimiser = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def epoch(self) -> None:
        """Train on every batch and evaluate."""
        self.student.train()
        for images, labels in self.batches(self.train_loader):
            with torch.no_grad():  # habit: the teacher runs in every step of every student
                target = self.teacher(images)
            logits = self.student(images)
            loss = self.loss(logits, target)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            loss.item()  # habit: a synchronisation in every step, for the progress bar
            self.top_1_and_5(logits, labels)
        self.evaluate(self.test_loader)

    def batches(self, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        """Habit: wait for the copy to the device."""
        for images, labels in loader:
            yield images.to(self.device), labels.to(self.device)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        tau = 3.0
        return kl_div((logits / tau).log_softmax(1), (target / tau).softmax(1), reduction="batchmean") * tau**2

    def top_1_and_5(self, logits: Tensor, labels: Tensor) -> list[float]:
        """Habit: top-1 and top-5 accuracy of every training batch, as Python numbers."""
        hits = logits.topk(5, 1).indices == labels[:, None]
        return [hits[:, :k].any(1).float().mean().item() for k in (1, 5)]

    @torch.no_grad()
    def evaluate(self, loader: DataLoader) -> None:
        self.student.eval()
        for images, labels in self.batches(loader):
            logits = self.student(images)
            cross_entropy(logits, labels).item()
            self.top_1_and_5(logits, labels)


class Paper(Mdistiller):
    """The same, and habit: after each epoch student and teacher are evaluated on the augmented training set."""

    def epoch(self) -> None:
        super().epoch()
        self.evaluate_train()

    @torch.no_grad()
    def evaluate_train(self) -> None:
        for images, labels in self.batches(self.train_loader):
            logits = self.student(images)
            self.loss(logits, self.teacher(images)).item()
            self.top_1_and_5(logits, labels)
