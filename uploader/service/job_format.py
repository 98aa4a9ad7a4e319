"""A push as a job: what may stand in one, how it is read, and how it is kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from uploader.errors import InputError
from uploader.jobs import JobSpec
from uploader.model.reference import parse_destination
from uploader.packing.codecs import find_codec
from uploader.sources.base import parse_source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uploader.service.options import PushOptions

_SCHEMA_ID: Final = "uploader/job/v1"
_MOST_SOURCES: Final = 1000


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of value: how it is called, its JSON Schema, whether a value is one, and what it becomes."""

    name: str
    schema: Mapping[str, object]
    fits: Callable[[object], bool]
    read: Callable[[Any], object] = lambda value: value


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word for word in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_WORDS = _Kind("a list of strings", {"type": "array", "items": {"type": "string", "minLength": 1}}, _is_words, tuple)
_FLAG = _Kind("true or false", {"type": "boolean"}, lambda value: isinstance(value, bool))
_NUMBER = _Kind("a whole number", {"type": "integer"}, _is_number)
_TEXT = _Kind("a string", {"type": "string", "minLength": 1}, lambda value: isinstance(value, str) and value != "")
_PATH = _Kind("a path", _TEXT.schema, _TEXT.fits, Path)

OPTIONS: Final[Mapping[str, _Kind]] = {
    "select": _WORDS,
    "only": _Kind(
        "a list of `package` and `dependencies`",
        {"type": "array", "items": {"enum": ["package", "dependencies"]}, "minItems": 1},
        _is_words,
        tuple,
    ),
    "exclude": _WORDS,
    "force": _FLAG,
    "base_image": _TEXT,
    "codec": _Kind("a codec", {"enum": ["gzip", "gzip-zlib", "zstd", "none"]}, _TEXT.fits),
    "level": _NUMBER,
    "check_diff_ids": _FLAG,
    "jobs": _NUMBER,
    "limit_rate": _NUMBER,
    "strict": _FLAG,
    "update_index": _FLAG,
    "private": _FLAG,
    "without_build_dependencies": _FLAG,
    "spack_root": _PATH,
    "source_date_epoch": _NUMBER,
}
"""The options of `uploader push` that one job may have: those that concern the operator's files, logins and budget
are for `uploader serve`."""

_OPERATORS: Final = frozenset(
    {"ca_file", "temp_dir", "state", "auth_realms", "limit_requests", "report", "progress", "config"}
)


@dataclass(frozen=True, slots=True)
class PushJob:
    """A push that somebody asks the daemon for. Read it with `read_job`, which checks it."""

    sources: tuple[str, ...]
    to: str
    options: Mapping[str, object] = field(default_factory=dict)
    key: str | None = None
    priority: int = 0

    def push_options(self, defaults: PushOptions) -> PushOptions:
        """Its options over the daemon's; raises InputError for values that cannot be.

        `limit_rate` is only the job's own: the daemon's holds for all jobs together, whatever one says.
        """
        given = {name: OPTIONS[name].read(value) for name, value in self.options.items()}
        options = replace(defaults, **{"limit_rate": None, **given})  # type: ignore[arg-type]
        return replace(options, jobs=min(options.jobs, defaults.jobs))

    def spec(self, max_attempts: int) -> JobSpec:
        """As the job store keeps it: the same bytes for the same job, in whatever order its options were given."""
        content = {"sources": list(self.sources), "to": self.to, "options": dict(sorted(self.options.items()))}
        payload = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return JobSpec(payload, self.key, self.priority, max_attempts)


