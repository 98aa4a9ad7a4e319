"""What kind of file it is and whether it names the store, told from its bytes as they come, in bounded memory.

Spack 0.x asks file(1), 1.x looks at the bytes itself; they do not agree on everything, and a layer is to be classified
as the Spack that wrote its store would do it. For 0.x this is a superset of what file(1) calls text: JSON, JavaScript
and pictures made of text count too, as a file that is not listed keeps the old paths for good.
"""

from __future__ import annotations

import codecs
import re
import string
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["binary", "text", "other"]

_HEAD: Final = 18  # bytes: an ELF header up to its type
_WORD: Final = (string.ascii_letters + string.digits + "_-").encode()

_ELF: Final = b"\x7fELF"
_ELF_EXECUTABLE: Final = 2
_ELF_SHARED: Final = 3
_MACH_O: Final = (b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa\xce")
_MOST_SLICES: Final = 10  # of a universal binary; a Java class starts alike, with its version there

_LOOKED_AT_BY_FILE: Final = 64 * 1024  # file(1) judges the characters of so much, since 5.40
_NEVER_IN_TEXT: Final = bytes([*range(7), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F])
_TEXT_BYTES: Final = bytes(set(range(256)) - set(_NEVER_IN_TEXT))
_NOT_LATIN_1: Final = re.compile(rb"[\x00\x7f-\x9f]")


class PathSearch:
    """Looks for paths in one file, but not where they are the tail of a longer path. Mutable: what was seen.

    In `-L/opt/store` and `prefix=/opt/store` the path is found; in `/mnt/opt/store` and `/mnt/x-/opt/store` it is not.
    """

    def __init__(self, paths: Sequence[bytes]) -> None:
        self._paths = paths
        self._keep = max(map(len, paths)) - 1
        self._tail = b""
        self._tail_is_inside = False
        self.found = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the file."""
        data = self._tail + data if self._tail else data
        for path in self._paths:
            at = data.find(path)
            while at >= 0:
                if not self._is_inside(data, at):
                    self.found = True
                    return
                at = data.find(path, at + 1)
        cut = max(0, len(data) - self._keep)
        self._tail_is_inside = self._is_inside(data, cut)
        self._tail = data[cut:]

    def _is_inside(self, data: bytes, at: int) -> bool:
        """Whether the word that ends at `at`, or is empty there, follows a slash."""
        reach = 64
        while at:
            start = max(0, at - reach)
            before = data[start:at].rstrip(_WORD)
            if before:
                return before.endswith(b"/")
            at, reach = start, reach * 2
        return self._tail_is_inside


class Judge(Protocol):
    """Tells the kind of one file. It may be asked at any time whether it has made up its mind that it is no text."""

    def begin(self, head: bytes) -> Kind | None:
        """The first bytes, at least `_HEAD` if the file has so many; not None if they tell the kind."""

    def is_text_so_far(self, data: bytes) -> bool:
        """The next bytes, the first ones too."""

    def is_text(self) -> bool:
        """At the end of the file."""


class FileCommand:
    """Judges as file(1) does for Spack 0.x. Mutable: how much was looked at."""

    def __init__(self) -> None:
        self._left = _LOOKED_AT_BY_FILE
        self._is_script = False

    def begin(self, head: bytes) -> Kind | None:
        """Programs and shared libraries are binary, object files are not."""
        if head.startswith(_ELF):
            order: Literal["little", "big"] = "big" if head[5:6] == b"\2" else "little"
            is_linked = int.from_bytes(head[16:18], order) in {_ELF_EXECUTABLE, _ELF_SHARED}
            return "binary" if is_linked else "other"
        if is_mach_o(head):
            return "binary"
        self._is_script = head.startswith(b"#!")  # text whatever follows: some carry an archive behind the script
        return "other" if head.startswith(b"!<arch>\n") else None

    def is_text_so_far(self, data: bytes) -> bool:
        """No byte in the part that file(1) looks at may be one that text does not have."""
        if self._is_script or not self._left:
            return True
        looked_at = data[: self._left]
        self._left -= len(looked_at)
        return not looked_at.translate(None, _TEXT_BYTES)

    def is_text(self) -> bool:
        """Nothing is left to be known."""
        return True


class ByContent:
    """Judges as Spack 1.x does. Mutable: whether all so far is UTF-8, or Latin-1."""

    def __init__(self) -> None:
        self._utf8: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
        self._is_between = False  # the two halves of a UTF-8 character
        self._is_latin_1 = True

    def begin(self, head: bytes) -> Kind | None:
        """Everything of ELF and Mach-O is binary."""
        if len(head) < 8:
            return "other"
        return "binary" if head.startswith(_ELF) or is_mach_o(head) else None

    def is_text_so_far(self, data: bytes) -> bool:
        """UTF-8 to the end, or else Latin-1 without control characters of its upper half."""
        is_ascii = data.isascii()
        if self._utf8 is not None and (self._is_between or not is_ascii):
            try:
                self._utf8.decode(data)
                self._is_between = bool(self._utf8.getstate()[0])
            except UnicodeDecodeError:
                self._utf8 = None
        if self._is_latin_1:
            # Of ASCII, two bytes are to be looked for, which is much faster.
            refused = (b"\0" in data or b"\x7f" in data) if is_ascii else _NOT_LATIN_1.search(data)
            self._is_latin_1 = not refused
        return self._utf8 is not None or self._is_latin_1

    def is_text(self) -> bool:
        """A character cut short at the end is not UTF-8."""
        return self._is_latin_1 or (self._utf8 is not None and not self._is_between)


def is_mach_o(head: bytes) -> bool:
    """Whether it starts as a Mach-O file, of one architecture or of several."""
    if head.startswith(_MACH_O):
        return True
    counted = head[4:8]
    return len(counted) == 4 and (
        (head.startswith(b"\xca\xfe\xba\xbe") and int.from_bytes(counted, "big") < _MOST_SLICES)
        or (head.startswith(b"\xbe\xba\xfe\xca") and int.from_bytes(counted, "little") < _MOST_SLICES)
    )


class Content:
    """One file's bytes, as they come. Mutable: its first bytes, its kind once that is known, and the search in it."""

    def __init__(self, judge: Judge, paths: Sequence[bytes]) -> None:
        self._judge = judge
        self._search = PathSearch(paths)
        self._head = b""
        self._has_begun = False
        self._kind: Kind | None = None

    def feed(self, chunk: memoryview) -> None:
        """The next bytes; what needs no more of them is not copied."""
        if self._kind is not None:
            return
        data = bytes(chunk)
        if not self._has_begun:
            data = self._head + data
            if len(data) < _HEAD:
                self._head = data
                return
        self._take(data)

    def kind(self) -> Kind:
        """What it is, at its end; a text that does not name any of the paths is `other`."""
        if not self._has_begun:
            self._take(self._head)
        if self._kind is None:
            self._kind = "text" if self._search.found and self._judge.is_text() else "other"
        return self._kind

    def _take(self, data: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._kind = self._judge.begin(data[:_HEAD])
        if self._kind is None and not self._judge.is_text_so_far(data):
            self._kind = "other"
        if self._kind is None and not self._search.found:
            self._search.feed(data)
