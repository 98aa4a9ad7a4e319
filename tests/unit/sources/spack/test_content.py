from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.sources.spack.content import ByContent, Content, FileCommand, PathSearch

if TYPE_CHECKING:
    from uploader.sources.spack.content import Kind

STORE = b"/opt/s"
ELF = b"\x7fELF\2\1\1" + bytes(9)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def kind(judge: type[FileCommand | ByContent], data: bytes, cuts: list[int] | None = None) -> Kind:
    content = Content(judge(), [STORE])
    for piece in pieces(data, cuts or []):
        content.feed(memoryview(piece))
    return content.kind()


CUTS = st.lists(st.integers(0, 1000), max_size=6)
NEARLY = st.lists(st.sampled_from([b"/opt/s", b"/opt/", b"/t", b"s", b"-", b"_a", b"/", b" ", b"x" * 70, b"\n"])).map(
    b"".join
)


@given(NEARLY, CUTS)
@example(b"/a" + b"x" * 5000 + b"/opt/s", [2, 3000])
@example(b" a" + b"x" * 5000 + b"/opt/s", [2, 3000])
def test_a_path_is_found_as_in_the_whole_file(data: bytes, cuts: list[int]) -> None:
    search = PathSearch([STORE, b"/t"])
    for piece in pieces(data, cuts):
        search.feed(piece)
    places = [match.start() for match in re.finditer(rb"(?=/opt/s|/t)", data)]
    assert search.found == any(not re.search(rb"/[\w-]*\Z", data[:place]) for place in places)


@pytest.mark.parametrize("text", [b"-L/opt/s/lib", b"prefix=/opt/s", b"/opt/software", b"a:/opt/s", b"\xe9/opt/s"])
def test_a_mention_is_found(text: bytes) -> None:
    assert kind(ByContent, b"text: " + text) == "text"


@pytest.mark.parametrize("text", [b"/mnt/opt/s", b"/mnt/x-/opt/s", b"opt/s", b"/opt /s", b""])
def test_the_tail_of_a_longer_path_is_no_mention(text: bytes) -> None:
    assert kind(ByContent, b"some text " + text) == "other"


CONTENTS = (
    st.binary(max_size=80)
    | st.text(max_size=60).map(str.encode)
    | st.text(max_size=60).map(lambda text: text.encode("latin-1", "replace"))
)


@given(CONTENTS, CUTS)
@example(b"long enough \0\xc3abc\xa9", [25, 28])  # half a character, ASCII, the other half
def test_spack_1_takes_utf_8_or_else_latin_1_for_text(data: bytes, cuts: list[int]) -> None:
    data = b"see /opt/s " + data
    try:
        data.decode()
        is_text = True
    except UnicodeDecodeError:
        is_text = not re.search(rb"[\x00\x7f-\x9f]", data)
    assert kind(ByContent, data, cuts) == ("text" if is_text else "other")


@given(st.sampled_from([FileCommand, ByContent]), st.sampled_from([b"", ELF, b"#!", b"!<arch>\n"]), CONTENTS, CUTS)
def test_how_a_file_is_cut_into_pieces_does_not_matter(
    judge: type[FileCommand | ByContent], head: bytes, data: bytes, cuts: list[int]
) -> None:
    assert kind(judge, head + data + STORE, cuts) == kind(judge, head + data + STORE)


MENTION = b" /opt/s "


@pytest.mark.parametrize(
    ("data", "old", "new"),
    [
        (ELF + b"\2\0" + MENTION, "binary", "binary"),  # a program
        (ELF + b"\3\0", "binary", "binary"),  # a shared library
        (ELF + b"\1\0" + MENTION, "other", "binary"),  # an object file
        (b"\x7fELF\2\2\1" + bytes(9) + b"\0\3", "binary", "binary"),  # the other byte order
        (b"\x7fELF", "other", "other"),
        (b"\xcf\xfa\xed\xfe" + bytes(30), "binary", "binary"),
        (b"\xca\xfe\xba\xbe\0\0\0\2" + bytes(30), "binary", "binary"),
        (b"\xca\xfe\xba\xbe\0\0\0\x37" + MENTION, "other", "other"),  # Java
        (b"text" + MENTION, "text", "text"),
        (b"a" + MENTION[:-1], "text", "text"),
        (b"/opt/s", "text", "other"),  # 1.x looks at nothing shorter than eight bytes
        (b"no mention", "other", "other"),
        (b"caf\xe9" + MENTION, "text", "text"),
        (b"\x80\x85" + MENTION, "text", "other"),
        (b"NUL\0" + MENTION, "other", "text"),
        (b"bell\1 \xe9" + MENTION, "other", "text"),
        (b"escape \x1b[0m" + MENTION, "text", "text"),
        (b"delete \x7f" + MENTION, "other", "text"),
        (b"#!/bin/sh" + MENTION + b"\0\x80", "text", "other"),
        (b"!<arch>\n" + MENTION, "other", "text"),
        (b"half a character" + MENTION + b"\xc3", "text", "text"),
        (b"half, and no Latin-1 \0" + MENTION + b"\xc3", "other", "other"),
        (MENTION * 10_000 + b"\0", "text", "text"),  # file(1) does not look so far
    ],
)
def test_each_generation_judges_in_its_own_way(data: bytes, old: Kind, new: Kind) -> None:
    assert (kind(FileCommand, data), kind(ByContent, data)) == (old, new)
