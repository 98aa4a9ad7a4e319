from __future__ import annotations

import json
import sys
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.model.package import Package, Tree
from uploader.sources.merge import merge
from uploader.sources.python_environment import PythonEnvironment, cut_circles

if TYPE_CHECKING:
    from uploader.sources.base import Loaded

SITE = "lib/python3.11/site-packages"


def install(
    prefix: Path,
    name: str,
    *requires: str,
    version: str = "1.0",
    site: str = SITE,
    record: str | None = "",
    more: str = "",
) -> Path:
    """A distribution with one module, as an installer would leave it; returns its metadata folder."""
    folder = prefix / site
    module = name.lower().replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").touch()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires), *more.splitlines()]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    if record is not None:
        (info / "RECORD").write_text(record or f"{module}.py,,\n{info.name}/METADATA,,\n")
    return info


def load(prefix: Path) -> dict[str, Package]:
    return {package.name: package for package in PythonEnvironment(prefix).load().packages}


def needs(prefix: Path, name: str) -> list[str]:
    return [str(key) for key in load(prefix)[name].dependencies]


def notes(prefix: Path) -> str:
    return "\n".join(PythonEnvironment(prefix).load().notes)


def files(prefix: Path, name: str) -> list[str]:
    content = load(prefix)[name].content
    assert isinstance(content, Tree)
    assert (content.root, content.at) == (prefix, str(prefix))
    return [file.removeprefix(f"{SITE}/") for file in content.files or ()]


def test_a_distribution_is_a_package(tmp_path: Path) -> None:
    install(tmp_path, "My_Tool", version="2.0+local", more="License-Expression: MIT")
    (package,) = PythonEnvironment(tmp_path).load().packages
    assert (package.id, package.name, package.version) == ("my-tool-2.0+local", "my-tool", "2.0+local")
    assert package.tag == "my-tool-2.0_local"
    assert files(tmp_path, "my-tool") == ["my_tool-2.0+local.dist-info/METADATA", "my_tool.py"]
    assert package.annotations == {
        "org.opencontainers.image.licenses": "MIT",
        "org.opencontainers.image.title": "My_Tool",
        "org.opencontainers.image.version": "2.0+local",
    }
    assert notes(tmp_path) == ""


