from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from uploader.sources.spack.buildinfo import buildinfo, scalar

TEXTS = st.text(max_size=8) | st.text("abe012_./-+:#, ~'\"\\né\U0001f600\udcff", max_size=12)
HASHES = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=32, max_size=32)


@given(st.lists(TEXTS), st.dictionaries(HASHES, TEXTS), st.booleans())
def test_it_is_what_a_yaml_dump_writes(paths: list[str], prefixes: dict[str, str], switch: bool) -> None:
    values: dict[str, list[str] | dict[str, str] | bool | str] = {
        "hardlinks_deduped": switch,
        "relocate": paths,
        "hash_to_prefix": prefixes,
        "buildpath": "".join(paths),
    }
    dumped = yaml.dump(values, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
    assert buildinfo(values).decode() == dumped


@pytest.mark.parametrize("text", ["no", "1", "1e3/x", "", "2" * 32, "a b/c", "-x/y", "ü/x", "a: b/c", "#/x", "x/#y"])
def test_a_text_stays_a_text(text: str) -> None:
    assert yaml.safe_load(f"[{scalar(text)}]") == [text]


def test_bytes_that_are_not_utf_8_are_escaped() -> None:
    assert scalar("bin/\udcff") == '"bin/\\uDCFF"'
