"""Read this archive without kd. Python's standard library is enough; with numpy, weights are arrays.

python read.py          compare every file with SHA256SUMS, and list the networks

from read import table, manifest, weights
table()                 the tidy table: a dict for each experiment and network; curves() has one for each epoch
manifest(cell)          recipe, numbers, inputs and digests of a network, such as table()[0]["cell"]
weights(cell)           {name: array}
"""

import csv
import hashlib
import json
import struct
import sys
from math import prod
from pathlib import Path

HERE = Path(__file__).parent
_KINDS = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}


def table(name="table"):
    """Return the rows of reports/STUDY/table.csv, or of another CSV there, as dicts of text."""
    (path,) = HERE.glob(f"reports/*/{name}.csv")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def curves():
    """Return a dict for each network and epoch."""
    return table("curves")


def manifest(cell):
    """Return the manifest of a network: its recipe, numbers, inputs and digests."""
    return json.loads((HERE / cell / "manifest.json").read_text(encoding="utf-8"))


def weights(cell):
    """Return {name: numpy array} of a network, or where there is no numpy {name: (kind, shape, bytes)}."""
    content = (HERE / cell / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    parts = {}
    for name, one in header.items():
        begin, end = (8 + length + place for place in one["data_offsets"])
        parts[name] = _array(one["dtype"], one["shape"], content[begin:end])
    return parts


def _array(kind, shape, content):
    try:
        import numpy
    except ImportError:
        return kind, shape, content
    return numpy.frombuffer(content, "<" + _KINDS[kind], prod(shape)).reshape(shape)


def damaged():
    """Return the names of the files that are not as they were packed."""
    wrong = []
    for line in (HERE / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        path = HERE / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(name)
    return wrong


if __name__ == "__main__":
    for row in {row["cell"]: row for row in table()}.values():
        print(row["cell"], row["test_top1"] or row["status"])
    if wrong := damaged():
        sys.exit("damaged or missing: " + ", ".join(wrong))
    print("every file is as it was packed")
