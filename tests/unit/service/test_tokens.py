from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from uploader.errors import InputError
from uploader.service.tokens import read_tokens

if TYPE_CHECKING:
    from pathlib import Path

HASH = hashlib.sha256(b"secret").hexdigest()

BAD = {
    "not TOML": "[[token",
    "no tokens": "",
    "an unknown key": f'[[token]]\nname = "a"\nsha256 = "{HASH}"\nscop = "full"\n',
    "no name": f'[[token]]\nsha256 = "{HASH}"\n',
    "the token itself": '[[token]]\nname = "a"\nsha256 = "secret"\n',
    "an unknown scope": f'[[token]]\nname = "a"\nsha256 = "{HASH}"\nscope = "root"\n',
    "a bad pattern": f'[[token]]\nname = "a"\nsha256 = "{HASH}"\ndestinations = ["ftp://x"]\n',
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(BAD[case])
    with pytest.raises(InputError):
        read_tokens(path)


def test_a_token_finds_its_caller(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'[[token]]\nname = "ci"\nsha256 = "{HASH.upper()}"\n')
    tokens = read_tokens(path)
    found = tokens.find("secret")
    assert found is not None
    assert (found.name, found.scope) == ("ci", "read")
    assert tokens.find("Secret") is None
    assert tokens.find("") is None
