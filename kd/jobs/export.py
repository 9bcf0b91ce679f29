"""`kd export`: a network as a folder that needs no kd, in the layout of the Hugging Face Hub.

config.json         what it is: architecture, classes, normalisation, recipe, numbers, digests
model.safetensors   the published file, to the byte
model.py            the network's own code, which needs torch and safetensors alone, and `load`
README.md           the model card
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from kd import models
from kd.core import code, files
from kd.core.errors import ConfigError, StorageError
from kd.study import products
from kd.study.cells import Cell
from kd.study.judge import content
from kd.study.paths import parse_cell
from kd.study.shown import shown

MODEL = "model.safetensors"
_LOADER = "kd.models.loader"
_LEFT_OUT = {"kd.models", "kd.models.timm_names"}  # the names of networks, which no network itself needs
_REPLACED = "kd.core.errors"  # of which networks raise ConfigError alone
_REGISTRIES = {"NETWORKS", "LOSSES", "DATASETS", "FIGURES"}  # of plug-ins


def export(path: str, folder: Path) -> None:
    """Write the network of a cell to `folder`, complete or not at all.

    Raises ConfigError for a folder that has something in it, and for what has no weights of its own; StorageError when
    the network is not there, is damaged, or its data are another now.
    """
    cell = parse_cell(path)
    if cell.is_ensemble:
        raise ConfigError(f"{cell}: is an ensemble, which has no weights of its own; export its members")
    manifest = files.verified(Path(cell.path))
    if manifest["status"] != "ok":
        raise ConfigError(f"{cell}: diverged, so it has no weights: {manifest['cause']}")
    config = config_of(cell, manifest)
    source = source_of(cell.stage.network)
    files.write_folder(
        folder,
        {
            "config.json": (json.dumps(config, indent=1) + "\n").encode(),
            MODEL: files.content_of(Path(cell.path, MODEL)),
            "model.py": source.encode(),
            "README.md": card(cell, config, requirements(source)).encode(),
        },
    )


def config_of(cell: Cell, manifest: Mapping) -> dict:
    """Return what is to be known of a network to use it. Raises StorageError when its data are not there."""
    product = products.data(cell.dataset.name)
    data = files.read_manifest(product.folder)
    if data is None or content(data) != manifest["inputs"][product.name]["digest"]:
        why = "are another now" if data else "are gone"
        raise StorageError(f"{product}: the data of {cell} {why}, and its classes with them; run `kd data` for them")
    weights = manifest["recipe"].get("weights") or {}
    size = [data["streamed"]["size"]] * 2 if "streamed" in data else data["shape"][:2]
    _, architecture, numbers = models.made_by(cell.stage.network)
    channels = len(data["mean"])
    return {
        "architecture": architecture,
        "arguments": {**numbers, "classes": len(data["class_names"]), "channels": channels},
        "network": cell.stage.network,
        "image_size": size,
        "channels": channels,
        "mean": weights.get("mean") or data["mean"],
        "std": weights.get("std") or data["std"],
        "id2label": {str(number): name for number, name in enumerate(data["class_names"])},
        "kd": {
            "cell": cell.path,
            "version": manifest["kd"],
            "recipe": manifest["recipe"],
            "last": manifest["last"],
            "epochs": manifest["epochs"],
            "parameters": manifest["parameters"],
            "sha256": manifest["files"][MODEL],
            "manifest_sha256": manifest["manifest_sha256"],
            "inputs": {name: one["digest"] for name, one in manifest["inputs"].items()},
        },
    }


# -- the code ---------------------------------------------------------------------------------------------------------


def source_of(network: str) -> str:
    """Return the code of a network and of `load` as one file that imports nothing of kd.

    Raises ConfigError for a plug-in that uses more of kd than its networks.
    """
    imports: dict[str, set[str]] = defaultdict(set)
    bodies: list[str] = []
    defined: dict[str, str] = {}
    for module in [*_in_order(models.made_by(network)[0]), _LOADER]:
        kept = _body(module, imports)
        for name in _defined(ast.parse(kept)):
            if name in defined:
                raise ConfigError(f"{network}: {module} and {defined[name]} both define {name}, so no one file can")
            defined[name] = module
        bodies.append(f"# -- {module}\n\n\n{kept}")
    title = f'"""The network {network}, without kd: `from model import load`. Written by `kd export`; MIT licence."""'
    head = [title, "", "from __future__ import annotations", "", *_spelled(imports)]
    errors = ["\nConfigError = ValueError"] if any("ConfigError(" in one for one in bodies) else []
    return "\n".join([*head, *errors, "", *(f"\n{one}\n" for one in bodies)])


def _in_order(module: str, found: tuple[str, ...] = ()) -> list[str]:
    """Return the modules behind one, what is imported before what imports it."""
    order: list[str] = []
    for one in sorted(code.imports(module) - _LEFT_OUT - {_REPLACED}):
        if not one.startswith("kd.models."):
            raise ConfigError(f"{module}: imports {one}, so the network cannot stand without kd; it may use kd.models")
        order += [each for each in _in_order(one) if each not in order]
    return [*order, module]


def _body(module: str, imports: dict[str, set[str]]) -> str:
    """Return the source of a module without its docstring and imports; those not from kd go to `imports`."""
    text = code.source_of(module)
    lines, tree = text.split("\n"), ast.parse(text)
    for number, node in enumerate(tree.body):
        docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (docstring or isinstance(node, ast.Import | ast.ImportFrom) or _registers(node)):
            continue
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in ("kd", "__future__"):
            imports[node.module] |= {ast.unparse(alias) for alias in node.names}
        elif isinstance(node, ast.Import):
            imports[""] |= {ast.unparse(alias) for alias in node.names}
        for place in range(node.lineno - 1, node.end_lineno):
            lines[place] = "\0"
    return "\n".join(line for line in lines if line != "\0").strip()


def _spelled(imports: Mapping[str, set[str]]) -> list[str]:
    """Spell {module: names of it} as statements; "" has whole modules."""
    whole = [f"import {name}" for name in sorted(imports.get("", ()))]
    parts = {module: ", ".join(sorted(names)) for module, names in imports.items() if module}
    return whole + [f"from {module} import {parts[module]}" for module in sorted(parts)]


def _registers(node: ast.stmt) -> bool:
    """Say whether a statement only tells kd what a plug-in adds."""
    return isinstance(node, ast.Assign) and any(getattr(target, "id", "") in _REGISTRIES for target in node.targets)


def _defined(tree: ast.Module) -> Iterable[str]:
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def requirements(source: str) -> list[str]:
    """Return the packages that a file needs beside the standard library's."""
    known = ("safetensors", "timm", "torch", "torchvision")
    used = {name.split(".")[0] for node in ast.walk(ast.parse(source)) for name in _modules(node)}
    return [name for name in known if name in used]


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


