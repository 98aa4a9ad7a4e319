from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.sources.spack.a_store import ANYTHING, AStore, a_hash
from uploader.errors import InputError
from uploader.sources.spack.naming import description, platform, spack_tag

WORDS = st.sampled_from(["target", "name", "vendor", "version", "cflags", "patches", "x"])


@pytest.mark.parametrize(
    ("version", "tag"),
    [
        ("1.2", "zlib-1.2-abc.spack"),
        ("git.1ab=2.0+x", "zlib-git.1ab_2.0_x-abc.spack"),
        ("ü/ 1", "zlib-ü__1-abc.spack"),
    ],
)
def test_a_tag_is_made_as_spack_makes_it(version: str, tag: str) -> None:
    assert spack_tag("zlib", version, "abc") == tag


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_long_tag_loses_its_middle(name: str, version: str) -> None:
    tag = spack_tag(name, version, a_hash("x"))
    whole = re.sub(r"[^\w.-]", "_", f"{name}-{version}-{a_hash('x')}.spack")
    assert tag == whole if len(whole) <= 128 else (tag[:64], tag[64:]) == (whole[:64], whole[-64:])


def described(version: str, parameters: dict[str, Any], number: str = "1.0") -> str:
    store = AStore(version).add("a", version=number)
    store.installs[a_hash("a")]["spec"]["parameters"] = parameters
    database = store.database()
    return description(database.records[a_hash("a")], database.version)


def test_the_old_description_names_compiler_and_arch() -> None:
    parameters = {"shared": True, "build_system": "generic", "debug": False, "cflags": []}
    assert (
        described("7", parameters) == "a@=1.0%gcc@=12.2.0~debug+shared build_system=generic arch=linux-debian12-x86_64"
    )


def test_the_new_description_does_not() -> None:
    assert described("8", {"shared": True}) == "a@=1.0+shared platform=linux os=debian12 target=x86_64"


@pytest.mark.parametrize(
    ("old", "new", "parameters"),
    [
        (
            " cflags=-O2 ldflags='-g -s' +x",
            " cflags=-O2 ldflags='-g -s' +x",
            {"ldflags": ["-g", "-s"], "x": True, "cflags": ["-O2"]},
        ),
        (" l='c,c++'", " l:='c,c++'", {"l": ["c", "c++"]}),
        (" patches=0123456,abcdefa", " patches:=0123456,abcdefa", {"patches": ["0123456789", "abcdefabc"]}),
        (' v="it\'s"', ' v="it\'s"', {"v": "it's"}),
        (" v='[a]'", " v=[a]", {"v": "[a]"}),
        (" l=''", " l:='*'", {"l": []}),
    ],
)
def test_variants_and_flags_are_written_as_spack_writes_them(old: str, new: str, parameters: dict[str, Any]) -> None:
    assert f"12.2.0{old} arch" in described("7", parameters)
    assert f"a@=1.0{new} platform" in described("8", parameters)


@pytest.mark.parametrize("number", ["git.main=1.0", "a" * 40])
def test_a_version_of_a_commit_goes_without_equals(number: str) -> None:
    assert described("8", {}, number).startswith(f"a@{number} ")


@pytest.mark.parametrize(
    ("target", "architecture"),
    [
        ("x86_64", "amd64"),
        ("aarch64", "arm64"),
        ("ppc64le", "ppc64le"),
        ("zen3", "amd64"),
        ({"name": "neoverse_n1", "vendor": "ARM"}, "arm64"),
        ({"name": "newlake", "vendor": "GenuineIntel"}, "amd64"),
        ({"name": "power9le", "vendor": "IBM"}, "ppc64le"),
    ],
)
def test_the_platform_is_of_the_family_of_the_target(target: object, architecture: str) -> None:
    store = AStore().add("a")
    store.installs[a_hash("a")]["spec"]["arch"]["target"] = target
    (record,) = store.database().records.values()
    assert str(platform(record)) == f"linux/{architecture}"


@given(st.sampled_from(["arch", "compiler", "parameters", "external"]), ANYTHING | st.dictionaries(WORDS, ANYTHING))
def test_whatever_a_spec_says_of_itself_it_is_refused_or_described(key: str, value: object) -> None:
    store = AStore().add("a")
    store.installs[a_hash("a")]["spec"][key] = value
    try:
        record = store.database().records[a_hash("a")]
    except InputError:
        return
    assert description(record, "7").startswith("a@=1.0")
    assert platform(record).os == "linux"
