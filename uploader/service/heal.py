"""Healing a repository: manifests are completed by layers that are there now, and a source brings what is gone.

First all is verified. With a source, an ordinary push then goes to a destination in which the damaged tags are hidden
(`mending`). What lacks layers is completed from its annotation alone. In the end whatever was touched is verified
again, and that is what the report says: a registry that keeps damaged bytes under a digest cannot be helped from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from uploader.errors import RegistryError, UnusableError
from uploader.model.digest import Digest
from uploader.model.reference import Tag
from uploader.oci.audit import audit
from uploader.oci.completion import CannotComplete, Donor, complete
from uploader.oci.manifest import parse_manifest
from uploader.service.blob_checks import BlobChecks
from uploader.service.donors import Donors
from uploader.service.heal_report import HEAL_SCHEMA, HealEntry, HealReport, heal_totals
from uploader.service.memory import Memory
from uploader.service.mending import mending
from uploader.service.parallel import for_each
from uploader.service.verify import VerifyTask, rfc3339, run_verify, silent, until_stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    import anyio

    from uploader.model.package import PackageId
    from uploader.service.destination import Destination
    from uploader.service.report import PackageEntry, Report
    from uploader.service.verify_report import TagEntry, VerifyReport

    Opened = AbstractAsyncContextManager[Destination]
    View = Callable[[Opened], Opened]

_NO_SOURCE: Final = "only its source can bring back what is gone: heal with the source"


@dataclass(frozen=True, slots=True)
class HealTask:
    """`verify` says what is looked at. `push` pushes from the source to the destination as the view shows it."""

    verify: VerifyTask
    push: Callable[[View], Awaitable[Report]] | None = None
    dry_run: bool = False


@dataclass(slots=True)
class _Healing:
    """What is known so far. Mutable."""

    before: VerifyReport
    push: Report | None = None
    completed: dict[str, HealEntry] = field(default_factory=dict)
    after: VerifyReport | None = None
    error: str | None = None


async def run_heal(
    task: HealTask,
    opened: Callable[[], Opened],
    *,
    stop: anyio.Event,
    progress: Callable[[int, int, int], None] = silent,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> HealReport:
    """Heal, and report. When the repository cannot be used at all, the report's `error` says so."""
    started = now()
    healing = _Healing(await run_verify(task.verify, opened(), stop=stop, progress=progress))
    healing.error = healing.before.error
    if healing.error is None and not stop.is_set():
        await _heal(task, healing, opened, stop)
    entries = tuple(_entries(task, healing))
    return HealReport(
        HEAL_SCHEMA,
        task.verify.where,
        task.verify.source,
        task.dry_run,
        rfc3339(started),
        rfc3339(now()),
        healing.before.totals,
        heal_totals(entries),
        entries,
        healing.push,
        healing.error,
    )


async def _heal(task: HealTask, healing: _Healing, opened: Callable[[], Opened], stop: anyio.Event) -> None:
    wanted = {package.tag for package in task.verify.packages}
    damaged = {Tag(entry.tag): entry for entry in healing.before.tags if entry.state == "damaged"}
    repairable = {tag: _digest(entry) for tag, entry in damaged.items() if tag in wanted and not _is_foreign(entry)}
    if task.push is not None and any(tag in wanted for tag in damaged):
        healing.push = await task.push(partial(mending, damaged=repairable))
        healing.error = healing.push.error
    incomplete = [Tag(entry.tag) for entry in healing.before.tags if entry.state == "incomplete"]
    if healing.error is None and incomplete and not stop.is_set():
        healing.error = await _complete_all(task, healing, incomplete, opened(), stop)
    touched = [*(repairable if healing.push else ()), *(Tag(tag) for tag in healing.completed)]
    if touched and not task.dry_run and healing.error is None:
        packages = tuple(package for package in task.verify.packages if package.tag in repairable)
        again = replace(task.verify, packages=packages, tags=tuple(touched))
        healing.after = await run_verify(again, opened(), stop=stop)
        healing.error = healing.after.error


