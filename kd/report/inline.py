"""A figure's SVG as an element of the page: only what draws, with names that no other figure on the page has."""

from __future__ import annotations

import html
import re
from pathlib import Path
from xml.etree import ElementTree

from kd.core.errors import StorageError
from kd.core.project import on_disk

# Elements that draw. The page leaves all others out: metadata, styles that would hold for the whole page, scripts.
_DRAW = frozenset({"svg", "g", "defs", "path", "use", "clipPath", "rect", "circle", "pattern", "image", "title"})
_PLACES = frozenset({"d", "x", "y", "cx", "cy"})  # in points; a hundredth is enough
_INSIDE = re.compile(r"(?:#|data:image/png;base64,)[^\"]*")


def inline(path: Path, name: str, alt: str, kind: str = "") -> str:
    """Return the SVG file at `path` as HTML of class `kind`; its ids begin with `name`, and `alt` says what it shows.

    Nothing in it can run, or load another file. Raises StorageError where it cannot be read.
    """
    try:
        root = ElementTree.fromstring(on_disk(path).read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: cannot read the figure: {error.strerror}; run snakemake to draw it") from error
    except ElementTree.ParseError as error:
        raise StorageError(f"{path}: cannot read the figure: {error}; run snakemake to draw it again") from error
    root.attrib |= {"role": "img", "aria-label": alt} | ({"class": kind} if kind else {})
    return _written(root, name)


def _written(element: ElementTree.Element, name: str) -> str:
    tag = _local(element.tag)
    if tag not in _DRAW:
        return ""
    attributes = "".join(_attribute(_local(key), value, name) for key, value in element.attrib.items())
    text = html.escape(element.text or "") if tag == "title" else ""
    return f"<{tag}{attributes}>{text}{''.join(_written(child, name) for child in element)}</{tag}>"


def _local(name: str) -> str:
    return name.rpartition("}")[2]  # {http://www.w3.org/1999/xlink}href


def _attribute(key: str, value: str, name: str) -> str:
    if key.startswith("on") or (key == "href" and not _INSIDE.fullmatch(value)):
        return ""
    if key == "id":
        value = f"{name}-{value}"
    elif key == "href" and value.startswith("#"):
        value = f"#{name}-{value[1:]}"
    elif key in _PLACES:
        value = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
    value = value.replace("url(#", f"url(#{name}-")
    return f' {key}="{html.escape(value)}"'
