"""The program's entry: `uploader`, and `python -m uploader`."""

from __future__ import annotations

import gc
import sys

_GARBAGE_AT_ONCE = 10_000


def main() -> None:
    """Run the command line. The version is told before anything is imported."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from uploader.version import __version__  # noqa: PLC0415

        print(f"uploader {__version__}")
        return
    gc.set_threshold(_GARBAGE_AT_ONCE)  # what is imported, and what a push makes, is needed to its end
    from uploader.cli.main import run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
