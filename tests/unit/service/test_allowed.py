from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from uploader.errors import InputError
from uploader.model.package import Blob, Tree
from uploader.model.reference import Repository, parse_destination
from uploader.service.allowed import Allowed, RepositoryPattern, destination_pattern
from uploader.service.job_format import PushJob
from uploader.testing.packages import a_package

if TYPE_CHECKING:
    from pathlib import Path


def matches(pattern: str, destination: str) -> bool:
    repository = parse_destination(destination)
    assert isinstance(repository, Repository)
    return RepositoryPattern(pattern).matches(repository)


@pytest.mark.parametrize(
    ("pattern", "destination", "allowed"),
    [
        ("ghcr.io/org/*", "oci://ghcr.io/org/cache", True),
        ("ghcr.io/org/*", "oci://ghcr.io/org/a/b", False),
        ("ghcr.io/org/**", "oci://ghcr.io/org/a/b", True),
        ("ghcr.io/org/**", "oci://ghcr.io/organization/a", False),
        ("ghcr.io/org/*", "oci+http://ghcr.io/org/cache", False),
        ("oci+http://localhost:5000/**", "oci+http://localhost:5000/cache", True),
        ("oci+http://localhost:5000/**", "oci+http://localhost:5001/cache", False),
        ("*.example.org/x", "oci://a.example.org/x", True),
        ("*.example.org/x", "oci://evil/a.example.org/x", False),
        ("ghcr.io/o.g/x", "oci://ghcr.io/oXg/x", False),
        ("**", "oci://anything/at/all", True),
    ],
)
def test_patterns(pattern: str, destination: str, allowed: bool) -> None:
    assert matches(pattern, destination) is allowed


def test_sources_are_resolved_and_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "graph.json").write_text("{}")
    (inside / "link").symlink_to(outside)
    (inside / "same").symlink_to(inside)
    allowed = Allowed((inside,))
    job = allowed.admit(PushJob(("same/graph.json", f"spack:{inside}#zlib"), "oci://host/x"))
    assert job.sources == (str(inside / "graph.json"), f"spack:{inside}#zlib")
    (inside / "store").mkdir()
    (inside / "store" / ".spack-db").symlink_to(outside)
    with pytest.raises(InputError, match="the database of"):
        allowed.admit(PushJob(("spack:store",), "oci://host/x"))
    for source in ("link/graph.json", "../out/graph.json", "/etc/passwd", "python:link", f"{inside}-not/graph.json"):
        with pytest.raises(InputError, match="--source-root"):
            allowed.admit(PushJob((source,), "oci://host/x"))


def test_layout_folders_need_a_dest_root(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    job = PushJob(("graph.json",), f"oci-layout:{tmp_path}/out")
    with pytest.raises(InputError, match="without --dest-root"):
        Allowed((tmp_path,)).admit(job)
    allowed = Allowed((tmp_path,), (tmp_path,))
    assert allowed.admit(job).to == job.to
    with pytest.raises(InputError, match="--dest-root"):
        allowed.admit(PushJob(("graph.json",), f"oci-layout:{tmp_path}/link/etc"))


@pytest.mark.parametrize("part", ["blobs", "blobs/sha256", "index.json", "oci-layout", ".uploader-lock"])
def test_layout_folder_with_a_part_that_leads_out_is_refused(tmp_path: Path, part: str) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    outside.mkdir()
    link = inside / "cache" / part
    link.parent.mkdir(parents=True)
    link.symlink_to(inside / "elsewhere")
    allowed = Allowed((inside,), (inside,))
    job = PushJob(("graph.json",), f"oci-layout:{inside}/cache")
    assert allowed.admit(job).to == job.to
    based = PushJob(("graph.json",), "oci://host/x", {"base_image": f"oci-layout:{inside}/cache:1"})
    allowed.admit(based)
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(InputError, match=f"{part} of destination .*--dest-root"):
        allowed.admit(job)
    with pytest.raises(InputError, match=f"{part} of base image .*--source-root"):
        allowed.admit(based)


@pytest.mark.parametrize(
    ("pattern", "path", "allowed"),
    [
        ("oci-layout:/srv/team/*", "/srv/team/cache", True),
        ("oci-layout:/srv/team/*", "/srv/team/a/b", False),
        ("oci-layout:/srv/team/**", "/srv/team/a/b", True),
        ("oci-layout:/srv/t*", "/srv/Team", False),
        ("**", "/srv/team", False),
        ("oci-layout:/**", "oci://host/srv", False),
    ],
)
def test_patterns_of_layout_folders(pattern: str, path: str, allowed: bool) -> None:
    destination = parse_destination(path if "://" in path else f"oci-layout:{path}")
    assert destination_pattern(pattern).matches(destination) is allowed


@pytest.mark.parametrize("pattern", ["oci-layout:", "oci-layout:team/*"])
def test_pattern_of_layout_folders_is_absolute_and_for_tokens_only(pattern: str) -> None:
    with pytest.raises(InputError, match="ABSOLUTE"):
        destination_pattern(pattern)
    with pytest.raises(InputError, match="--dest-root"):
        RepositoryPattern(f"oci-layout:/{pattern}")


@pytest.mark.parametrize("image", ["host/secret:1", "oci-layout:/etc:tag"])
def test_a_base_image_is_read_only_from_where_the_job_may_be(tmp_path: Path, image: str) -> None:
    allowed = Allowed((tmp_path,), destinations=(RepositoryPattern("host.example/mine"),))
    with pytest.raises(InputError, match="base image"):
        allowed.admit(PushJob(("graph.json",), "oci://host.example/mine", {"base_image": image}))


def test_a_graph_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    allowed = Allowed((tmp_path,))
    good = a_package("a")
    object.__setattr__(good, "content", Blob(tmp_path / "a.tar"))
    allowed.check_contents([good])
    for content in (Blob(tmp_path / "link"), Tree(tmp_path / "..", "/x"), Blob(tmp_path / ".." / "b.tar")):
        bad = a_package("b")
        object.__setattr__(bad, "content", content)
        with pytest.raises(InputError, match="'b'"):
            allowed.check_contents([bad])


def test_a_fifo_is_no_file_that_a_job_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "graph.json")
    both_ends = os.open(tmp_path / "graph.json", os.O_RDWR)  # else to open it would wait for a writer, for ever
    try:
        with pytest.raises(OSError, match="not a regular file"):
            Allowed((tmp_path,)).open_file(tmp_path / "graph.json")
    finally:
        os.close(both_ends)
