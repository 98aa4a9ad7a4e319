"""What is asked of the numbers, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.results import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Results

A_NULL: Final = "A, null sink"
A_REGISTRY: Final = "A, docker-registry"
A_SLOW: Final = "A, 50 ms per request, 20 in flight"
B_NULL: Final = "B, null sink"
B_GZIP: Final = "B as tar.gz with diff_id, null sink"
B_TLS: Final = "B, null sink, TLS"
B_REGISTRY: Final = "B, docker-registry"
C_NULL: Final = "C packed, null sink"
C_AGAIN: Final = "C again, nothing to do, docker-registry"
P_REGISTRY: Final = "P, a Spack store, docker-registry by TLS"
D_NULL: Final = "D, null sink"
D_ENGINE: Final = "D, plan and engine alone"
START: Final = "start"
SOAK: Final = "A, 40 pushes in one process"

OURS: Final = "uploader"
IN_PYTHON: Final = "uploader, from Python"
SKOPEO: Final = "skopeo"
ORAS: Final = "oras-py"
RAW: Final = "raw requests"
IDEAL: Final = "ideal"
PLAIN: Final = "tarfile, zlib 6"
VERSION: Final = "uploader --version"
NOTHING: Final = "python -c pass"


@dataclass(frozen=True, slots=True)
class Target:
    """A number that is to be at most, or at least, `limit`."""

    text: str
    limit: float
    measured: Callable[[Results], float | None]
    at_least: bool = False


def packages(count: int) -> str:
    """The contender's name in a match over sizes."""
    return f"{count} packages"


def _ratio(
    match: str, who: str, other: str, metric: str = "wall", other_metric: str = ""
) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(match, who, other, metric, other_metric)


def _value(match: str, metric: str, who: str = OURS) -> Callable[[Results], float | None]:
    return lambda results: results.middle(match, who, metric)


def _d_growth(results: Results) -> float | None:
    if packages(100_000) not in results.matches[D_NULL]:
        return None
    return results.ratio(D_NULL, packages(100_000), packages(1_000), "us_per_package")


def _largest(match: str, metric: str) -> Callable[[Results], float | None]:
    def measured(results: Results) -> float | None:
        whos = list(results.matches.get(match, {}))
        return results.middle(match, whos[-1], metric) if whos else None

    return measured


TARGETS: Final = (
    Target("A, null sink: wall / skopeo's", 0.1, _ratio(A_NULL, OURS, SKOPEO)),
    Target("A, null sink: the push alone / skopeo's wall", 0.05, _ratio(A_NULL, IN_PYTHON, SKOPEO, "push", "wall")),
    Target("A, null sink: wall / oras-py's", 0.2, _ratio(A_NULL, OURS, ORAS)),
    Target("A, null sink: requests", 1010, _value(A_NULL, "requests")),
    Target("A, docker-registry: wall / skopeo's", 1 / 6, _ratio(A_REGISTRY, OURS, SKOPEO)),
    Target("A, docker-registry: the push alone / raw requests", 1.3, _ratio(A_REGISTRY, IN_PYTHON, RAW, "push")),
    Target("A, slow registry: wall / ideal", 1.15, _ratio(A_SLOW, OURS, IDEAL)),
    Target("A, slow registry: the push alone / ideal", 1.15, _ratio(A_SLOW, IN_PYTHON, IDEAL, "push")),
    Target("A, slow registry: the push alone / raw requests", 1.15, _ratio(A_SLOW, IN_PYTHON, RAW, "push")),
    Target("B, null sink: GB/s", 1.4, _value(B_NULL, "gb_per_second"), at_least=True),
    Target("B, null sink: CPU s/GB", 0.9, _value(B_NULL, "cpu_per_gb")),
    Target("B, null sink: peak bytes", 150e6, _value(B_NULL, "rss")),
    Target("B, tar.gz: CPU s/GB", 1.5, _value(B_GZIP, "cpu_per_gb")),
    Target("B, TLS: CPU s/GB", 1.3, _value(B_TLS, "cpu_per_gb")),
    Target("B, docker-registry: wall / skopeo's", 1.0, _ratio(B_REGISTRY, OURS, SKOPEO)),
    Target("B, docker-registry: wall / oras-py's", 1.0, _ratio(B_REGISTRY, OURS, ORAS)),
    Target("C: tarfile and zlib 6 / ours", 8.0, _ratio(C_NULL, PLAIN, OURS), at_least=True),
    Target("C: MB of tree per core and second", 250.0, _value(C_NULL, "tree_mb_per_core"), at_least=True),
    Target("C: bytes sent / zlib 6's", 1.2, _ratio(C_NULL, OURS, PLAIN, "bytes", "packed")),
    Target("C again: s", 1.5, _value(C_AGAIN, "wall")),
    Target("D: peak bytes", 500e6, _largest(D_NULL, "rss")),
    Target("D: cost per package at 100,000 / at 1,000", 1.3, _d_growth),
    Target("D: plan and engine, us per package", 60.0, _largest(D_ENGINE, "engine_us")),
    Target("start: --version / python -c pass", 4.0, _ratio(START, VERSION, NOTHING)),
    Target("40 pushes: bytes grown in the last 20", 2e6, _value(SOAK, "growth")),
)


def verdicts(results: Results) -> str:
    """A table of what is asked, what was measured, and whether it is met; what was not measured is left out."""
    rows = []
    for target in TARGETS:
        value = target.measured(results)
        if value is not None:
            met = value >= target.limit if target.at_least else value <= target.limit
            sign = ">=" if target.at_least else "<="
            rows.append([target.text, f"{sign} {target.limit:.4g}", f"{value:.4g}", "yes" if met else "NO"])
    if results.shares:
        rows.append([f"(smaller works: {results.shares})", "", "", ""])
    return table(["asked", "limit", "measured", "met"], rows)
