"""Every error that uploader raises on purpose, sorted by what the caller can do about it.

A message says what was tried, on what, what came back, and what to do. It never holds a secret or the
query of a URL.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Stage = Literal["read", "pack", "blob", "manifest"]
Kind = Literal["auth", "quota", "network", "registry", "source"]


SHORT: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The machine is short of something, which passes: kind `quota`. The first two are a full disk."""


def source_kind(error: OSError) -> Kind:
    """Of an error in reading a source, or in working on it."""
    return "quota" if error.errno in SHORT else "source"


class UploaderError(Exception):
    """Something went wrong that a user can understand from the message alone."""


class InputError(UploaderError):
    """The graph, the options or a reference cannot be used; nothing was sent (exit status 2)."""


class KeyTakenError(InputError):
    """A job was submitted with the key of a job that has another content; nothing was submitted."""


class SourceError(UploaderError):
    """One package's content cannot be read or packed; the other packages go on."""

    def __init__(self, message: str, *, stage: Literal["read", "pack"] = "read", kind: Kind = "source") -> None:
        super().__init__(message)
        self.stage: Stage = stage
        self.kind: Kind = kind


class RegistryError(UploaderError):
    """The registry refused one request for good, or the tries for it are spent."""

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = "registry",
        status: int | None = None,
        codes: Sequence[str] = (),
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.status = status
        self.codes = tuple(codes)
        self.attempts = attempts


class AbsentError(RegistryError):
    """There is no such repository, or nothing is tagged in it: many registries do not tell these apart."""


class StoppedError(UploaderError):
    """The run was stopped before the graph was known; nothing was sent (exit status 128 + signal)."""

    signal_number = 2


class UnusableError(UploaderError):
    """The registry, or the daemon, cannot be used at all: the whole run ends (exit status 3)."""


StoreProblem = Literal["unavailable", "full", "read-only", "corrupt", "schema", "unsuitable"]


class JobStoreError(UploaderError):
    """The job store cannot be used now; `problem` says whether that may pass by itself or needs somebody."""

    def __init__(self, message: str, *, problem: StoreProblem) -> None:
        super().__init__(message)
        self.problem: StoreProblem = problem


def hide_login(url: str) -> str:
    """The URL as a message may show it: without what is before the last `@`, and without its query.

    Passwords are written with `@`, `/` and `#` as they are, and readers of URLs differ in where those end.
    """
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    login, _, where = rest.rpartition("@")
    if "?" in login:  # it may as well be the query that has the `@`
        return f"{scheme}{mark}…"
    return scheme + mark + where.partition("?")[0].partition("#")[0]
