"""Chooses the parts: the only file that knows every kind of source, destination, codec and record."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from uploader.model.events import BytesSent
from uploader.model.reference import Destination as DestinationReference
from uploader.model.reference import LayoutFolder, Repository
from uploader.packing.codecs import find_codec
from uploader.record import NoRecord, Record
from uploader.service.contents import Contents, PackingRules
from uploader.sources.base import GraphFileReference, PythonReference, SourceReference, SpackReference
from uploader.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from uploader.model.events import Emit
    from uploader.service.destination import Destination
    from uploader.service.images import ImageMaker
    from uploader.service.options import PushOptions
    from uploader.sources.base import Source

_LIBRARIES = {"gzip": "isal", "zstd": "zstandard"}


def open_source(reference: SourceReference, options: PushOptions) -> Source:
    """The source that a reference means; nothing is read yet."""
    match reference:
        case GraphFileReference(path):
            from uploader.sources.graph_file import GraphFile  # noqa: PLC0415  (brings pydantic)

            return GraphFile(path)
        case PythonReference(path):
            from uploader.sources.python_environment import PythonEnvironment  # noqa: PLC0415  (brings packaging)

            return PythonEnvironment(path)
        case SpackReference(root, specs):
            from uploader.sources.spack.store import SpackStore  # noqa: PLC0415  (brings yaml)

            return SpackStore(
                root,
                specs,
                private=options.private,
                without_build_dependencies=options.without_build_dependencies,
                spack_root=str(options.spack_root) if options.spack_root else None,
                created=created_at(options),
            )


def open_record(options: PushOptions) -> Record:
    """The local record; without a path one that keeps nothing."""
    return Record(options.state) if options.state else NoRecord()


def make_contents(options: PushOptions, record: Record, images: ImageMaker) -> Contents:
    """How packages become layers; raises InputError for a codec or level that is not known."""
    codec = find_codec(options.codec, options.level)
    rules = PackingRules(
        codec,
        _library_version(codec.name),
        options.temp_dir,
        options.check_diff_ids,
        formats=images.formats,
        on_base=frozenset(images.bases),
    )
    return Contents(record, rules)


def _library_version(codec: str) -> str:
    """Part of the record's key: another version may compress to other bytes."""
    if (library := _LIBRARIES.get(codec)) is None:
        return __version__
    try:
        return f"{__version__} {library} {version(library)}"
    except PackageNotFoundError:
        return __version__


@asynccontextmanager
async def open_destination(
    reference: DestinationReference,
    options: PushOptions,
    *,
    emit: Emit,
    environment: Mapping[str, str] = os.environ,
) -> AsyncIterator[Destination]:
    """The destination, ready for use; raises InputError for settings that cannot be read, UnusableError."""
    match reference:
        case LayoutFolder(path):
            from uploader.layout.folder import LayoutDestination  # noqa: PLC0415

            async with LayoutDestination(path) as layout:
                yield layout
        case Repository() as repository:
            async with _open_registry(repository, options, emit, environment) as client:
                yield client


@asynccontextmanager
async def _open_registry(
    repository: Repository, options: PushOptions, emit: Emit, environment: Mapping[str, str]
) -> AsyncIterator[Destination]:
    from uploader.oci.profile import profile_for  # noqa: PLC0415  (all of these bring aiohttp)
    from uploader.registry.client import ClientSettings, RegistryClient  # noqa: PLC0415
    from uploader.registry.credentials import find_credentials  # noqa: PLC0415
    from uploader.registry.pace import Pace  # noqa: PLC0415
    from uploader.registry.timing import Timing  # noqa: PLC0415
    from uploader.registry.transport import Transport  # noqa: PLC0415

    settings = ClientSettings(realms=frozenset(options.auth_realms))
    timing = Timing()
    transport = Transport(
        repository.registry.origin,
        connections=options.jobs,
        user_agent=f"uploader/{__version__}",
        timeouts=settings.timeouts,
        ca_file=options.ca_file,
        sent=lambda count: emit(BytesSent(count)),
    )
    async with RegistryClient(
        repository,
        transport=transport,
        pace=Pace(repository.registry.host, options.jobs, timing=timing, emit=emit),
        credentials=await find_credentials(repository.registry.host, environment),
        profile=profile_for(repository.registry.host),
        settings=settings,
        timing=timing,
    ) as client:
        yield client


def created_at(options: PushOptions) -> str:
    """The `created` of every config, as RFC 3339."""
    return datetime.fromtimestamp(options.source_date_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