def test_scripts_below_the_prefix_belong_to_it_and_byte_code_does_not(tmp_path: Path) -> None:
    record = "a.py,,\n../../../bin/a,,\n../../../../elsewhere,,\n__pycache__/a.cpython-311.pyc,,\ngone.py,,\na.py,,\n"
    install(tmp_path, "a", record=record)
    for path in ("bin/a", "../elsewhere", f"{SITE}/__pycache__/a.cpython-311.pyc"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert files(tmp_path, "a") == ["bin/a", "a.py"]
    assert "1 files lie outside" in notes(tmp_path)
    assert f"1 files are listed but not there and are left out, the first is '{tmp_path}/{SITE}/gone.py'" in notes(
        tmp_path
    )


def test_dependencies_are_the_installed_ones_that_are_required_here(tmp_path: Path) -> None:
    install(tmp_path, "a", "B.c>=1", "gone", 'd; sys_platform == "nowhere"', 'e; extra == "x"')
    for name in ("b-c", "d", "e"):
        install(tmp_path, name)
    assert needs(tmp_path, "a") == ["b-c-1.0"]


def test_an_extra_belongs_to_whoever_asks_for_it(tmp_path: Path) -> None:
    install(tmp_path, "app", "lib[All]")
    install(
        tmp_path,
        "lib",
        'base; python_version > "3"',
        'lib[fast]; extra == "all"',
        'speed; extra == "fast"',
        'slow; extra == "slow"',
    )
    for name in ("base", "speed", "slow"):
        install(tmp_path, name)
    assert needs(tmp_path, "app") == ["lib-1.0", "speed-1.0"]
    assert needs(tmp_path, "lib") == ["base-1.0"]


def test_nothing_depends_on_itself(tmp_path: Path) -> None:
    install(tmp_path, "a", "a", "b[more]")
    install(tmp_path, "b", 'a; extra == "more"')
    assert needs(tmp_path, "a") == ["b-1.0"]
    assert notes(tmp_path) == ""


def test_markers_are_about_the_python_of_the_prefix(tmp_path: Path) -> None:
    site = "lib/python3.4/site-packages"
    install(tmp_path, "a", 'old; python_version < "3.5"', 'new; python_version >= "3.5"', site=site)
    install(tmp_path, "old", site=site)
    install(tmp_path, "new", site=site)
    assert needs(tmp_path, "a") == ["old-1.0"]


def test_a_circle_is_cut_and_said(tmp_path: Path) -> None:
    for name, needed in (("a", "b"), ("b", "a"), ("outside", "b")):
        install(tmp_path, name, needed)
    assert [needs(tmp_path, name) for name in ("a", "b", "outside")] == [["b-1.0"], [], ["a-1.0", "b-1.0"]]
    assert "a, b need each other in a circle, which is cut: a keeps all it needs" in notes(tmp_path)
    merge([PythonEnvironment(tmp_path).load()])


def test_of_two_with_one_name_the_first_on_the_path_counts(tmp_path: Path) -> None:
    install(tmp_path, "a", version="1.0", site="lib/python3.9/site-packages")
    install(tmp_path, "a", version="2.0", site="lib/python3.10/site-packages")
    assert load(tmp_path)["a"].version == "2.0"
    assert "a is there twice: a-2.0.dist-info counts" in notes(tmp_path)


def test_a_linked_lib64_is_not_a_second_one(tmp_path: Path) -> None:
    install(tmp_path, "a")
    (tmp_path / "lib64").symlink_to("lib")
    assert notes(tmp_path) == ""


def test_what_a_link_outside_leads_to_is_not_read(tmp_path: Path) -> None:
    install(tmp_path / "elsewhere", "secret")
    install(tmp_path / "env", "a", site="lib/python3.10/site-packages")
    (tmp_path / "env" / "lib" / "python3.9").mkdir()
    (tmp_path / "env" / "lib" / "python3.9" / "site-packages").symlink_to(tmp_path / "elsewhere" / SITE)
    assert list(load(tmp_path / "env")) == ["a"]
    assert "secret-1.0.dist-info is left out: a link leads out" in notes(tmp_path / "env")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (b"", "its name is ''"),
        (b"Name: a b\nVersion: 1\n", "its name is 'a b'"),
        (b"Name: broken\n", "its version is ''"),
        (b"Name: broken\nVersion: 1 2\n", "its version is '1 2'"),
        (b"Name: \xff\xfe\n", "utf-8"),
    ],
)
def test_broken_metadata_is_a_note(tmp_path: Path, metadata: bytes, reason: str) -> None:
    install(tmp_path, "a")
    (install(tmp_path, "broken") / "METADATA").write_bytes(metadata)
    assert list(load(tmp_path)) == ["a"]
    assert "broken-1.0.dist-info is left out, its metadata is broken" in notes(tmp_path)
    assert reason in notes(tmp_path)


def test_a_requirement_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    install(tmp_path, "a", "b ==", "b")
    install(tmp_path, "b")
    assert needs(tmp_path, "a") == ["b-1.0"]
    assert "the requirement 'b ==' cannot be read and is ignored" in notes(tmp_path)


@pytest.mark.parametrize("marker", ['os_name ~= "x"', '"x" in extras'])
def test_a_marker_without_meaning_counts_as_true(tmp_path: Path, marker: str) -> None:
    install(tmp_path, "a", f"b; {marker}")
    install(tmp_path, "b")
    assert needs(tmp_path, "a") == ["b-1.0"]


