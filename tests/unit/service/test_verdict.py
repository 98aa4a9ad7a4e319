from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.errors import InputError, UnusableError
from uploader.service.report import ErrorEntry, IndexEntry, PackageEntry, Report, Totals
from uploader.service.verdict import Again, ForGood, Stopped, Succeeded, backoff_seconds, judge, judge_error

if TYPE_CHECKING:
    from uploader.errors import Kind


def a_report(*kinds: Kind, interrupted: int = 0, incomplete: int = 0, **more: object) -> Report:
    packages = tuple(
        PackageEntry(f"p{n}", f"p{n}", f"p{n}", "failed", error=ErrorEntry("blob", kind, "no", None, (), 1))
        for n, kind in enumerate(kinds)
    )
    totals = Totals(packages=9, failed=len(kinds), interrupted=interrupted, incomplete=incomplete)
    return Report("uploader/report/v1", ("g",), "oci://h/x", "", "", totals, packages, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["network", "quota", "registry"])
def test_what_may_pass_is_tried_again_also_among_what_stays(kind: Kind) -> None:
    assert isinstance(judge(a_report("source", kind, "auth"), strict=False, stopped=False), Again)


@pytest.mark.parametrize("kind", ["auth", "source"])
def test_what_stays_is_for_good(kind: Kind) -> None:
    verdict = judge(a_report(kind), strict=False, stopped=False)
    assert verdict == ForGood(f"1 of 9 packages failed; p0 (blob, {kind}): no")


def test_the_rest() -> None:
    assert judge(a_report(), strict=True, stopped=False) == Succeeded()
    assert judge(a_report(), strict=False, stopped=True) == Succeeded()  # it was done before it noticed
    assert judge(a_report("source", interrupted=1), strict=False, stopped=True) == Stopped()
    assert judge(a_report(interrupted=1), strict=False, stopped=False) == Again("1 packages were interrupted")
    assert judge(a_report(interrupted=1, error="gone"), strict=False, stopped=False) == Again("gone")
    assert isinstance(judge(a_report(incomplete=1), strict=True, stopped=False), ForGood)
    assert judge(a_report(incomplete=1), strict=False, stopped=False) == Succeeded()
    index = IndexEntry("failed", error="locked")
    assert judge(a_report(index=index), strict=False, stopped=False) == Again("the index: locked")
    assert judge_error(InputError("no")) == ForGood("no")
    assert judge_error(UnusableError("no")) == Again("no")


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_is_jittered_below_its_bound(attempts: int, chance: float) -> None:
    assert 0 <= backoff_seconds(attempts, chance) <= min(900, 5 * 2 ** min(attempts, 20))
    assert backoff_seconds(1, 1.0) == 10
