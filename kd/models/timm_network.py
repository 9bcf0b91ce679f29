"""Any network of timm that ends in a linear classifier, as a `Network`."""

from __future__ import annotations

from collections.abc import Collection

import timm
from torch import Tensor, nn

from kd.core.errors import ConfigError
from kd.models.network import Network
from kd.models.output import Output


class TimmNetwork(Network):
    """Hold timm's network `name`, its weights fresh, without its classifier, which is `classifier`.

    Its maps are timm's intermediates. Raises ConfigError for a network that has no linear classifier, or that draws
    random numbers while it is trained: kd could not repeat these after a stop.
    """

    def __init__(self, name: str, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.name = name.replace("-", "_")
        self.body = timm.create_model(self.name, num_classes=classes, in_chans=channels)
        classifier = self.body.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise ConfigError(f"timm:{self.name}: its classifier is no linear layer, so it has no pre-logits")
        if drawn := [module for module in self.body.modules() if _chance(module)]:
            raise ConfigError(f"timm:{self.name}: it has {drawn[0]}, which draws random numbers while it is trained")
        self.body.reset_classifier(0)
        self.classifier = classifier

    def features(self, images: Tensor) -> Tensor:
        """Return the pre-logits [B, D]."""
        self._demand_size(images)
        return self.body(images)

    def outputs(self, images: Tensor, names: Collection[str]) -> Output:
        """Return what `names` says of what the network says of images [B, C, H, W]; logits always."""
        if wanted := {"edges", "cams"} & set(names):
            raise ConfigError(f"timm:{self.name}: it does not tell its {' and '.join(sorted(wanted))}")
        if "maps" not in names:
            return super().outputs(images, names)
        self._demand_size(images)
        if not hasattr(self.body, "forward_intermediates"):
            raise ConfigError(f"timm:{self.name}: timm does not tell its maps")
        last, maps = self.body.forward_intermediates(images)
        prelogits = self.body.forward_head(last)
        return Output(self.classifier(prelogits), prelogits, tuple(maps))

    def head(self) -> nn.Sequential:
        """Raise ConfigError: what follows a map is not known."""
        raise ConfigError(f"timm:{self.name}: it cannot be parted at a map")

    def norms(self) -> list[nn.BatchNorm2d]:
        """Raise ConfigError: what precedes a ReLU is not known."""
        raise ConfigError(f"timm:{self.name}: it does not tell the batch normalisation before its ReLUs")

    def _demand_size(self, images: Tensor) -> None:
        own, given = self.body.default_cfg, tuple(images.shape[2:])
        size = tuple(own.get("input_size", ())[1:])
        if own.get("fixed_input_size") and given != size:
            raise ConfigError(f"timm:{self.name}: it reads images of {size} pixels, these are of {given}")


def _chance(module: nn.Module) -> bool:
    return (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0) or bool(
        getattr(module, "drop_prob", None)
    )
