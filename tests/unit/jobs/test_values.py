from __future__ import annotations

from typing import Any

import pytest

from uploader.errors import InputError
from uploader.jobs import JobSpec


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"payload": b"x" * 65_537}, "has 65537"),
        ({"priority": 2**31}, "32 bits"),
        ({"max_attempts": 0}, "one attempt at least"),
        ({"key": ""}, "1 to 512"),
        ({"key": "k" * 513}, "1 to 512"),
        ({"key": "a\0b"}, "NUL"),
    ],
)
def test_job_that_cannot_be_kept_is_bad_input(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        JobSpec(**{"payload": b"{}"} | wrong)