# -- the card ---------------------------------------------------------------------------------------------------------


def card(cell: Cell, config: Mapping, needs: list[str]) -> str:
    """Return the model card: the Hub's header in YAML, how to load the network, and what `kd show` says of it."""
    of, name = config["kd"], str(cell.stage)
    top1 = round(of["last"]["test_top1"], 4)
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": cell.dataset.name, "type": cell.dataset.name, "split": "test"},
        "metrics": [{"type": "accuracy", "name": "test top-1 (%) after the last epoch", "value": top1}],
    }
    header = {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "knowledge-distillation", "kd"],
        "datasets": [cell.dataset.name],
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [result]}],
    }
    height, width = config["image_size"]
    lineage = " → ".join(f"`{stage}`" for stage in cell.stages)
    told = "\n".join(shown(Path(cell.path))[2:])
    told = told[: told.index("\nmade\n")].strip()
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---

# {name}

{lineage}, trained by kd {of["version"]} on {cell.dataset}.
Of {len(config["id2label"])} classes it names the right one for {top1:.2f} % of the test images, after the last epoch.

It needs {", ".join(needs)}, and no kd. In this folder:

```python
from model import load
network = load()
logits = network(images)  # [B, {config["channels"]}, {height}, {width}], floats from 0 to 1; it normalises them itself
```

`config.json` has the names of the classes (`id2label`), the recipe and the digests of what it was made from.
Its weights are the published file to the byte: sha256 `{of["sha256"]}`.

```
{told}
```
"""
