"""The text of `.spack/binary_distribution`: one line of YAML, as Spack's own dump writes it.

A big package lists thousands of paths, which PyYAML takes seconds for; nearly all are of a kind that certainly needs no
quotes, and are written here. What is not goes through PyYAML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import yaml

Value = str | bool | Sequence[str] | Mapping[str, str]

_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.+-]*")
_PLAIN_HASH: Final = re.compile(r"[a-z2-7]{32}")
_LETTER: Final = re.compile(r"[a-z]")
_LINE_BREAK: Final = re.compile("[\n\x85\u2028\u2029]")


def buildinfo(values: Mapping[str, Value]) -> bytes:
    """A flow mapping in the order of `values`, with a line break behind it."""
    line = f"{{{', '.join(f'{key}: {_value(value)}' for key, value in values.items())}}}"
    if _LINE_BREAK.search(line):  # in a name; how the next line is indented depends on all that is around it
        whole = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
        return _dump(whole).encode()
    return f"{line}\n".encode()


def _value(value: Value) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return scalar(value)
        case Mapping():
            return f"{{{', '.join(f'{scalar(key)}: {scalar(path)}' for key, path in value.items())}}}"
        case _:
            return f"[{', '.join(map(scalar, value))}]"


def scalar(text: str) -> str:
    """The text as YAML has it in a flow collection. A slash keeps it from being a number, a date or a word like `no`,
    a letter keeps a hash from being a number. Bytes that are not UTF-8 (surrogates) become escapes."""
    if "/" in text and _PLAIN_PATH.fullmatch(text):
        return text
    if _PLAIN_HASH.fullmatch(text) and _LETTER.search(text):
        return text
    return _dump([text])[1:-2]


def _dump(value: object) -> str:
    return str(yaml.dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True))
