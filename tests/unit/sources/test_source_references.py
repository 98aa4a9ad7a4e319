from __future__ import annotations

from pathlib import Path

import pytest

from uploader.errors import InputError
from uploader.sources.base import GraphFileReference, PythonReference, SpackReference, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-", GraphFileReference(None)),
        ("graph.json", GraphFileReference(Path("graph.json"))),
        ("./python:x", GraphFileReference(Path("./python:x"))),
        ("a:b.jsonl", GraphFileReference(Path("a:b.jsonl"))),
        ("python:.venv", PythonReference(Path(".venv"))),
        ("spack:/opt/spack", SpackReference(Path("/opt/spack"))),
        ("spack:/opt/s#zlib@1.3, /abc", SpackReference(Path("/opt/s"), ("zlib@1.3", "/abc"))),
    ],
)
def test_sources_are_read_as_users_write_them(text: str, expected: object) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a path"),
        ("a\0b", "is not a path"),
        ("python:", "names no folder"),
        ("spack:#zlib", "names no folder"),
        ("spack:/opt#", "empty spec"),
        ("spack:/opt#a,,b", "empty spec"),
        ("oci://host/name", "is not on this machine"),
        ("https://host/graph.json", "is not on this machine"),
    ],
)
def test_what_cannot_be_a_source_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_source(text)