async def _complete_all(
    task: HealTask, healing: _Healing, tags: Iterable[Tag], opened: Opened, stop: anyio.Event
) -> str | None:
    """Complete what can be; gives the error that ended it."""
    try:
        async with opened as destination:
            completer = Completer(destination, dry_run=task.dry_run)

            async def one(tag: Tag) -> None:
                if (entry := await completer.complete(tag)) is not None:
                    healing.completed[tag] = entry

            failure = await until_stopped(stop, partial(for_each, tags, one, at_once=task.verify.at_once))
    except UnusableError as error:  # a folder that could not be closed with all its tags
        failure = error
    return str(failure) if failure else None


class Completer:
    """Completes single manifests. Mutable: what was found of the packages that they lack."""

    def __init__(self, destination: Destination, *, dry_run: bool = False) -> None:
        self._destination = destination
        self._donors = Donors(destination, BlobChecks(destination, deep=False))
        self._dry_run = dry_run

    async def complete(self, tag: Tag) -> HealEntry | None:
        """Add what is there now; None where nothing of it is, or nothing is missing any more."""
        try:
            return await self._complete(tag)
        except CannotComplete as reason:
            return HealEntry(tag, "left", why=str(reason))
        except RegistryError as error:
            return HealEntry(tag, "failed", why=str(error))

    async def _complete(self, tag: Tag) -> HealEntry | None:
        stored = await self._destination.read_manifest(tag)
        manifest = parse_manifest(stored) if stored else None
        config = await self._destination.read_blob(manifest.config) if manifest else None
        if stored is None or manifest is None or config is None:
            raise CannotComplete("it is no longer what it was; verify again")
        donors: dict[PackageId, Donor] = {}
        for missing in audit(manifest, config).missing:
            if missing.is_gap and (donor := await self._donors.find(missing.id, missing.tag)) is not None:
                donors[missing.id] = donor
        if not donors:
            return None
        completed = complete(manifest, stored.content, config, donors)
        entry = HealEntry(tag, "completed", tuple(completed.added), str(completed.descriptor.digest))
        if self._dry_run:
            return replace(entry, outcome="would-complete")
        await self._destination.push_blob(completed.config_descriptor, Memory(completed.config), expected=False)
        if await self._destination.find_tag(tag) != stored.digest:
            raise CannotComplete("somebody else wrote it meanwhile: it was left so; heal again")
        await self._destination.push_manifest(tag, completed.manifest, manifest.media_type)
        return entry


def _entries(task: HealTask, healing: _Healing) -> Iterable[HealEntry]:
    """Every tag that was damaged, or that something was done about."""
    after = {entry.tag: entry for entry in healing.after.tags} if healing.after else {}
    pushed = {entry.tag: entry for entry in healing.push.packages} if healing.push else {}
    for entry in healing.before.tags:
        if entry.state == "damaged":
            yield _repaired(entry, after, pushed, dry_run=task.dry_run)
        elif (completed := healing.completed.get(entry.tag)) is not None:
            found = after.get(entry.tag)
            yield replace(completed, outcome="damaged", damage=found.damage) if found and found.damage else completed
        elif entry.state == "unknown":
            yield HealEntry(entry.tag, "failed", why=entry.error)


def _repaired(
    entry: TagEntry, after: Mapping[str, TagEntry], pushed: Mapping[str, PackageEntry], *, dry_run: bool
) -> HealEntry:
    push = pushed.get(entry.tag)
    why = push.error.message if push and push.error else None
    found = after.get(entry.tag)
    if found is None:
        if dry_run and push is not None and push.outcome == "pushed" and not _keeps_damage(entry):
            return HealEntry(entry.tag, "would-repair")
        return HealEntry(entry.tag, "damaged", damage=entry.damage, why=why or (None if push else _NO_SOURCE))
    if found.state == "unknown":
        return HealEntry(entry.tag, "failed", why=found.error)
    if found.damage:
        return HealEntry(entry.tag, "damaged", damage=found.damage, why=why)
    return HealEntry(entry.tag, "repaired", manifest=found.manifest)


def _keeps_damage(entry: TagEntry) -> bool:
    """Whether a registry believes that it has what it has damaged."""
    return any(one.kind in {"layer-damaged", "config-damaged"} for one in entry.damage)


def _is_foreign(entry: TagEntry) -> bool:
    """Whether something else than a package is at the package's tag: that is never touched."""
    return entry.manifest is not None and any(one.kind == "not-there" for one in entry.damage)


def _digest(entry: TagEntry) -> Digest | None:
    return Digest.parse(entry.manifest) if entry.manifest else None
