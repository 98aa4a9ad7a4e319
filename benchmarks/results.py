"""What was measured: medians with ranges, ratios, tables in Markdown, JSON, and the comparison with an earlier run."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from benchmarks.measure import Run

SCHEMA: Final = "uploader/bench/v1"


@dataclass(frozen=True, slots=True)
class Column:
    """A metric as it is shown."""

    metric: str
    title: str
    scale: float = 1.0
    digits: int = 2

    def shown(self, values: list[float]) -> str:
        """Median, and the range where there is one."""
        low, middle, high = (
            f"{value * self.scale:.{self.digits}f}" for value in (min(values), median(values), max(values))
        )
        return middle if low == high else f"{middle} ({low}-{high})"


COLUMNS: Final = (
    Column("wall", "wall s"),
    Column("push", "push s"),
    Column("cpu", "CPU s"),
    Column("cpu_per_gb", "CPU s/GB"),
    Column("rss", "peak MB", 1e-6, 0),
    Column("requests", "requests", 1, 0),
    Column("connections", "connections", 1, 0),
    Column("bytes", "MB sent", 1e-6, 0),
    Column("us_per_package", "us/package", 1, 0),
    Column("engine_us", "plan + engine us/package", 1, 1),
    Column("growth", "MB grown", 1e-6, 1),
)


@dataclass(slots=True)
class Results:
    """Mutable: the runs by match and contender, in order, the notes on what was left out, and the machine.

    `shares` are the works that were made smaller, and how much.
    """

    machine: dict[str, Any]
    shares: Mapping[str, float]
    matches: defaultdict[str, dict[str, list[Run]]] = field(default_factory=lambda: defaultdict(dict))
    notes: list[str] = field(default_factory=list)

    def add(self, match: str, who: str, run: Run) -> None:
        """One more run."""
        self.matches[match].setdefault(who, []).append(run)

    def middle(self, match: str, who: str, metric: str) -> float | None:
        """The median of a metric; None where it was not measured."""
        values = [run[metric] for run in self.matches.get(match, {}).get(who, []) if metric in run]
        return median(values) if values else None

    def ratio(self, match: str, who: str, other: str, metric: str, other_metric: str = "") -> float | None:
        """How many times the other's median ours is."""
        own, theirs = self.middle(match, who, metric), self.middle(match, other, other_metric or metric)
        return own / theirs if own is not None and theirs else None

    def save(self, path: Path) -> None:
        """As JSON."""
        document = {
            "schema": SCHEMA,
            "machine": self.machine,
            "shares": self.shares,
            "matches": self.matches,
            "notes": self.notes,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def load(path: Path) -> Results:
    """What was saved."""
    document = json.loads(path.read_text())
    if document.get("schema") != SCHEMA:
        raise SystemExit(f"{path} is not a result of these benchmarks ({SCHEMA})")
    results = Results(document["machine"], document["shares"], notes=document["notes"])
    results.matches.update(document["matches"])
    return results


def tables(results: Results) -> Iterator[str]:
    """Each match as a table; ratios are to the first contender, which is ours."""
    for match, contenders in results.matches.items():
        columns = [c for c in COLUMNS if any(c.metric in run for runs in contenders.values() for run in runs)]
        rows = []
        first = next(iter(contenders))
        for who, runs in contenders.items():
            times = results.ratio(match, who, first, "wall")
            ratio = "" if who == first or times is None or "packages" in runs[0] else f"{times:.1f} x"
            cells = [[run[column.metric] for run in runs if column.metric in run] for column in columns]
            shown = [column.shown(cell) if cell else "" for column, cell in zip(columns, cells, strict=True)]
            rows.append([who, *shown, ratio])
        count = max(map(len, contenders.values()))
        heading = f"**{match}** ({count} runs each, alternating)" if count > 1 else f"**{match}**"
        yield f"{heading}\n\n{table(['', *(column.title for column in columns), 'wall ratio'], rows)}"


def comparison(new: Results, old: Results) -> str:
    """The medians of ours, now and then."""
    rows = []
    for match, contenders in new.matches.items():
        for who in contenders:
            for metric in ("wall", "cpu", "rss", "requests"):
                now, then = new.middle(match, who, metric), old.middle(match, who, metric)
                if now is not None and then:
                    rows.append([match, who, metric, f"{then:.4g}", f"{now:.4g}", f"{now / then:.2f}"])
    return table(["match", "who", "metric", "then", "now", "ratio"], rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, its columns aligned."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]

    def line(row: list[str]) -> str:
        return "| " + " | ".join(map(str.ljust, row, widths)) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
