"""Which work is pushed by whom to what; run after run, ours and the rivals by turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from benchmarks import rivals, servers, targets
from benchmarks.measure import Program, Run, RunFailedError, python, run
from benchmarks.rivals import Contender
from benchmarks.servers import Missing, Server
from benchmarks.works import VERSION, d_sizes

if TYPE_CHECKING:
    from benchmarks.results import Results

Start: TypeAlias = Callable[[], AbstractContextManager[Server]]

_DELAY = 0.05
_IN_FLIGHT = 20
_P_SHARE = 0.2  # 66 packages, 270 MB: Spack takes a minute and a half
_REQUESTS_ONE_AFTER_THE_OTHER = 6  # the tags, two for a layer, two for a config, a manifest


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is done: `rounds` runs of everything, of each work its share; files are kept below `folder`."""

    folder: Path
    rounds: int
    shares: Mapping[str, float]
    oras_python: str
    spack: Path | None = None
    only: str = ""
    """A part of the names of the matches to run; the others are passed over."""

    def share(self, work: str) -> float:
        """How much of a work is made: 1 is all of it."""
        return self.shares.get(work, 1.0)


@dataclass(frozen=True, slots=True)
class Match:
    """Contenders that take turns; each gets the server anew. `derive` adds metrics to each run."""

    name: str
    start: Start
    contenders: list[Contender]
    derive: Callable[[Run], Run] = field(default=lambda _: {})


