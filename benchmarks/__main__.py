"""The command line of the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import plot, results
from benchmarks.suite import Settings, Suite
from benchmarks.targets import verdicts

_QUICK = {"B": 0.5, "C": 0.1, "D": 0.1}


def main() -> None:
    """Run, show, save."""
    given = _parser().parse_args()
    shares = _QUICK if given.quick else {}
    rounds = given.rounds or (3 if given.quick else 5)
    measured = results.Results(_machine(), shares)
    settings = Settings(given.folder.absolute(), rounds, shares, given.oras_python, given.spack, given.only)
    suite = Suite(settings, measured, lambda text: print(text, file=sys.stderr, flush=True))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then, too
    try:
        suite.run(given.works.replace(",", ""))
    finally:
        _show(measured, given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="uploader beside its rivals, on loopback."
    )
    works = "which of A, B, C, D (works.py), P: a Spack store, and S: start and memory"
    parser.add_argument("--works", default="A,B,C,D,P,S", help=works)
    parser.add_argument("--rounds", type=int, help="how often everything is run; 5, or 3 with --quick")
    parser.add_argument(
        "--quick", action="store_true", help="half of B, a tenth of C and D: minutes instead of half an hour"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only the matches with this in their name")
    parser.add_argument("--folder", type=Path, default=Path("run/bench"), help="where the works are kept; 8 GB")
    parser.add_argument("--oras-python", default=sys.executable, metavar="PATH", help="a Python that has oras-py")
    parser.add_argument("--spack", type=Path, metavar="FOLDER", help="a checkout of Spack")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot as SVG")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with the JSON of an earlier run")
    return parser


def _show(measured: results.Results, given: argparse.Namespace) -> None:
    print(", ".join(f"{key}: {value}" for key, value in measured.machine.items()), end="\n\n")
    for text in (*results.tables(measured), verdicts(measured)):
        print(text, end="\n\n")
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"- peak MB is at least {floor}, that of the process which measures")
    for note in measured.notes:
        print(f"- {note}")
    if given.json:
        measured.save(given.json)
    if given.plot:
        given.plot.write_text(plot.draw(measured))
    if given.against:
        print(results.comparison(measured, results.load(given.against)))


def _machine() -> dict[str, Any]:
    model = ""
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        lines = (line.partition(":") for line in cpus.read_text().splitlines())
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), "")
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uploader": version("uploader"),
    }


if __name__ == "__main__":
    main()
