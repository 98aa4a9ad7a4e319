"""Whatever a graph file holds, it is read or refused with an InputError."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.sources.graph_file import GraphFile
from uploader.sources.graph_format import PackageEntry

HEADER: dict[str, Any] = {"schema": "uploader/graph/v1"}
ZLIB: dict[str, Any] = {"id": "zlib-5xk2", "name": "zlib", "version": "1.3", "blob": {"path": "zlib.tar.gz"}}
FULL: dict[str, Any] = {
    "id": "curl-9aa1", "name": "curl", "version": "8.9", "tag": "curl", "prefix": "store/curl", "at": "/opt/curl",
    "dependencies": ["zlib-5xk2", "gone", "zlib-5xk2"], "env": {"A": "b=c"}, "annotations": {"x.y": "two\nlines"},
    "config": {"z": [1, {"ü": None}], "a": 1.5}, "push": False, "platform": {"os": "linux", "architecture": "arm64"},
}  # fmt: skip


def document(*packages: object, **header: object) -> bytes:
    return json.dumps({**HEADER, **header, "packages": packages}).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*PackageEntry.model_fields, "nmae", "\ud800", ""])


def survives(content: bytes) -> None:
    message = ""
    try:
        GraphFile(None, line_bytes=300).read(io.BytesIO(content), "g.json", Path("/graphs"))
    except InputError as error:
        message = str(error)
    assert message.isprintable()


@given(st.binary() | st.text().map(str.encode))
@example(b'{"schema":"uploader/graph/v1"}\n[')
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    survives(content)


@given(st.integers(0), st.integers(0, 9), st.binary(max_size=4), st.booleans())
@settings(max_examples=300)
def test_damaged_documents_are_read_or_refused(where: int, removed: int, added: bytes, as_lines: bool) -> None:
    parts = (HEADER, FULL, ZLIB)
    content = b"\n".join(json.dumps(p).encode() for p in parts) if as_lines else document(FULL, ZLIB)
    where %= len(content)
    survives(content[:where] + added + content[where + removed :])


@given(
    st.lists(st.dictionaries(KEYS, JSON, max_size=3).map(lambda d: {**ZLIB, **d}) | JSON), st.dictionaries(KEYS, JSON)
)
@settings(max_examples=300)
def test_documents_with_any_values_are_read_or_refused(packages: list[object], header: dict[str, object]) -> None:
    survives(document(*packages))
    survives(document(*packages, **header))
