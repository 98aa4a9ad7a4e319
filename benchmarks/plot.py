"""The results as one SVG: bars of who took how long, and the curves of work D over the number of packages."""

from __future__ import annotations

from html import escape
from math import log10
from typing import TYPE_CHECKING, Final

from benchmarks import targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.results import Results

_WIDTH: Final = 860
_NAMES: Final = 200
_BAR: Final = 18
_CURVE_HEIGHT: Final = 220
_COLOURS: Final = ("#1b6ca8", "#8fb8d4", "#c9792b", "#a8a8a8", "#6b6b6b")
_RACES: Final = (targets.A_NULL, targets.A_REGISTRY, targets.A_SLOW, targets.B_NULL, targets.B_REGISTRY, targets.C_NULL)

Point = tuple[float, float]


def draw(results: Results) -> str:
    """The whole picture."""
    parts: list[str] = []
    y = 10
    for match in _RACES:
        if match in results.matches:
            parts += _bars(results, match, y)
            y += 30 + (_BAR + 4) * len(results.matches[match]) + 14
    for title, curves in _all_curves(results):
        parts += _curves(title, curves, y)
        y += _CURVE_HEIGHT + 70
    style = "text{font:12px sans-serif}.title{font-weight:bold}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}">'
    background = f'<rect width="{_WIDTH}" height="{y}" fill="white"/>'
    return "\n".join([head, f"<style>{style}</style>", background, *parts, "</svg>"]) + "\n"


def _bars(results: Results, match: str, top: int) -> Iterator[str]:
    """One bar per contender: the median wall time, with a line for the range."""
    walls = {who: [run["wall"] for run in runs] for who, runs in results.matches[match].items()}
    scale = (_WIDTH - _NAMES - 90) / max(max(values) for values in walls.values())
    yield _text(10, top + 16, f"{match}: seconds", "title")
    for number, (who, values) in enumerate(walls.items()):
        y = top + 30 + number * (_BAR + 4)
        middle = results.middle(match, who, "wall") or 0.0
        colour = _COLOURS[number % len(_COLOURS)]
        yield _text(_NAMES - 6, y + 13, who, anchor="end")
        yield f'<rect x="{_NAMES}" y="{y}" width="{middle * scale:.1f}" height="{_BAR}" fill="{colour}"/>'
        low, high = (_NAMES + value * scale for value in (min(values), max(values)))
        yield f'<path d="M{low:.1f} {y + _BAR / 2}H{high:.1f}" stroke="black"/>'
        yield _text(int(max(high, _NAMES)) + 6, y + 13, f"{middle:.2f}")


def _all_curves(results: Results) -> Iterator[tuple[str, dict[str, list[Point]]]]:
    """What work D costs, over the number of packages."""
    for title, scale, lines in (
        ("D: microseconds per package", 1.0, ((targets.D_NULL, "us_per_package"), (targets.D_ENGINE, "engine_us"))),
        ("D: peak memory in MB", 1e-6, ((targets.D_NULL, "rss"), (targets.D_ENGINE, "rss"))),
    ):
        curves = {}
        for match, metric in lines:
            points = []
            for who in results.matches.get(match, {}):
                count, value = results.middle(match, who, "packages"), results.middle(match, who, metric)
                if count and value:
                    points.append((count, value * scale))
            if points:
                curves[match] = points
        if curves:
            yield title, curves


def _curves(title: str, curves: dict[str, list[Point]], top: int) -> Iterator[str]:
    """Points joined by lines; the horizontal axis is logarithmic."""
    xs = sorted({x for points in curves.values() for x, _ in points})
    highest = max(y for points in curves.values() for _, y in points)
    span = max(log10(xs[-1]) - log10(xs[0]), 1.0)
    bottom = top + 30 + _CURVE_HEIGHT

    def place(point: Point) -> tuple[float, float]:
        x = _NAMES + (log10(point[0]) - log10(xs[0])) / span * (_WIDTH - _NAMES - 90)
        return x, bottom - point[1] / highest * _CURVE_HEIGHT * 0.92

    yield _text(10, top + 16, title, "title")
    yield f'<path d="M{_NAMES} {top + 30}V{bottom}H{_WIDTH - 60}" stroke="black" fill="none"/>'
    for x in xs:
        yield _text(int(place((x, 0))[0]), bottom + 18, f"{x:.0f}", anchor="middle")
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number * 2]
        places = [place(point) for point in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield _text(10, top + 50 + number * 18, name, colour=colour)
        for (x, y), (_, value) in zip(places, points, strict=True):
            yield _text(int(x) + 4, int(y) - 6, f"{value:.0f}", colour=colour)


def _text(x: int, y: int, text: str, kind: str = "", *, anchor: str = "start", colour: str = "black") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
