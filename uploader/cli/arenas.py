"""How the C library gives out memory to the threads of a process that lives long."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_M_ARENA_MAX: Final = -8  # from glibc's malloc.h
_ARENAS: Final = 1


def use_one_arena() -> None:
    """Let all threads share one heap; to be called before there are any.

    glibc gives its threads up to eight heaps a processor, each of which grows by itself and gives little back: with the
    threads that wait for files here, that was 10 MB at once and 4 KB more for every job. MALLOC_ARENA_MAX comes first,
    as ever. Other C libraries have no such call, and no need of it.
    """
    call = getattr(ctypes.CDLL(None), "mallopt", None)
    if call is not None and "MALLOC_ARENA_MAX" not in os.environ:
        call(_M_ARENA_MAX, _ARENAS)
