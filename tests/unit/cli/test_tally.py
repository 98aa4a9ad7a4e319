"""How counts read."""

from __future__ import annotations

import pytest

from uploader.cli.tally import counted


@pytest.mark.parametrize(("count", "said"), [(0, "0 tags, 0 retries"), (1, "1 tag, 1 retry"), (2, "2 tags, 2 retries")])
def test_one_is_not_several(count: int, said: str) -> None:
    assert f"{counted(count, 'tag')}, {counted(count, 'retry', 'retries')}" == said
