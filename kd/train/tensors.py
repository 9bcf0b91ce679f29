"""Files of tensors that were published."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from kd.core import files
from kd.core.errors import Damaged


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises StorageError when it cannot be read, Damaged when it is none.

    Its bytes are read here, because each version of safetensors fails in its own way where a disk does.
    """
    with files.storage(path, verb="read"):
        content = files.content_of(path)
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise Damaged(f"{path}: damaged, no safetensors file: {error}; {files.AGAIN}") from error
