"""Chooses the parts: the only file that knows every kind of source, destination, codec and record."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import anyio

from uploader.errors import InputError
from uploader.model.events import BytesSent
from uploader.model.reference import Destination as DestinationReference
from uploader.model.reference import LayoutFolder, Repository, parse_image
from uploader.oci.quota import read_quotas
from uploader.packing.codecs import find_codec
from uploader.record import NoRecord, Record
from uploader.service.base_images import BaseSource
from uploader.service.contents import Contents, PackingRules
from uploader.service.sharing import Beside, Shared, SharedContents
from uploader.sources.base import (
    GraphFileReference,
    OpenFile,
    PythonReference,
    SourceReference,
    SpackReference,
    open_any,
)
from uploader.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from uploader.model.events import Emit
    from uploader.registry.shared import RegistryPool
    from uploader.service.destination import Destination
    from uploader.service.images import ImageMaker
    from uploader.service.options import PushOptions
    from uploader.sources.base import Source

_LIBRARIES = {"gzip": "isal", "zstd": "zstandard"}


def open_source(reference: SourceReference, options: PushOptions, open_file: OpenFile = open_any) -> Source:
    """The source that a reference means; nothing is read yet. What it is read from is opened by `open_file`."""
    match reference:
        case GraphFileReference(path):
            from uploader.sources.graph_file import GraphFile  # noqa: PLC0415  (brings pydantic)

            return GraphFile(path, open_file=open_file)
        case PythonReference(path):
            from uploader.sources.python_environment import PythonEnvironment  # noqa: PLC0415  (brings packaging)

            return PythonEnvironment(path, open_file)
        case SpackReference(root, specs):
            from uploader.sources.spack.store import SpackStore  # noqa: PLC0415  (brings yaml)

            return SpackStore(
                root,
                specs,
                private=options.private,
                without_build_dependencies=options.without_build_dependencies,
                spack_root=str(options.spack_root) if options.spack_root else None,
                created=created_at(options),
                open_file=open_file,
            )


def open_record(options: PushOptions) -> Record:
    """The local record; without a path one that keeps nothing."""
    return Record(options.state) if options.state else NoRecord()


def make_contents(options: PushOptions, record: Record, images: ImageMaker, beside: Beside | None = None) -> Contents:
    """How packages become layers; raises InputError for a codec or level that is not known, or no folder to pack in."""
    if options.temp_dir is not None and not options.temp_dir.is_dir():
        raise InputError(f"temp_dir is {options.temp_dir}: there is no such folder")
    codec = find_codec(options.codec, options.level)
    rules = PackingRules(
        codec,
        _library_version(codec.name),
        options.temp_dir,
        options.check_diff_ids,
        formats=images.formats,
        on_base=frozenset(images.bases),
    )
    if beside is None:
        return Contents(record, rules)
    return SharedContents(record, rules, beside.shared.processors, beside.allowed)


@contextmanager
def share(options: PushOptions, environment: Mapping[str, str] = os.environ) -> Iterator[Shared]:
    """What pushes side by side share; of the options those count that are not one push's own."""
    with open_record(options) as record:
        yield Shared(_registries(options, environment, record), record, anyio.CapacityLimiter(os.cpu_count() or 1))


def _library_version(codec: str) -> str:
    """Part of the record's key: another version may compress to other bytes."""
    if (library := _LIBRARIES.get(codec)) is None:
        return __version__
    try:
        return f"{__version__} {library} {version(library)}"
    except PackageNotFoundError:
        return __version__


def open_base(options: PushOptions, *, emit: Emit, shared: Shared | None = None) -> BaseSource | None:
    """Where the base image comes from; raises InputError for a reference that is none."""
    if options.base_image is None:
        return None
    image = parse_image(options.base_image)
    opened = partial(open_destination, image.where, options, emit=emit, shared=shared, foreign=True)
    return BaseSource(image, opened, options.temp_dir)


@asynccontextmanager
async def open_destination(
    reference: DestinationReference,
    options: PushOptions,
    *,
    emit: Emit,
    read_only: bool = False,
    foreign: bool = False,
    shared: Shared | None = None,
    before_write: Callable[[], None] | None = None,
    record: Record | None = None,
) -> AsyncIterator[Destination]:
    """The destination, ready for use; raises InputError for settings that cannot be read, UnusableError.

    `foreign` and `before_write` are as in `RegistryPool.open`. `record` keeps what is learnt of a registry that is not
    shared.
    """
    match reference:
        case LayoutFolder(path):
            from uploader.layout.folder import LayoutDestination  # noqa: PLC0415

            async with LayoutDestination(path) as layout:
                yield layout
        case Repository() as repository:
            registries = shared.registries if shared else _registries(options, os.environ, record, read_only=read_only)
            async with registries.open(
                repository,
                emit=emit,
                sent=partial(_tell_sent, emit),
                before_write=before_write,
                limit_rate=options.limit_rate if shared else None,  # else it is that of the pool already
                foreign=foreign,
            ) as client:
                yield client


def _registries(
    options: PushOptions, environment: Mapping[str, str], record: Record | None, *, read_only: bool = False
) -> RegistryPool:
    from uploader.registry.asking import ClientSettings  # noqa: PLC0415  (both bring aiohttp)
    from uploader.registry.shared import RegistryPool  # noqa: PLC0415

    return RegistryPool(
        most_in_flight=options.jobs,
        limit_rate=options.limit_rate,
        user_agent=f"uploader/{__version__}",
        environment=environment,
        ca_file=options.ca_file,
        settings=ClientSettings(
            realms=frozenset(options.auth_realms), quotas=read_quotas(options.limit_requests), read_only=read_only
        ),
        facts=record,
    )


def _tell_sent(emit: Emit, count: int) -> None:
    emit(BytesSent(count))


def created_at(options: PushOptions) -> str:
    """The `created` of every config, as RFC 3339."""
    return datetime.fromtimestamp(options.source_date_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