@pytest.mark.parametrize("record", [b"\xff\n", b'"' + b"x" * 200_000])
def test_a_broken_list_of_files_is_a_note_and_the_modules_are_packed(tmp_path: Path, record: bytes) -> None:
    info = install(tmp_path, "a")
    (info / "RECORD").write_bytes(record)
    assert files(tmp_path, "a") == [f"{info.name}/METADATA", f"{info.name}/RECORD", "a.py"]
    assert f"{info.name}: its list of files cannot be read" in notes(tmp_path)


def test_an_egg_may_be_a_single_file(tmp_path: Path) -> None:
    site = tmp_path / SITE
    site.mkdir(parents=True)
    (site / "old.egg-info").write_text("Name: old\nVersion: 1\n")
    (site / "old.py").touch()
    assert files(tmp_path, "old") == ["old.egg-info", "old.py"]


def test_a_site_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    (tmp_path / SITE).parent.mkdir(parents=True)
    (tmp_path / SITE).touch()
    with pytest.raises(InputError, match="cannot list"):
        PythonEnvironment(tmp_path).load()


def test_an_interrupted_installation_is_ignored(tmp_path: Path) -> None:
    install(tmp_path, "a").rename(tmp_path / SITE / "~-1.0.dist-info")
    install(tmp_path, "b")
    assert list(load(tmp_path)) == ["b"]


def test_without_a_list_the_modules_are_packed(tmp_path: Path) -> None:
    info = install(tmp_path, "a", record=None)
    (info / "top_level.txt").write_text("a\nfolder\n../sneaky\n")
    (tmp_path / SITE / "folder").mkdir()
    (tmp_path / SITE / "folder/__init__.py").touch()
    (tmp_path / "lib/python3.11/sneaky.py").touch()
    assert files(tmp_path, "a") == [f"{info.name}/METADATA", f"{info.name}/top_level.txt", "a.py", "folder/__init__.py"]
    assert "no list of files (RECORD), so only their modules are packed: a" in notes(tmp_path)


def test_an_egg_with_a_list_of_files_is_packed(tmp_path: Path) -> None:
    info = tmp_path / SITE / "egg.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Name: egg\nVersion: 1\n")
    (info / "requires.txt").write_text("a\n[x]\nb\n")
    (info / "installed-files.txt").write_text("../egg.py\nPKG-INFO\n")
    (info.parent / "egg.py").touch()
    install(tmp_path, "a")
    install(tmp_path, "b")
    assert files(tmp_path, "egg") == ["egg.egg-info/PKG-INFO", "egg.py"]
    assert needs(tmp_path, "egg") == ["a-1.0"]


def test_a_distribution_whose_files_are_unknown_is_left_out_as_not_installed(tmp_path: Path) -> None:
    install(tmp_path, "a", record=None)
    (tmp_path / SITE / "a.py").unlink()
    package = load(tmp_path)["a"]
    assert (package.content, package.absence) == (None, "not-installed")
    assert "no files found, so they are left out as not installed: a" in notes(tmp_path)


def test_an_editable_installation_is_packed_as_recorded_and_said(tmp_path: Path) -> None:
    info = install(tmp_path, "a")
    (info / "direct_url.json").write_text(json.dumps({"url": "file:///src", "dir_info": {"editable": True}}))
    assert files(tmp_path, "a") == ["a-1.0.dist-info/METADATA", "a.py"]
    assert "installed as editable, so their code lies elsewhere and is not packed: a" in notes(tmp_path)


def test_a_folder_of_distributions_is_a_prefix(tmp_path: Path) -> None:
    install(tmp_path, "a", site=".")
    assert files(tmp_path, "a") == ["a-1.0.dist-info/METADATA", "a.py"]


def test_a_system_prefix_is_read(tmp_path: Path) -> None:
    install(tmp_path, "a", site="lib/python3/dist-packages", version="1.0")
    install(tmp_path, "a", site="local/lib/python3.11/dist-packages", version="2.0")
    install(tmp_path, "b", site="lib/python3/dist-packages")
    assert [str(package.id) for package in load(tmp_path).values()] == ["a-2.0", "b-1.0"]