def read_document(content: bytes, what: str) -> object:
    """The JSON of what somebody sent, a `what`; raises InputError, also where of two values one would be lost."""
    try:
        return json.loads(content, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the {what} is not JSON: {str(error)[:200]}") from error


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InputError(f"{twice[:100]!r} is given twice")
    return document


def read_each(document: object, read: Callable[[object, str], PushJob]) -> list[PushJob]:
    """The jobs of a document, which is one or a list of them; raises InputError that says which of a list is wrong.

    `read` gets each, and what is to stand behind a key that is meant for all of them.
    """
    if not isinstance(document, list):
        return [read(document, "")]
    jobs = []
    for place, one in enumerate(document):
        try:
            jobs.append(read(one, f"/{place}"))
        except InputError as error:
            raise InputError(f"job {place + 1} of {len(document)}: {error}") from error
    return jobs


def read_payload(payload: bytes) -> PushJob:
    """What `spec` kept; raises InputError for what this version cannot read."""
    try:
        document = json.loads(payload.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise InputError("the job is not JSON") from error
    return read_job(document)


def read_job(document: object, defaults: PushOptions | None = None) -> PushJob:
    """Read a job; raises InputError that names what is wrong with it. With `defaults` the values are tried on them."""
    if not isinstance(document, dict):
        raise InputError('a job is a JSON object such as {"sources": ["graph.json"], "to": "oci://HOST/REPOSITORY"}')
    _refuse_unknown(document, ("sources", "to", "options", "key", "priority"), "job")
    sources, to, options = document.get("sources"), document.get("to"), document.get("options") or {}
    key, priority = document.get("key"), document.get("priority", 0)
    if not _is_words(sources) or not isinstance(sources, list) or not 0 < len(sources) <= _MOST_SOURCES:
        raise InputError(f"a job's `sources` is a list of 1 to {_MOST_SOURCES} strings")
    if not isinstance(to, str):
        raise InputError("a job's `to` is a destination, such as oci://HOST/REPOSITORY")
    if key is not None and not isinstance(key, str):
        raise InputError("a job's `key` is a string, or null")
    if not _is_number(priority):
        raise InputError("a job's `priority` is a whole number")
    for source in sources:
        if source == "-":
            raise InputError("a job cannot read its source from standard input: give a file")
        parse_source(source)
    parse_destination(to)
    job = PushJob(tuple(sources), to, _read_options(options), key, int(priority))
    job.spec(max_attempts=1)  # its sizes
    if defaults is not None:
        tried = job.push_options(defaults)
        find_codec(tried.codec, tried.level)
    return job


def _read_options(options: object) -> dict[str, object]:
    if not isinstance(options, dict):
        raise InputError("a job's `options` is a JSON object")
    if operators := sorted(_OPERATORS & options.keys()):
        raise InputError(f"{operators[0]} is not for a job to say: it is an option of `uploader serve`")
    _refuse_unknown(options, tuple(OPTIONS), "option")
    for name, value in options.items():
        if value is not None and not OPTIONS[name].fits(value):
            raise InputError(f"the option {name} is {OPTIONS[name].name}, not {json.dumps(value)[:100]}")
    return {name: value for name, value in options.items() if value is not None}


def _refuse_unknown(document: Mapping[str, object], known: tuple[str, ...], what: str) -> None:
    for name in document:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"unknown {what} key {str(name)[:100]!r}; {hint}")


def job_schema() -> dict[str, object]:
    """The JSON Schema of a job."""
    text = {"type": "string", "minLength": 1}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": _SCHEMA_ID,
        "type": "object",
        "additionalProperties": False,
        "required": ["sources", "to"],
        "properties": {
            "sources": {"type": "array", "items": text, "minItems": 1, "maxItems": _MOST_SOURCES},
            "to": {**text, "description": "oci://HOST/REPOSITORY, oci+http://HOST/REPOSITORY or oci-layout:PATH"},
            "options": {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: dict(kind.schema) for name, kind in OPTIONS.items()},
            },
            "key": {
                "type": ["string", "null"],
                "minLength": 1,
                "maxLength": 512,
                "description": "while a job with this key is not final, another with it and the same sources, "
                "destination and options is that job, and any other is refused",
            },
            "priority": {"type": "integer", "default": 0, "description": "higher goes first"},
        },
    }
