"""Build the site of these pages: python docs/build.py [FOLDER], by default site/. Warnings are errors.

The pages lie where the repository has them, README.md first, so that links between them, and to pictures and tables of
reports/ and bench/, are the same there and here. This copies what git knows of that into a folder and has Zensical
build it. docs/configuration.md is written from the models: `python docs/build.py --configuration` writes it anew; the
tables of losses and selections are written by docs/tables.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The pages in the order of the site, by what a reader wants.
PAGES = {
    "Start": {
        "What kd is": "README.md",
        "Tutorial": "docs/tutorial.md",
        "By hand": "docs/by-hand.md",
        "In Python": "docs/python.md",
    },
    "Studies": {
        "Studies": "docs/study.md",
        "Configuration": "docs/configuration.md",
        "Losses": "docs/losses.md",
        "Networks": "docs/networks.md",
        "Data and label noise": "docs/data.md",
        "Teachers": "docs/teachers.md",
        "Search": "docs/search.md",
        "Figures and the verdict": "docs/figures.md",
        "Plug-ins": "docs/plugins.md",
        "As a module": "config/README.md",
    },
    "Running": {
        "One GPU machine": "docs/machine.md",
        "SLURM": "slurm/README.md",
        "What runs when, failures": "docs/running.md",
        "Containers": "docs/containers.md",
        "Questions": "docs/faq.md",
    },
    "Results": {
        "Results": "docs/results.md",
        "Of record": "reports/record/README.md",
        "Of record, on a GPU": "reports/record_gpu/README.md",
        "Speed": "bench/results/RESULTS.md",
    },
    "Inside": {
        "Design": "docs/design.md",
        "Promises": "docs/promises.md",
        "Contributing": "CONTRIBUTING.md",
        "Changes": "CHANGELOG.md",
    },
}
_RUN = re.compile(rb"^(```sh) .*$", re.MULTILINE)  # how tests/test_commands.py runs a block is nothing for readers
_SHOWN = (".md", ".png", ".svg", ".csv", ".html", ".ipynb")


def build(folder: Path) -> None:
    """Build the site into `folder`. Raises CalledProcessError if Zensical warns of anything."""
    with tempfile.TemporaryDirectory(prefix="kd-site-") as place:
        pages = Path(place, "pages")
        for name in _known():
            if name.endswith(_SHOWN):
                target = pages / name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = (ROOT / name).read_bytes()
                target.write_bytes(_RUN.sub(rb"\1", content) if name.endswith(".md") else content)
        text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        Path(place, "mkdocs.yml").write_text(text + _navigation(), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=place, check=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(place, "site"), folder)


def _known() -> list[str]:
    """Return the files of the pages' folders that git knows, or would with `git add`."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    folders = ["*.md", "docs", "slurm", "config", "bench/results", "reports"]
    return subprocess.run([*listed, *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")


def _navigation() -> str:
    lines = ["nav:"]
    for part, pages in PAGES.items():
        lines.append(f"  - {part}:")
        lines += [f"    - {title}: {at}" for title, at in pages.items()]
    return "\n".join(lines) + "\n"


# -- the configuration reference --------------------------------------------------------------------------------------

_HEAD = """# Configuration

Every key of a study, from the models that check it (`python docs/build.py --configuration` wrote this page; `kd schema`
prints the same as JSON schema). A study is YAML; [studies](study.md) says what it means. An unknown key stops
everything. A value that several keys take stands once, under its name.
"""


def configuration() -> str:
    """Return docs/configuration.md."""
    from kd.study import config

    said = config.schema()
    parts = [_HEAD, "\n## The study\n\n", _table(said)]
    for name, model in sorted(said["$defs"].items()):
        if "properties" in model and name != "Loss":
            parts += [f"\n## {_title(name)}\n\n", _table(model)]
    return "".join(parts) + "\nLosses and their hyperparameters have [a page of their own](losses.md).\n"


def _table(model: dict) -> str:
    required = model.get("required", ())
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for key, said in model["properties"].items():
        default = "required" if key in required else _code(said.get("default"))
        rows.append(f"| `{key}` | {_type(said)} | {default} | {_cell(said.get('description', ''))} |")
    return "\n".join(rows) + "\n"


def _type(said: dict) -> str:
    if "$ref" in said:
        name = said["$ref"].rpartition("/")[2]
        return "[loss](losses.md)" if name == "Loss" else f"[{_title(name)}](#{_title(name).lower().replace(' ', '-')})"
    if "enum" in said:
        return " or ".join(map(_code, said["enum"]))
    if "const" in said:
        return _code(said["const"])
    for several in ("anyOf", "oneOf"):
        if several in said:
            return " or ".join(dict.fromkeys(map(_type, said[several])))
    match said.get("type"):
        case list() as names:
            return " or ".join(names)
        case "array":
            return f"list of {_type(said.get('items', {}))}"
        case "object" if isinstance(each := _each(said), dict):
            return f"names, each a {_type(each)}"
        case "object":
            return "keys and values"
        case name:
            return name or "any value"


def _each(said: dict) -> object:
    return next(iter(said.get("patternProperties", {}).values()), said.get("additionalProperties"))


def _title(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name)


def _code(value: object) -> str:
    if value is None or (isinstance(value, list) and any(one is None or isinstance(one, list) for one in value)):
        return ""  # no plain value: the words beside it say what is meant
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--configuration"]:
            (ROOT / "docs/configuration.md").write_text(configuration(), encoding="utf-8")
        case [*folders]:
            build(Path(next(iter(folders), "site")).resolve())
