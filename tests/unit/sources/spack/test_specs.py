from __future__ import annotations

import pytest

from tests.unit.sources.spack.a_store import AStore, a_hash
from uploader.errors import InputError
from uploader.sources.spack.specs import choose_roots

STORE = (
    AStore()
    .add("zlib", version="1.2.11", explicit=True)
    .add("zlib", version="1.3", key="zlibng")
    .add("curl", version="8.9", explicit=True)
    .add("gone", installed=False, explicit=True)
    .add("glibc", external=True, explicit=True)
    .add("curl", version="8.9", key="other")
)


def chosen(*specs: str) -> list[str]:
    return [f"{record.name}@{record.version}/{record.hash[:5]}" for record in choose_roots(STORE.database(), specs)]


def test_without_specs_all_that_were_installed_on_request_are_meant() -> None:
    assert chosen() == ["zlib@1.2.11/zlib2", "curl@8.9/curl2"]


@pytest.mark.parametrize("spec", ["zlib@1.3", "zlib@=1.3", "/zlibn", "zlib/zlibn", "zlib@1.3/zlib", "zlib@1.3/zlibng"])
def test_a_spec_means_one_that_is_installed(spec: str) -> None:
    assert chosen(spec) == ["zlib@1.3/zlibn"]


def test_a_version_also_means_its_series() -> None:
    assert chosen("zlib@1.2") == ["zlib@1.2.11/zlib2"]


def test_a_version_that_is_there_is_not_a_series() -> None:
    database = AStore().add("a", version="8").add("a", version="8.1", key="b").database()
    assert [record.version for record in choose_roots(database, ["a@8"])] == ["8"]


def test_a_series_does_not_end_in_the_middle_of_a_number() -> None:
    with pytest.raises(InputError, match=r"the store has zlib@1\.2\.11/zlib222, zlib@1\.3/zlibng2"):
        chosen("zlib@1.2.1")


def test_the_same_spec_twice_is_one_root() -> None:
    assert chosen("zlib@1.3", "/zlibng") == ["zlib@1.3/zlibn"]


@pytest.mark.parametrize("spec", ["curl", "curl@8.9", "curl@8"])
def test_an_ambiguous_spec_lists_its_candidates(spec: str) -> None:
    message = rf"could be any of 2: curl@8\.9/{a_hash('curl')}, curl@8\.9/{a_hash('other')}; name one by its /HASH"
    with pytest.raises(InputError, match=message):
        chosen(spec)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("gone", "not installed any more"),
        ("glibc", "it is external"),
        ("zlip", "did you mean zlib"),
        ("/abc", "no installed spec matches"),
        ("zlib+pic", "write NAME, NAME@VERSION or /HASH"),
        ("zlib ^x", "write NAME"),
        ("@1.2", "write NAME"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(spec: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        chosen(spec)


def test_a_store_in_which_nothing_was_asked_for_needs_a_name() -> None:
    with pytest.raises(InputError, match="none of its 1 specs was installed on request; name some"):
        choose_roots(AStore().add("a").database(), ())
