from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from uploader.sources.spack.recipes import Verdict, judge_recipe, judge_recipes

if TYPE_CHECKING:
    from pathlib import Path

YES = Verdict(may_be_given=True)
NO = Verdict(may_be_given=False)


def judged(line: str) -> Verdict:
    return judge_recipe(f"class Matlab(Package):\n    {line}\n".encode())


@pytest.mark.parametrize(
    "line",
    [
        "pass",
        "redistribute(source=False)",
        "redistribute(binary=True)",
        "redistribute()",
        "pass  # redistribute(binary=False)",
    ],
)
def test_what_is_not_kept_back_may_be_given(line: str) -> None:
    assert judged(line) == YES


@pytest.mark.parametrize(
    "line", ["redistribute(binary=False)", "redistribute(source=False, binary=False)", "redistribute(False, False)"]
)
def test_what_is_kept_back_may_not(line: str) -> None:
    assert judged(line) == NO


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ('redistribute(binary=False, when="@2:")', "when='@2:'"),
        ('with when("+x"):\n        redistribute(binary=False)', "in a block"),
        ("redistribute(binary=WHATEVER)", "only running"),
        ("redistribute(**options)", "only running"),
        ("redistribute(binary=False", "cannot be parsed"),
        ("redistribute(binary=False)\n\0", "cannot be parsed"),
    ],
)
def test_what_may_be_kept_back_counts_as_kept_back_and_is_said(line: str, note: str) -> None:
    verdict = judged(line)
    assert not verdict.may_be_given
    assert note in verdict.note


def test_a_plain_no_beats_a_condition() -> None:
    assert judged('redistribute(binary=False, when="@2:")\n    redistribute(binary=False)') == NO


def test_a_recipe_that_does_not_parse_but_says_nothing_of_it_is_no_hindrance() -> None:
    assert judge_recipe(b"class (:") == YES


def test_a_recipe_is_not_run() -> None:
    assert judged("raise SystemExit\n    redistribute(binary=False)") == NO


@pytest.mark.parametrize(
    "place", ["builtin/packages/my-tool", "spack_repo/builtin/packages/my_tool", "spack_repo/a/b/packages/my_tool"]
)
def test_the_recipe_is_found_where_each_generation_puts_it(tmp_path: Path, place: str) -> None:
    write(tmp_path, place, "redistribute(binary=False)")
    assert judge_recipes(tmp_path, "my-tool") == NO


def test_a_name_with_a_digit_first_is_a_module(tmp_path: Path) -> None:
    write(tmp_path, "spack_repo/builtin/packages/_7zip", "redistribute(binary=False)")
    assert judge_recipes(tmp_path, "7zip") == NO


def test_recipes_of_dependencies_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, "builtin/packages/secret", "redistribute(binary=False)")
    write(tmp_path, "builtin/packages/mine", "redistribute(binary=True)")
    assert judge_recipes(tmp_path, "mine") == YES


def test_of_several_recipes_the_strictest_counts(tmp_path: Path) -> None:
    write(tmp_path, "builtin/packages/mine", "")
    write(tmp_path, "site/packages/mine", "redistribute(binary=False)")
    assert judge_recipes(tmp_path, "mine") == NO


def test_without_a_recipe_nothing_keeps_it_back(tmp_path: Path) -> None:
    assert judge_recipes(tmp_path, "mine") == YES


def write(prefix: Path, place: str, line: str) -> None:
    folder = prefix / ".spack/repos" / place
    folder.mkdir(parents=True)
    (folder / "package.py").write_text(f"class X:\n    pass\n    {line}\n")
