"""What is said about settings that cannot be used."""

from __future__ import annotations

import pwd
from typing import NoReturn

import pytest

from uploader.cli.settings import default_state
from uploader.errors import InputError


def test_a_user_without_a_home_is_told_to_say_where_the_record_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for variable in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(InputError, match=r"--state .* HOME"):
        default_state()
