"""What may be asked of a push, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uploader.errors import InputError
from uploader.oci.quota import read_quotas

if TYPE_CHECKING:
    from pathlib import Path

PARTS = ("package", "dependencies")
LARGEST_JOBS = 1024


@dataclass(frozen=True, slots=True)
class PushOptions:
    """The options of `uploader push`; see `uploader push --help`.

    `jobs`: most requests in flight. `limit_rate`: bytes per second. `limit_requests`: quotas that are
    known of registries, as `oci.quota` reads them. `level`: None for the codec's own default.
    `state`: the local record; None for none. Raises InputError for values that cannot be.
    """

    select: tuple[str, ...] = ()
    only: tuple[str, ...] = PARTS
    exclude: tuple[str, ...] = ()
    force: bool = False
    codec: str = "gzip"
    level: int | None = None
    check_diff_ids: bool = False
    jobs: int = 32
    limit_rate: int | None = None
    strict: bool = False
    base_image: str | None = None
    update_index: bool = False
    private: bool = False
    without_build_dependencies: bool = False
    spack_root: Path | None = None
    source_date_epoch: int = 0
    ca_file: Path | None = None
    temp_dir: Path | None = None
    state: Path | None = None
    auth_realms: tuple[str, ...] = ()
    limit_requests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.jobs <= LARGEST_JOBS:
            raise InputError(f"jobs is {self.jobs}: it must be 1 to {LARGEST_JOBS}")
        if self.limit_rate is not None and self.limit_rate < 1:
            raise InputError(f"limit_rate is {self.limit_rate}: it must be at least 1 byte per second")
        read_quotas(self.limit_requests)
        if not self.only or not set(self.only) <= set(PARTS):
            raise InputError(f"only is {','.join(self.only)!r}: write package, dependencies, or both with a comma")
        if not 0 <= self.source_date_epoch < 253402300800:
            raise InputError(f"SOURCE_DATE_EPOCH is {self.source_date_epoch}: it must be seconds since 1970")
