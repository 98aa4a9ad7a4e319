from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import uploader

HEAPS = """
import ctypes, sys, threading
from uploader.cli.arenas import use_one_arena

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
if sys.argv[2] == "one":
    use_one_arena()
threads, together = [], threading.Barrier(8)
for _ in range(8):
    def work():
        together.wait()
        libc.malloc(ctypes.c_size_t(1000))
        together.wait()
    threads.append(threading.Thread(target=work))
    threads[-1].start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc alone")
@pytest.mark.parametrize("arenas", ["one", "many"])
def test_all_threads_share_one_heap(tmp_path: Path, arenas: str) -> None:
    """Without the call they do not, so that this can fail."""
    said = tmp_path / "info"
    subprocess.run(
        [sys.executable, "-c", HEAPS, said, arenas],
        check=True,
        env={"PYTHONPATH": str(Path(uploader.__file__).parents[1])},
    )
    assert (said.read_text().count("<heap nr=") == 1) == (arenas == "one")
