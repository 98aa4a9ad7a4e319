"""Which installed specs a user means: `name`, `name@version`, `/hash`, or all that were installed on request."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from uploader.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uploader.sources.spack.database import Database, Record

_SPEC = re.compile(r"(?P<name>[a-zA-Z0-9_][\w.-]*)?(?:@=?(?P<version>[\w.=+-]+))?(?:/(?P<hash>[a-z0-9]+))?")
_FORMS = "NAME, NAME@VERSION or /HASH"


def choose_roots(database: Database, specs: Sequence[str]) -> tuple[Record, ...]:
    """One installed spec for each of `specs`, or without any all explicit ones; raises InputError."""
    if specs:
        return tuple(dict.fromkeys(_find(database, text) for text in specs))
    roots = tuple(record for record in database.records.values() if record.is_explicit and _is_pushable(record))
    if not roots:
        raise InputError(
            f"none of its {len(database.records)} specs was installed on request; name some, as spack:ROOT#{_FORMS}"
        )
    return roots


def _find(database: Database, text: str) -> Record:
    match = _SPEC.fullmatch(text)
    if match is None or not (match["name"] or match["hash"]):
        raise InputError(f"spec {text[:100]!r} is not understood here: write {_FORMS}")
    found = [record for record in database.records.values() if _matches(record, match)]
    exact = [record for record in found if record.version == match["version"]]
    installed = [record for record in exact or found if _is_pushable(record)]
    match installed:
        case [record]:
            return record
        case []:
            raise InputError(f"spec {text!r}: {_why_none(database, match, found)}")
        case _:
            candidates = ", ".join(sorted(f"{record.name}@{record.version}/{record.hash}" for record in installed))
            raise InputError(f"spec {text!r} could be any of {len(installed)}: {candidates}; name one by its /HASH")


def _matches(record: Record, match: re.Match[str]) -> bool:
    """A version means itself and its series, as for Spack: `1.2` is also 1.2.11."""
    if match["name"] not in {None, record.name} or not record.hash.startswith(match["hash"] or ""):
        return False
    version = match["version"]
    return version is None or record.version == version or record.version.startswith((f"{version}.", f"{version}-"))


def _is_pushable(record: Record) -> bool:
    return record.is_installed and not record.is_external


def _why_none(database: Database, match: re.Match[str], found: Sequence[Record]) -> str:
    if any(record.is_external for record in found):
        return "it is external, so the store does not hold it"
    if found:
        return "it is recorded, but not installed any more"
    name = match["name"]
    known = sorted({record.name for record in database.records.values() if _is_pushable(record)})
    others = [str(record) for record in database.records.values() if record.name == name and _is_pushable(record)]
    if others:
        return f"the store has {', '.join(sorted(others))}"
    near = get_close_matches(name or "", known)
    return f"no installed spec matches; did you mean {' or '.join(near)}?" if near else "no installed spec matches"
