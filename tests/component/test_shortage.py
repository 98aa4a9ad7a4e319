"""What a machine is short of for a while is nobody's fault: a job that met it comes back."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

from uploader.errors import SourceError, UnusableError, UploaderError
from uploader.packing.ready import FileBody
from uploader.packing.tree import unreadable
from uploader.service.verdict import Again, judge_error
from uploader.sources.graph_file import GraphFile
from uploader.testing.packages import write_packages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def no_more_open_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_many_open_files_pass(tmp_path: Path) -> None:
    graph = write_packages(tmp_path, {"a": []})
    errors: list[UploaderError] = []
    with no_more_open_files():
        try:
            FileBody.at(graph)
        except SourceError as error:
            errors.append(error)
        try:
            GraphFile(graph).load()
        except UnusableError as error:
            errors.append(error)
        try:
            graph.open()
        except OSError as error:
            errors.append(unreadable(b"tree", error))
    assert all("Too many open files" in str(error) for error in errors)
    assert [getattr(error, "kind", None) for error in errors] == ["quota", None, "quota"]
    assert isinstance(judge_error(errors[1]), Again)
