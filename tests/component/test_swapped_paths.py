"""What a job reads is what was checked, whatever others make of its path meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.unit.sources.spack.a_store import AStore
from uploader import PushOptions, wiring
from uploader.errors import InputError, SourceError
from uploader.model.package import Blob, Tree
from uploader.packing.codecs import find_codec
from uploader.record import NoRecord
from uploader.service.allowed import Allowed
from uploader.service.contents import PackingRules
from uploader.service.sharing import SharedContents
from uploader.sources.base import parse_source
from uploader.testing.packages import a_package, a_tar, write_packages

if TYPE_CHECKING:
    from pathlib import Path

    from uploader.model.package import Package
    from uploader.packing.ready import FileBody
    from uploader.service.allowed import Held
    from uploader.sources.base import Loaded

pytestmark = pytest.mark.asyncio


class Scene:
    """A folder that jobs may read, one that they may not, and the same names in both."""

    def __init__(self, tmp_path: Path) -> None:
        self.inside, self.outside = tmp_path / "in", tmp_path / "out"
        for root, text in ((self.inside, "open"), (self.outside, "secret")):
            (root / "d" / "tree").mkdir(parents=True)
            (root / "d" / "tree" / "file").write_text(text)
            (root / "d" / "a.tar").write_bytes(a_tar(text))
            write_packages(root / "d", {text: []})
            AStore().add(text, explicit=True).write(root / "d" / "store")
            info = root / "d" / "env" / "lib" / "python3.11" / "site-packages" / "x.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Name: {text}\nVersion: 1\n")
        self.blob = package("blob", Blob(self.inside / "d" / "a.tar"))
        self.tree = package("tree", Tree(self.inside / "d" / "tree", "/opt/tree"))

    def swap(self) -> None:
        (self.inside / "d").rename(self.inside / "old")
        (self.inside / "d").symlink_to(self.outside / "d")


def package(key: str, content: Blob | Tree) -> Package:
    return replace(a_package(key), content=content)


def contents(allowed: Allowed) -> SharedContents:
    rules = PackingRules(find_codec("none", None), "test")
    return SharedContents(NoRecord(), rules, anyio.CapacityLimiter(1), allowed)


async def opened(allowed: Allowed, one: Package) -> bytes:
    async with contents(allowed).open(one) as (_, body):
        return whole(body)


def whole(body: FileBody) -> bytes:
    return body.read(0, body.size)


@dataclass(frozen=True)
class SwappedMeanwhile(Allowed):
    """Somebody swaps the folder just when what it holds was opened and checked."""

    scene: Scene = field(kw_only=True)

    def _hold(self, path: Path) -> tuple[int, Held]:
        descriptor, held = super()._hold(path)
        self.scene.swap()
        return descriptor, held


async def test_what_lies_where_it_was_checked_is_read(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    allowed = Allowed((scene.inside,))
    assert await opened(allowed, scene.blob) == a_tar("open")
    assert b"open" in await opened(allowed, scene.tree)


@pytest.mark.parametrize("kind", ["blob", "tree"])
async def test_what_a_link_leads_to_after_the_check_is_not_read(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path)
    one, allowed = getattr(scene, kind), Allowed((scene.inside,))
    allowed.check_contents([one])
    scene.swap()
    with pytest.raises(SourceError, match=r"in/d/.*does not lie below a --source-root"):
        await opened(allowed, one)


async def test_a_blob_that_is_swapped_while_it_is_opened_is_not_read(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with pytest.raises(SourceError, match="replaced by another file"):
        await opened(SwappedMeanwhile((scene.inside,), scene=scene), scene.blob)


async def test_a_tree_that_is_swapped_while_it_is_read_is_the_one_that_was_opened(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    packed = await opened(SwappedMeanwhile((scene.inside,), scene=scene), scene.tree)
    assert b"open" in packed
    assert b"secret" not in packed


READ_FROM = {"d/graph.json": "d/graph.json", "spack:d/store": "d/store/.spack-db/index.json"}


def load(allowed: Allowed, scene: Scene, source: str) -> Loaded:
    scheme, colon, path = source.rpartition(":")
    reference = parse_source(f"{scheme}{colon}{scene.inside / path}")
    return wiring.open_source(reference, PushOptions(), allowed.open_file).load()


@pytest.mark.parametrize("source", READ_FROM)
async def test_file_of_a_source_is_the_one_that_was_opened(tmp_path: Path, source: str) -> None:
    scene = Scene(tmp_path)
    loaded = load(SwappedMeanwhile((scene.inside,), scene=scene), scene, source)
    assert [package.name for package in loaded.packages] == ["open"]


@pytest.mark.parametrize("source", READ_FROM)
async def test_file_of_a_source_is_not_read_where_a_link_leads_out(tmp_path: Path, source: str) -> None:
    scene = Scene(tmp_path)
    lead_out(scene, READ_FROM[source])
    with pytest.raises(InputError, match=r"in/d/.*does not lie below a --source-root"):
        load(Allowed((scene.inside,)), scene, source)


async def test_metadata_of_a_package_is_not_read_where_a_link_leads_out(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    allowed = Allowed((scene.inside,))
    loaded = load(allowed, scene, "spack:d/store")
    (spack,) = loaded.formats.values()
    assert spack.inspector()
    lead_out(
        scene, str(next(scene.inside.glob("d/store/*/*/.spack/spec.json")).relative_to(scene.inside)), "d/graph.json"
    )
    with pytest.raises(SourceError, match=r"spec\.json.*does not lie below a --source-root"):
        spack.inspector()
    lead_out(scene, "d/env/lib/python3.11/site-packages/x.dist-info/METADATA")
    with pytest.raises(InputError, match="no installed distributions"):
        load(allowed, scene, "python:d/env")


def lead_out(scene: Scene, path: str, to: str = "") -> None:
    (scene.inside / path).unlink()
    (scene.inside / path).symlink_to(scene.outside / (to or path))


async def test_what_cannot_be_read_is_told_by_its_own_name(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    allowed = Allowed((scene.inside,))
    listed = package("listed", Tree(scene.inside / "d" / "tree", "/opt/tree", ("none",)))
    with pytest.raises(SourceError, match=r"in/d/tree") as caught:
        await opened(allowed, listed)
    assert "/proc/" not in str(caught.value)
    gone = package("gone", Blob(scene.inside / "none.tar"))
    with pytest.raises(SourceError, match=r"none\.tar"):
        await opened(allowed, gone)