class Suite:
    """Mutable: the results, as they come in."""

    def __init__(self, settings: Settings, results: Results, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._results = results
        self._say = say
        self._tools = settings.folder / "tools"
        self._tools.mkdir(parents=True, exist_ok=True)
        self._sink = partial(servers.null_sink, self._tools)
        self._registry = partial(servers.registry, self._tools)

    def run(self, works: str) -> None:
        """The works named, A to D, P for a Spack store, and S for what concerns start and memory."""
        parts = [self._run_a, self._run_b, self._run_c, self._run_d, self._run_p, self._run_s]
        for name in works:
            parts["ABCDPS".index(name)]()

    # -- the works

    def _run_a(self) -> None:
        graph = self._made("A") / "graph.json"
        layout = self._layout(graph)
        in_python = Contender(targets.IN_PYTHON, partial(_own_push, graph))
        others = self._rivals(layout)
        self._match(Match(targets.A_NULL, self._sink, [_uploader(graph), in_python, *others]))
        self._match(
            Match(targets.A_REGISTRY, self._registry, [_uploader(graph), in_python, *others, rivals.raw(layout)])
        )
        slow = partial(servers.behind, self._sink, self._tools, "--delay", str(_DELAY))
        in_python = Contender(targets.IN_PYTHON, partial(_own_push, graph, jobs=_IN_FLIGHT))
        ours = _uploader(graph, "--jobs", str(_IN_FLIGHT))
        self._match(Match(targets.A_SLOW, slow, [ours, in_python, rivals.raw(layout, _IN_FLIGHT)]))
        self._add_ideal()

    def _add_ideal(self) -> None:
        """What the requests of the slow push would take with every place busy all the time."""
        requests = self._results.middle(targets.A_SLOW, targets.OURS, "requests")
        if requests:
            waves = max(ceil(requests / _IN_FLIGHT), _REQUESTS_ONE_AFTER_THE_OTHER)
            self._results.add(targets.A_SLOW, targets.IDEAL, {"wall": waves * _DELAY, "push": waves * _DELAY})

    def _run_b(self) -> None:
        folder = self._made("B")
        graph = folder / "graph.json"
        gigabytes = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e9
        packed = sum(path.stat().st_size for path in folder.glob("*.tar.gz")) / 1e9
        others = self._rivals(self._layout(graph))
        per_gb = partial(_per_gb, gigabytes)
        self._match(Match(targets.B_NULL, self._sink, [_uploader(graph), *others], per_gb))
        tar_gz = _uploader(folder / "graph-gz.json")
        self._match(Match(targets.B_GZIP, self._sink, [tar_gz], partial(_per_gb, packed)))
        self._match(Match(targets.B_TLS, self._with_tls, [_uploader(graph)], per_gb))
        self._match(Match(targets.B_REGISTRY, self._registry, [_uploader(graph), *others], per_gb))

    def _with_tls(self) -> AbstractContextManager[Server]:
        certificates = servers.make_certificates(self._tools / "tls")
        return servers.behind(self._sink, self._tools, "--tls", str(certificates))

    def _run_c(self) -> None:
        folder = self._made("C")
        tree_bytes = int((folder / "bytes").read_text())
        cores = os.cpu_count() or 1

        def derive(run: Run) -> Run:
            return {"tree_mb_per_core": tree_bytes / run["wall"] / cores / 1e6}

        plain = Contender(targets.PLAIN, lambda _: Program(python("benchmarks.tar_zlib", folder / "store"), tells=True))
        self._match(Match(targets.C_NULL, self._sink, [_uploader(folder / "graph.json"), plain], derive))
        self._push_c_again(folder / "graph.json")

    def _push_c_again(self, graph: Path) -> None:
        """The same home each time: the local record knows the trees, the registry has the tags."""
        if self._settings.only not in targets.C_AGAIN or not self._starts(targets.C_AGAIN, self._registry):
            return
        with tempfile.TemporaryDirectory() as home, self._registry() as server:
            again = _uploader(graph, home=Path(home))
            run(again.program(server), self._tools)
            self._match(Match(targets.C_AGAIN, lambda: nullcontext(server), [again]))

    def _run_d(self) -> None:
        folder = self._made("D")
        for count in d_sizes(self._settings.share("D")):
            name = targets.packages(count)
            push = _uploader(folder / f"graph-{count}.jsonl", name=name)
            bare = Contender(name, partial(_bare_engine, count))
            rounds = min(self._settings.rounds, max(1, 10_000 // count))
            self._match(Match(targets.D_NULL, self._sink, [push], partial(_per_package, count)), rounds)
            self._match(Match(targets.D_ENGINE, _nowhere, [bare], partial(_per_package, count)), rounds)

    def _run_p(self) -> None:
        made = self._settings.folder / f"P-v{VERSION}"
        if not (made / "roots").exists():  # written last; it lies where it says that it does, so it cannot be moved
            self._say(f"making work P in {made}")
            shutil.rmtree(made, ignore_errors=True)
            subprocess.run(python("benchmarks.spack_store", made, "--share", _P_SHARE), check=True)
        try:
            secure = partial(self._registry, servers.make_certificates(self._tools / "tls"))
            others = [rivals.spack(self._settings.spack, made)]
        except Missing as reason:
            self._note(f"{targets.P_REGISTRY} is left out: {reason}")
            return
        self._match(Match(targets.P_REGISTRY, secure, [_uploader(f"spack:{made / 'store'}"), *others]))

    def _run_s(self) -> None:
        graph = self._made("A") / "graph.json"
        version = Contender(targets.VERSION, lambda _: Program(python("uploader", "--version")))
        nothing = Contender(targets.NOTHING, lambda _: Program([sys.executable, "-c", "pass"]))
        start = Match(targets.START, _nowhere, [version, nothing])
        self._match(start, 5 * self._settings.rounds)
        soak = Contender(targets.OURS, partial(_own_push, graph, times=40))
        self._match(Match(targets.SOAK, self._sink, [soak]), 1)

    # -- running

    def _match(self, match: Match, rounds: int = 0) -> None:
        if self._settings.only not in match.name or not self._starts(match.name, match.start):
            return
        contenders = list(match.contenders)
        for number in range(rounds or self._settings.rounds):
            for contender in list(contenders):
                self._say(f"{match.name}: {contender.name}, run {number + 1}")
                try:
                    measured = self._once(match.start, contender)
                except RunFailedError as error:
                    self._note(f"{match.name}: {contender.name} failed and is left out: {error}")
                    contenders.remove(contender)
                    continue
                self._results.add(match.name, contender.name, {**measured, **match.derive(measured)})

    def _once(self, start: Start, contender: Contender) -> Run:
        with start() as server:
            measured = run(contender.program(server), self._tools)
            return {**measured, **server.counts()}

    def _starts(self, what: str, start: Start) -> bool:
        try:
            with start():
                return True
        except Missing as reason:
            self._note(f"{what} is left out: {reason}")
            return False

    def _rivals(self, layout: Path) -> list[Contender]:
        found = []
        for make in (partial(rivals.skopeo, layout), partial(rivals.oras, layout, self._settings.oras_python)):
            try:
                found.append(make())
            except Missing as reason:
                self._note(f"left out: {reason}")
        return found

    def _note(self, text: str) -> None:
        if text not in self._results.notes:
            self._results.notes.append(text)
            self._say(text)

    # -- files

    def _made(self, name: str) -> Path:
        """The folder of a work, made if need be: by a process of its own, and whole or not at all."""
        share = self._settings.share(name)
        folder = self._settings.folder / f"{name}-v{VERSION}-{share:g}"
        if not folder.exists():
            self._say(f"making work {name} in {folder}")
            with _removed(folder.with_suffix(".part")) as part:
                subprocess.run(python("benchmarks.works", name, part, "--share", share), check=True)
                part.rename(folder)
        return folder

    def _layout(self, graph: Path) -> Path:
        layout = graph.with_suffix(".layout")
        self._say(f"writing {layout}")
        rivals.write_layout(graph, layout)
        return layout


def _nowhere() -> AbstractContextManager[Server]:
    """For programs that push to no server."""
    return nullcontext(Server("", dict))


@contextmanager
def _removed(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- programs of ours


def _uploader(source: Path | str, *flags: str, name: str = targets.OURS, home: Path | None = None) -> Contender:
    """`uploader push` as a user calls it, with an empty local record unless there is a `home`."""

    def program(server: Server) -> Program:
        environment = {} if home is None else {"XDG_STATE_HOME": str(home)}
        scheme = "oci+http" if server.ca_file is None else "oci"
        trust = [] if server.ca_file is None else ["--ca-file", str(server.ca_file)]
        command = python(
            "uploader", "push", source, "--to", f"{scheme}://{server.host}/bench/ours", "--progress", "none"
        )
        return Program([*command, *trust, *flags], environment)

    return Contender(name, program)


def _own_push(graph: Path, server: Server, *, times: int = 1, jobs: int = 32) -> Program:
    return Program(
        python("benchmarks.own_push", graph, f"oci+http://{server.host}/bench/ours", times, jobs), tells=True
    )


def _bare_engine(count: int, _: Server) -> Program:
    return Program(python("benchmarks.bare_engine", count), tells=True)


# -- derived metrics


def _per_gb(gigabytes: float, run: Run) -> Run:
    return {"cpu_per_gb": run["cpu"] / gigabytes, "gb_per_second": gigabytes / run["wall"]}


def _per_package(count: int, run: Run) -> Run:
    derived = {"us_per_package": run["wall"] / count * 1e6, "packages": float(count)}
    return {**derived, "engine_us": run["engine"] / count * 1e6} if "engine" in run else derived