@pytest.mark.parametrize("path", ["missing", "file", "empty", "x" * 300])
def test_a_prefix_without_distributions_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty/lib/python3.11/site-packages").mkdir(parents=True)
    with pytest.raises(InputError, match=f"^python:.*{path}: "):
        PythonEnvironment(tmp_path / path).load()


def test_a_relative_prefix_in_a_folder_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="the working folder is not there any more"):
        PythonEnvironment(Path(".venv")).load()


def test_the_packages_of_a_real_environment_are_all_there() -> None:
    loaded = PythonEnvironment(Path(sys.prefix)).load()
    assert {"pydantic", "pytest", "packaging"} <= {package.name for package in loaded.packages}
    graph = merge([loaded]).graph
    (pydantic,) = (package for package in graph.packages if package.name == "pydantic")
    assert any(key.startswith("pydantic-core-") for key in pydantic.dependencies)
    assert everything_exists(loaded)


def test_a_fresh_virtual_environment_is_read(tmp_path: Path) -> None:
    venv.create(tmp_path / "v", with_pip=True)
    loaded = PythonEnvironment(tmp_path / "v").load()
    assert "pip" in {package.name for package in loaded.packages}
    assert everything_exists(loaded)
    (pip,) = (package for package in loaded.packages if package.name == "pip")
    assert isinstance(pip.content, Tree)
    assert "bin/pip" in (pip.content.files or ())


def everything_exists(loaded: Loaded) -> bool:
    trees = [package.content for package in loaded.packages if isinstance(package.content, Tree)]
    return bool(trees) and all((tree.root / file).is_file() for tree in trees for file in tree.files or ())


METADATA = st.lists(
    st.sampled_from([b"Name: a", b"Version: 1", b"Requires-Dist: b[c]; extra == 'x'", b"Requires-Dist: ;;"])
    | st.binary(max_size=9)
).map(b"\n".join)


@given(
    METADATA, st.binary(max_size=9) | st.just(b"\n..,,\n/,,\n.\n,\n"), st.sampled_from(["a.dist-info", "a.egg-info"])
)
def test_whatever_the_metadata_holds_the_others_are_read(metadata: bytes, record: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), "good")
        info = Path(folder) / SITE / name
        info.mkdir()
        for file in ("METADATA", "PKG-INFO"):
            (info / file).write_bytes(metadata)
        for file in ("RECORD", "installed-files.txt", "requires.txt", "top_level.txt"):
            (info / file).write_bytes(record)
        loaded = PythonEnvironment(Path(folder)).load()
        assert "good" in {package.name for package in loaded.packages}
        merge([loaded])


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, set[str]]:
    names = "abcdefg"[: draw(st.integers(1, 7))]
    return {name: draw(st.sets(st.sampled_from(names))) - {name} for name in names}


def closure(name: str, needs: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        new = needs[todo.pop()] - found
        found |= new
        todo += new
    return found


@given(graphs())
@settings(max_examples=300)
def test_cutting_circles_loses_nothing_outside_of_them(needs: dict[str, set[str]]) -> None:
    cut, said = cut_circles(needs)
    circles = {name: closure(name, needs) if name in closure(name, needs) else set() for name in needs}
    circles = {name: {other for other in found if name in closure(other, needs)} for name, found in circles.items()}
    for name in needs:
        after = closure(name, cut)
        assert name not in after
        assert after <= closure(name, needs)
        if not circles[name] or name == min(circles[name]):
            assert after == closure(name, needs) - {name}
    assert len(said) == len({min(circle) for circle in circles.values() if circle})
    assert cut == needs or said


@given(graphs(), st.randoms(use_true_random=False))
def test_cutting_circles_does_not_depend_on_the_order(needs: dict[str, set[str]], random: object) -> None:
    shuffled = list(needs.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cut_circles(dict(shuffled)) == cut_circles(needs)
