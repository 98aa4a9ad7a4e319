"""The torture of a push: requests fail at random, the push is cancelled, stopped or killed, and the next one ends it.

python -m tests.torture.faults --runs 1000 --seed 1

Each run has its seed, which is printed where something is wrong: `--runs 1 --seed N` does it again. What the registry
holds and what was reported is judged by the `witness`. Waits are up to a hundred times shorter than they say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from tests.torture.forkserver import forkserver
from tests.torture.pushing import PASSWORD, USER, Orders, logins, push, push_alone
from tests.torture.witness import WatchedRepository, problems_of, sha256, unpacked, untruths
from uploader.errors import StoppedError
from uploader.testing import (
    DISTRIBUTION_2_8,
    GOOGLE,
    SPEC,
    AcceptThenReset,
    Answer,
    Basic,
    Bearer,
    FakeRegistry,
    Fault,
    Late,
    LyingDigest,
    RefuseMount,
    Reset,
    SessionLost,
    Stall,
    Truncate,
    Unauthorized,
    write_graph,
)
from uploader.testing.virtual import run_hurried, set_speed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.context import ForkServerProcess

    from uploader.testing import Kind

SPEED: Final = 100.0
_LONGEST_SECONDS: Final = 30.0
_MATERIALS: Final = 16
_ENDS: Final = ("through", "through", "stop", "cancel", "kill")
_REGISTRIES: Final = (
    SPEC,
    DISTRIBUTION_2_8,
    GOOGLE,
    replace(SPEC, missing_blob_status=None),  # takes any manifest: nothing but the client keeps the order
    replace(SPEC, missing_blob_status=None, mount="never", digest_header=False),
)
_LOGINS: Final = (None, None, Basic(USER, PASSWORD), Bearer(USER, PASSWORD), Bearer(USER, PASSWORD, seconds=1))
_WRITES: Final[frozenset[Kind]] = frozenset({"open", "mount", "patch", "put-blob", "put-manifest"})
_LOOKS: Final[frozenset[Kind]] = frozenset({"head-blob", "head-manifest", "get-manifest", "get-blob"})
_READS: Final[frozenset[Kind]] = frozenset({"get-manifest", "get-blob", "tags", "token"})
_UPLOADS: Final[frozenset[Kind]] = frozenset({"patch", "put-blob"})

_REFUSALS: Final = (
    *(Fault("any", Answer(status)) for status in (408, 425, 429, 500, 502, 503, 504)),
    Fault("any", Answer(429, retry_after=2)),
    Fault("any", Answer(503, retry_after="Fri, 31 Dec 1999 23:59:59 GMT")),
    *(Fault(_WRITES, Answer(status)) for status in (400, 403, 405, 413, 416)),
    *(Fault(_LOOKS, Answer(status)) for status in (400, 403, 405, 501)),
    Fault("mount", RefuseMount(400)),
    Fault(_WRITES, Unauthorized("repository:cache:pull,push")),
)
"""After these it is certain that nothing was done."""

_DOUBTS: Final = (
    Fault("any", Reset()),
    Fault("any", Reset(after_bytes=100)),
    Fault("any", AcceptThenReset()),
    Fault("any", AcceptThenReset()),
    Fault("any", Stall(), times=1),
    Fault(_WRITES, Stall(after_bytes=100), times=1),
    Fault(_READS, Truncate()),
    Fault(_UPLOADS, SessionLost()),
    Fault("mount", RefuseMount(202)),
    Fault("put-blob", Answer(404)),
    Fault("put-manifest", Answer(404, codes=("MANIFEST_BLOB_UNKNOWN",))),
    Fault(frozenset({"put-blob", "put-manifest", "head-manifest"}), LyingDigest()),
    Fault("put-blob", Late(6)),
    Fault("put-manifest", Late(6)),
)
"""After these it is not, or the registry lies about it."""


@dataclass(frozen=True, slots=True)
class Material:
    """A graph file, what is known of it, and the manifests that a push without a fault makes of it, by tag."""

    path: Path
    graph: dict[str, Any]
    codec: str
    manifests: dict[str, bytes]


@dataclass(slots=True)
class Tally:
    """What went on. Mutable."""

    ends: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    retries: int = 0

    def __str__(self) -> str:
        return f"{dict(self.ends)}, {dict(self.outcomes)}, {self.requests} requests, {self.retries} retries"


async def torture(seeds: Iterable[int], folder: Path) -> Tally:
    """One run for each seed; raises AssertionError, with the seed in it, at the first that goes wrong."""
    os.environ.update(logins(folder))  # restored by whoever minds: see `main` and the test
    tally = Tally()
    materials: dict[int, Material] = {}
    for seed in seeds:
        number = seed % _MATERIALS
        if number not in materials:
            set_speed(1)  # nothing has to be waited for, and limits of time are as for users
            materials[number] = await _make_material(folder / f"graph-{number}", number)
        home = folder / f"run-{seed}"
        home.mkdir()
        set_speed(SPEED)
        try:
            with anyio.fail_after(_LONGEST_SECONDS * SPEED):
                await _Run(Random(seed), materials[number], home, tally).carry_out(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!s:.2000}") from error
    return tally


async def _make_material(folder: Path, number: int) -> Material:
    chance = Random(number)
    path = write_graph(folder, chance.randint(1, 9), seed=number)
    graph = json.loads(path.read_text())
    packages = graph["packages"]
    if chance.random() < 0.6:  # a deep one
        for place in range(1, len(packages)):
            earlier = [package["id"] for package in packages[:place]]
            more = chance.sample(earlier, chance.randint(1, min(3, place)))
            packages[place]["dependencies"] = sorted({*packages[place]["dependencies"], *more})
    if chance.random() < 0.4:
        chance.choice(packages)["push"] = False
    if chance.random() < 0.4:
        chance.choice(packages)["dependencies"].append("gone-1")
    if chance.random() < 0.4 and len(packages) > 1:  # two with one content
        first, second = chance.sample(packages, 2)
        for key in ("blob", "prefix", "at"):
            second.pop(key, None)
            second.update({key: first[key]} if key in first else {})
    path.write_text(json.dumps(graph))
    codec = chance.choice(("gzip", "gzip", "zstd", "none"))
    async with FakeRegistry() as registry:
        report = await push(Orders(path, registry.destination("cache"), folder / "report.json", {"codec": codec}))
        repository = registry.repository("cache")
        manifests = {tag: repository.manifests[digest][1] for tag, digest in repository.tags.items()}
        assert (report.totals.failed, report.totals.pushed) == (0, len(manifests))
        graph["diff_ids"] = _diff_ids(graph, folder, repository.blobs, manifests)
        _none_of(problems_of(repository, graph))
        return Material(path, graph, codec, manifests)


def _most_needed(graph: dict[str, Any], chance: Random) -> list[str]:
    """What the package needs that needs most, in any order; nothing where that is too little for a choice."""
    dependencies = {one["id"]: one["dependencies"] for one in graph["packages"] if one.get("push", True)}
    closures: list[set[str]] = []
    for package in dependencies:
        closure, rest = set[str](), [package]
        while rest:
            new = {one for one in dependencies[rest.pop()] if one in dependencies} - closure
            closure |= new
            rest += new
        closures.append(closure)
    largest = max(closures, key=len, default=set[str]())
    return chance.sample(sorted(largest), len(largest)) if len(largest) > 2 else []


def _diff_ids(
    graph: dict[str, Any], folder: Path, blobs: dict[str, bytes], manifests: dict[str, bytes]
) -> dict[str, str]:
    """What the layer of each package has to be: of ready blobs by their files, of trees by the push without a fault."""
    found = {}
    for manifest in map(json.loads, manifests.values()):
        key = manifest["annotations"]["dev.uploader.id"]
        found[key] = sha256(unpacked(blobs[manifest["layers"][-1]["digest"]]))
    for package in graph["packages"]:
        if "blob" in package:
            found[package["id"]] = sha256(unpacked((folder / package["blob"]["path"]).read_bytes()))
    return found


class _Run:
    """Attempts under faults, and one without.

    Some are choosy: a first attempt, without faults, leaves out one package that another one needs, the later ones
    leave out others of those, so that manifests meet that lack different things.

    Mutable: whether something may not be seen yet that is there, and whether the first attempt is over.
    """

    def __init__(self, chance: Random, material: Material, home: Path, tally: Tally) -> None:
        self._chance = chance
        self._material = material
        self._home = home
        self._tally = tally
        self._late = False
        self._choice = _most_needed(material.graph, chance) if chance.random() < 0.5 else []
        self._begun = False

    async def carry_out(self, seed: int) -> None:
        quirks, login = self._chance.choice(_REGISTRIES), self._chance.choice(_LOGINS)
        async with FakeRegistry(quirks=quirks, auth=login, seed=seed) as registry:
            self._registry = registry
            self._mounts = quirks.mount != "never"
            self._repository = WatchedRepository("cache")
            registry._storage.repositories["cache"] = self._repository
            for _ in range(self._chance.randint(2 if self._choice else 1, 3)):
                await self._attempt()
            registry._storage.requests_seen += 1000  # whatever was late is there now
            set_speed(SPEED / 4)
            await self._finish()
            self._tally.requests += len(registry.requests)

    async def _attempt(self) -> None:
        calm = bool(self._choice) and not self._begun
        certain = calm or self._chance.random() < 0.4
        faults = [] if calm else self._faults(_REFUSALS if certain else _REFUSALS + _DOUBTS)
        for fault in faults:
            self._registry.inject(fault)
        before, seen = dict(self._repository.tags), len(self._registry.requests)
        # Where nothing stalls the limits are longer, so that a slow machine is not taken for a stall.
        set_speed(SPEED / 5 if certain else SPEED)
        end = "through" if calm else self._chance.choice(_ENDS)
        self._tally.ends[end] += 1
        options = self._options()
        self._begun = True
        narrowed = len(self._repository.narrowed)
        report = await self._push(self._orders(**options), end)
        self._registry.clear_faults()
        self._late = self._late or any(isinstance(fault.then, Late) for fault in faults)
        if not self._late and "force" not in options:
            _none_of(self._repository.narrowed[narrowed:])
        refuses = any(fault.then == RefuseMount(202) for fault in faults)
        if self._mounts and not refuses and not self._late:  # else a blob that is there is asked for in vain
            # Twice by one push: what a killed one left in a repository without tags is not asked for by the next.
            times = Counter(self._taken(seen)).items()
            _none_of([f"{digest} was sent {count} times" for digest, count in times if count > 1])
        _none_of(problems_of(self._repository, self._material.graph))
        if report is None:
            return
        _none_of(untruths(report, self._repository, self._material.graph))
        assert report["totals"]["requests"] >= len(self._registry.requests) - seen or end == "kill"
        self._tally.retries += report["totals"]["retries"]
        self._tally.outcomes.update(entry["outcome"] for entry in report["packages"])
        if certain and end == "through":
            unsaid = {
                entry["id"]
                for entry in report["packages"]
                if entry["outcome"] == "failed" and self._repository.tags.get(entry["tag"]) != before.get(entry["tag"])
            }
            assert not unsaid, f"said to have failed, and done: {unsaid}"

    def _taken(self, since: int) -> Iterator[str]:
        """The digest of each blob that came in whole, also where no answer went out."""
        for request in self._registry.requests[since:]:
            digest = dict(request.query).get("digest", "")
            if (
                request.kind == "put-blob"
                and request.status in {201, None}
                and request.body_bytes == self._repository.sizes.get(digest)
            ):
                yield digest

    async def _finish(self) -> None:
        report = json.loads((await push(self._orders())).to_json())
        _none_of(untruths(report, self._repository, self._material.graph))
        _none_of(problems_of(self._repository, self._material.graph))
        trouble = [entry for entry in report["packages"] if entry["outcome"] not in {"pushed", "present", "left-out"}]
        assert (report["error"], trouble) == (None, [])
        held = {tag: self._repository.manifests[digest][1] for tag, digest in self._repository.tags.items()}
        _none_of(
            [
                f"{tag} is {held.get(tag)!r}, and a push without a fault makes {manifest!r}"
                for tag, manifest in self._material.manifests.items()
                if held.get(tag) != manifest
            ]
        )
        seen = len(self._registry.requests)
        await push(self._orders())
        writes = [request for request in self._registry.requests[seen:] if request.kind in _WRITES]
        assert writes == [], "a push of what is there sends something"

    def _faults(self, kinds: tuple[Fault, ...]) -> list[Fault]:
        """Up to five kinds, which together hit 1 to 30 % of the requests."""
        chosen = self._chance.sample(kinds, self._chance.randint(1, 5))
        share = self._chance.uniform(0.01, 0.3)
        return [replace(fault, chance=share / len(chosen)) for fault in chosen]

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"jobs": self._chance.choice((1, 2, 5, 16, 32))}
        if self._chance.random() < 0.15:
            options["force"] = True
        if self._choice:
            first, *others = self._choice
            many = self._chance.randint(min(2, len(others)), len(others))
            options["exclude"] = tuple(self._chance.sample(others, many)) if self._begun else (first,)
        elif self._chance.random() < 0.3:
            ids = [package["id"] for package in self._material.graph["packages"]]
            options["exclude"] = tuple(self._chance.sample(ids, self._chance.randint(1, min(3, len(ids)))))
        return options

    def _orders(self, **options: Any) -> Orders:
        options |= {"codec": self._material.codec, "state": self._home / "record.db"}
        to = self._registry.destination("cache")
        return Orders(self._material.path, to, self._home / "report.json", options, SPEED)

    async def _push(self, orders: Orders, end: str) -> dict[str, Any] | None:
        """The report, if there is one."""
        requests = len(self._registry.requests) + self._chance.randint(1, 6 * len(self._material.graph["packages"]))

        async def wait_for_moment() -> None:
            await self._registry.wait_until(lambda: len(self._registry.requests) >= requests)

        if end == "kill":
            return await self._push_and_kill(orders, wait_for_moment)
        stop, reports = anyio.Event(), []
        async with anyio.create_task_group() as group:

            async def interrupt() -> None:
                await wait_for_moment()
                if end == "stop":
                    stop.set()
                else:
                    group.cancel_scope.cancel()

            if end != "through":
                group.start_soon(interrupt)
            with contextlib.suppress(StoppedError):
                reports.append(json.loads((await push(orders, stop)).to_json()))
            group.cancel_scope.cancel()
        return reports[0] if reports else None

    async def _push_and_kill(self, orders: Orders, wait_for_moment: Callable[[], Any]) -> dict[str, Any] | None:
        orders.report.unlink(missing_ok=True)
        process = forkserver().Process(target=push_alone, args=(orders,), daemon=True)
        await anyio.to_thread.run_sync(process.start)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_wait_for_end, process, group.cancel_scope)
                await wait_for_moment()
                group.cancel_scope.cancel()
        finally:
            process.kill()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(process.join)
        assert process.exitcode in {0, -9}, f"the process that pushed ended with {process.exitcode}"
        report: dict[str, Any] | None = json.loads(orders.report.read_text()) if process.exitcode == 0 else None
        return report


def _none_of(problems: list[str]) -> None:
    assert not problems, "; ".join(problems)


async def _wait_for_end(process: ForkServerProcess, scope: anyio.CancelScope) -> None:
    await anyio.wait_readable(process.sentinel)
    scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**9))
    chosen = parser.parse_args()
    print(f"{chosen.runs} runs, the first with seed {chosen.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        seeds = range(chosen.seed, chosen.seed + chosen.runs)
        tally = run_hurried(partial(torture, seeds, Path(folder)), speed=SPEED)
    print(f"all is well after {time.monotonic() - began:.0f} s: {tally}")


if __name__ == "__main__":
    main()
