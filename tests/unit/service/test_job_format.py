from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.service.job_format import OPTIONS, PushJob, job_schema, read_document, read_job, read_payload
from uploader.service.options import PushOptions

JOB = {"sources": ["graph.json"], "to": "oci://host/cache"}

BAD = {
    "a list": ([], "JSON object"),
    "no sources": ({"to": "oci://host/x"}, "sources"),
    "standard input": ({**JOB, "sources": ["-"]}, "standard input"),
    "no destination": ({"sources": ["g.json"]}, "`to`"),
    "unknown key": ({**JOB, "sorces": []}, "did you mean 'sources'"),
    "unknown option": ({**JOB, "options": {"code": "zstd"}}, "did you mean 'codec'"),
    "wrong type": ({**JOB, "options": {"force": 1}}, "true or false"),
    "a flag as number": ({**JOB, "options": {"level": True}}, "whole number"),
    "the operator's": ({**JOB, "options": {"state": "x.db"}}, "uploader serve"),
    "no codec": ({**JOB, "options": {"codec": "rar"}}, "rar"),
    "no part": ({**JOB, "options": {"only": ["everything"]}}, "only"),
    "priority": ({**JOB, "priority": "high"}, "priority"),
    "large priority": ({**JOB, "priority": 2**40}, "32 bits"),
    "empty key": ({**JOB, "key": ""}, "1 to 512"),
    "too large": ({**JOB, "sources": ["x" * 70_000]}, "name big graphs by their path"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str) -> None:
    document, named = BAD[case]
    with pytest.raises(InputError, match=named):
        read_job(document, PushOptions())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"to": "oci://a/x", "to": "oci://b/x"}', "'to' is given twice"),
        (b'[{"options": {"force": true, "level": 1, "force": false}}]', "'force' is given twice"),
        (b"{", "the message is not JSON: "),
        (b"\xff", "the message is not JSON: "),
        (b"[" * 100_000, "the message is not JSON: "),
    ],
)
def test_what_is_no_document_is_refused_and_of_two_values_none_is_lost(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_document(content, "message")


def test_a_job_keeps_its_options_and_takes_the_others_from_the_daemon() -> None:
    job = read_job({**JOB, "options": {"codec": "zstd", "jobs": 99, "select": ["a"], "level": None}})
    options = job.push_options(PushOptions(jobs=8, limit_rate=5))
    assert (options.codec, options.jobs, options.select, options.limit_rate) == ("zstd", 8, ("a",), None)


def test_a_job_may_have_a_limit_of_its_own_within_that_of_all() -> None:
    job = read_job({**JOB, "options": {"limit_rate": 7}}, PushOptions())
    assert job.push_options(PushOptions(limit_rate=5)).limit_rate == 7
    with pytest.raises(InputError, match="at least 1 byte per second"):
        read_job({**JOB, "options": {"limit_rate": 0}}, PushOptions())


@given(st.lists(st.text(min_size=1).filter(lambda text: "\0" not in text and "//" not in text), min_size=1, max_size=5))
def test_a_kept_job_is_the_same_again(sources: list[str]) -> None:
    sources = [f"./{source}" for source in sources]
    job = PushJob(tuple(sources), "oci://host/cache", {"force": True})
    assert read_payload(job.spec(5).payload) == job


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*JOB, "options", *OPTIONS]), inner),
    )
)
def test_any_json_is_a_job_or_an_input_error(document: Any) -> None:
    try:
        job = read_job(document, PushOptions())
    except InputError:
        return
    assert job.sources


def test_the_schema_names_every_option() -> None:
    properties: Any = job_schema()["properties"]
    assert set(properties["options"]["properties"]) == set(OPTIONS)
    assert set(properties) == {"sources", "to", "options", "key", "priority"}
