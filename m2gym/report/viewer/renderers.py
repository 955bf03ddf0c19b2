"""How artifacts are shown: a file becomes a block of plain data, which the page draws.

A renderer never makes HTML, so that what an agent wrote cannot run. Blocks:

| ``kind`` | fields |
|---|---|
| ``image`` | ``mime`` (``image/…``), ``data`` (base64) |
| ``table`` | ``rows``: lists of text, the first one the header |
| ``text`` | ``text`` |
| ``diff`` | ``text``: a unified diff |
| ``binary`` | ``bytes``: its size |
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from m2gym.core.errors import InputError

Block = dict[str, Any]
Renderer = Callable[[str, bytes], Block]

IMAGE_BYTES, TEXT_CHARS, TABLE_ROWS = 1_000_000, 40_000, 200
"""What of a file goes into the page at most; the project's choice."""

_RENDERERS: dict[str, Renderer] = {}
_FIELDS = {
    "image": {"mime", "data"},
    "table": {"rows"},
    "text": {"text"},
    "diff": {"text"},
    "binary": {"bytes"},
}


def renderer(*suffixes: str) -> Callable[[Renderer], Renderer]:
    """Register how files of these suffixes are shown; the last one wins.

    >>> @renderer(".points")
    ... def points(path, data):
    ...     pairs = map(str.split, data.decode().split(";"))
    ...     return {"kind": "table", "rows": [["x", "y"], *pairs]}
    >>> render("a.points", b"1 2;3 4")["rows"][1]
    ['1', '2']
    """

    for suffix in suffixes:
        if not suffix.startswith("."):
            raise InputError(f"a suffix starts with a dot, got {suffix!r}")

    def add(function: Renderer) -> Renderer:
        _RENDERERS.update(dict.fromkeys(map(str.lower, suffixes), function))
        return function

    return add


def render(path: str, data: bytes) -> Block:
    """The block of a file; a file that its renderer cannot read is shown as it is."""
    function = _RENDERERS.get(PurePosixPath(path).suffix.lower(), plain)
    try:
        block = function(path, data)
    except (ValueError, csv.Error, LookupError):
        block = plain(path, data)
    kind = block.get("kind")
    if kind not in _FIELDS or set(block) - {"kind", "cut"} != _FIELDS[kind]:
        raise InputError(
            f"the renderer of {PurePosixPath(path).suffix!r} gave {sorted(block)} of kind "
            f"{kind!r}; kinds and fields are {_FIELDS}"
        )
    if kind == "image" and not str(block["mime"]).startswith("image/"):
        raise InputError(f"an image's mime begins with image/, got {block['mime']!r}")
    return block


def plain(path: str, data: bytes) -> Block:
    """Text where it is UTF-8, else its size."""
    if b"\0" in data[:8192]:
        return {"kind": "binary", "bytes": len(data)}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"kind": "binary", "bytes": len(data)}
    if len(text) > TEXT_CHARS:
        return {"kind": "text", "text": text[:TEXT_CHARS], "cut": True}
    return {"kind": "text", "text": text}


@renderer(".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
def _image(path: str, data: bytes) -> Block:
    if len(data) > IMAGE_BYTES:
        return {"kind": "binary", "bytes": len(data)}
    kind = PurePosixPath(path).suffix.lower()[1:]
    mime = {"jpg": "image/jpeg", "svg": "image/svg+xml"}.get(kind, f"image/{kind}")
    return {"kind": "image", "mime": mime, "data": base64.b64encode(data).decode()}


@renderer(".csv", ".tsv")
def _table(path: str, data: bytes) -> Block:
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    found = list(csv.reader(io.StringIO(data.decode()), delimiter=delimiter))
    block: Block = {"kind": "table", "rows": found[: TABLE_ROWS + 1]}
    if len(found) > TABLE_ROWS + 1:
        block["cut"] = True
    return block


@renderer(".json")
def _json(path: str, data: bytes) -> Block:
    return plain(path, json.dumps(json.loads(data), indent=2, ensure_ascii=False).encode())


@renderer(".diff", ".patch")
def _diff(path: str, data: bytes) -> Block:
    return {"kind": "diff", "text": data.decode()[:TEXT_CHARS]}
