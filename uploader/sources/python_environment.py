"""The distributions installed in a Python environment, `python:PREFIX`, as packages.

A distribution is a package: its files as RECORD lists them, at the place where they are installed, and as
dependencies what it requires of the other distributions there. The environment is read, never run.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from packaging.markers import Marker, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name

from uploader.errors import InputError
from uploader.model.package import Package, PackageId, Platform, Tree
from uploader.model.reference import tag_from
from uploader.sources.base import Loaded, OpenFile, open_any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from packaging.utils import NormalizedName

# In the order of Debian's sys.path: what pip put into /usr/local comes before the system's own.
_SITES = (
    "local/lib/python3*/dist-packages",
    "lib/python3*/site-packages",
    "lib/python3*/dist-packages",
    "lib64/python3*/site-packages",
    "lib64/python3*/dist-packages",
)
_ARCHITECTURES = {
    "x86_64": "amd64", "i386": "386", "i686": "386", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm",
    "loongarch64": "loong64",
}  # fmt: skip
_VARIANTS = {"armv7l": "v7", "armv6l": "v6"}

_Key = TypeVar("_Key", bound=str)


@dataclass(frozen=True, slots=True)
class PythonEnvironment:
    """A virtual environment, a prefix such as /usr, or a folder of distributions."""

    prefix: Path
    open_file: OpenFile = open_any

    def load(self) -> Loaded:
        """Read the metadata of all distributions; raises InputError where there are none."""
        source = f"python:{self.prefix}"
        try:
            prefix = "/" + os.path.abspath(self.prefix).lstrip("/")  # noqa: PTH100 (symbolic links stay)
        except FileNotFoundError:
            raise InputError(f"{source}: the working folder is not there any more: give an absolute path") from None
        notes: list[str] = []
        found = _distributions(Path(prefix), source, notes, self.open_file)
        needs, circles = cut_circles({name: _needs(name, found) for name in found})
        notes += circles
        ids = {name: PackageId(f"{name}-{one.version}") for name, one in found.items()}
        trees = {name: _tree(prefix, one) for name, one in found.items()}
        packages = tuple(
            Package(
                id=ids[name],
                name=name,
                version=one.version,
                tag=tag_from(ids[name]),
                content=trees[name],
                dependencies=tuple(sorted(ids[needed] for needed in needs[name])),
                platform=_this_platform(),
                annotations=one.annotations(),
                absence="not-installed" if trees[name] is None else None,
            )
            for name, one in found.items()
        )
        notes += _about_files(prefix, found.values(), trees)
        said = tuple(f"{source}: {note}" for note in notes)
        return Loaded(source, packages, said, made_tags=frozenset(ids.values()))


@dataclass(frozen=True, slots=True)
class _Installed:
    """What the metadata of one distribution says."""

    name: NormalizedName
    title: str
    version: str
    license: str
    site: Path
    info: Path
    requirements: tuple[Requirement, ...]
    recorded: tuple[str, ...] | None  # absolute paths
    environment: Mapping[str, str]  # what markers are evaluated against
    is_editable: bool
    top_level: str

    def annotations(self) -> dict[str, str]:
        """Those that the OCI image specification has a name for (annotations.md)."""
        licenses = {"org.opencontainers.image.licenses": self.license} if self.license else {}
        return licenses | {
            "org.opencontainers.image.title": self.title,
            "org.opencontainers.image.version": self.version,
        }


# --- finding and reading ---------------------------------------------------------------------------------


def _distributions(
    prefix: Path, source: str, notes: list[str], open_file: OpenFile
) -> dict[NormalizedName, _Installed]:
    """By name, sorted; of two distributions with one name the first on the path counts."""
    if not os.path.isdir(prefix):  # noqa: PTH112 (also answers for names that cannot be)
        raise InputError(f"{source}: there is no such folder: write python:PREFIX, such as python:.venv")
    found: dict[NormalizedName, _Installed] = {}
    sites = _sites(prefix)
    real = prefix.resolve()
    for site in sites:
        environment = _marker_environment(site)
        for info in _infos(site, source):
            if not info.resolve().is_relative_to(real):  # its files could not be packed either
                notes.append(f"{info.name} is left out: a link leads out of {prefix} to it")
                continue
            try:
                one = _read(_Metadata(info, open_file), environment, notes)
            except (OSError, ValueError, KeyError) as error:
                notes.append(f"{info.name} is left out, its metadata is broken: {error}")
                continue
            first = found.setdefault(one.name, one)
            if first is not one:
                notes.append(f"{one.name} is there twice: {first.info.name} counts, {info} is left out")
    if not found:
        where = ", ".join(str(site) for site in sites) or " and ".join(_SITES[1:3])
        raise InputError(f"{source}: no installed distributions there (looked in {where})")
    return dict(sorted(found.items()))


def _sites(prefix: Path) -> list[Path]:
    """The folders of distributions, the newest Python first; lib64 is often a link to lib."""
    if prefix.name in {"site-packages", "dist-packages"} or any(prefix.glob("*.dist-info")):
        return [prefix]
    sites: dict[Path, Path] = {}
    for pattern in _SITES:
        for site in sorted(prefix.glob(pattern)):
            sites.setdefault(site.resolve(), site)
    return sorted(sites.values(), key=_minor, reverse=True)


def _minor(site: Path) -> int:
    match = re.match(r"python3\.(\d+)", site.parent.name)
    return int(match[1]) if match else -1


def _infos(site: Path, source: str) -> list[Path]:
    """The metadata of a folder; `~…` is what a broken-off pip left. The newer kind goes first."""
    try:
        paths = sorted(site.iterdir())
    except OSError as error:
        raise InputError(f"{source}: cannot list {site}: {error.strerror}") from error
    infos = [path for path in paths if not path.name.startswith("~")]
    return [p for p in infos if p.suffix == ".dist-info"] + [p for p in infos if p.suffix == ".egg-info"]


def _marker_environment(site: Path) -> dict[str, str]:
    """The environment of markers with the version of *that* Python, as far as its folders tell it."""
    environment = {key: str(value) for key, value in default_environment().items()}
    if (minor := _minor(site)) >= 0 and environment["python_version"] != f"3.{minor}":
        environment |= {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"}
    return environment


class _Metadata(PathDistribution):
    """The metadata of a distribution; its files are opened by `open_file`."""

    def __init__(self, folder: Path, open_file: OpenFile) -> None:
        super().__init__(folder)
        self.folder = folder
        self._open_file = open_file

    def read_text(self, filename: str | os.PathLike[str]) -> str | None:
        """The file's text; None where it is not there, or not to be read by this user."""
        try:
            with io.TextIOWrapper(self._open_file(self.folder / filename), "utf-8") as file:
                return file.read()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            return None


def _read(distribution: _Metadata, environment: Mapping[str, str], notes: list[str]) -> _Installed:
    """Raises OSError, ValueError or KeyError where the metadata cannot be used."""
    info = distribution.folder
    metadata = distribution.metadata
    title, version, licenses = (
        str((metadata.get_all(key) or [""])[0]) for key in ("Name", "Version", "License-Expression")
    )
    try:
        name = canonicalize_name(title, validate=True)
    except InvalidName:
        raise ValueError(f"its name is {title[:100]!r}") from None
    if not re.fullmatch(r"[!-~]{1,200}", version):
        raise ValueError(f"its version is {version[:100]!r}")
    requirements = []
    for text in distribution.requires or ():
        try:
            requirements.append(Requirement(text))
        except InvalidRequirement:
            notes.append(f"{info.name}: the requirement {text[:100]!r} cannot be read and is ignored")
    try:
        recorded = _recorded(distribution, info)
    except (ValueError, csv.Error) as error:
        recorded = None
        notes.append(f"{info.name}: its list of files cannot be read: {error}")
    direct_url = distribution.read_text("direct_url.json") or ""
    return _Installed(
        name=name,
        title=title,
        version=version,
        license=licenses if licenses.isprintable() else "",
        site=info.parent,
        info=info,
        requirements=tuple(requirements),
        recorded=recorded,
        environment=environment,
        is_editable=re.search(r'"editable"\s*:\s*true', direct_url) is not None,
        top_level=distribution.read_text("top_level.txt") or "",
    )


def _recorded(distribution: PathDistribution, info: Path) -> tuple[str, ...] | None:
    """The listed files as absolute paths; None without a list. (`Distribution.files` checks what is there
    in some versions of Python, and falls back to a list of sources.)"""
    if record := distribution.read_text("RECORD"):
        base, paths = info.parent, [row[0] for row in csv.reader(record.splitlines()) if row]
    elif record := distribution.read_text("installed-files.txt"):
        base, paths = info, record.splitlines()
    else:
        return None
    return tuple(os.path.normpath(base / path) for path in paths if path and "\0" not in path)


# --- files -----------------------------------------------------------------------------------------------


def _tree(prefix: str, one: _Installed) -> Tree | None:
    """The files to pack; None where nothing says which they are."""
    paths = one.recorded if one.recorded is not None else _guessed(one)
    inside = _inside(prefix)
    files = {path.removeprefix(inside) for path in paths if path.startswith(inside) and _is_wanted(path)}
    return Tree(Path(prefix), prefix, tuple(sorted(files))) if files else None


def _inside(prefix: str) -> str:
    return prefix.rstrip("/") + "/"


def _is_wanted(path: str) -> bool:
    return not _is_cache(path) and _is_there(path)


def _is_cache(path: str) -> bool:
    """Byte code is left out: it holds the time of its source on this machine, so layers would differ from
    machine to machine, and Python would refuse it anyway beside files whose times the packing has reset."""
    return path.endswith(".pyc") and "/__pycache__/" in path


def _is_there(path: str) -> bool:
    return os.path.isfile(path) or os.path.islink(path)  # noqa: PTH113, PTH114 (thousands of them)


def _guessed(one: _Installed) -> tuple[str, ...]:
    """The files of a distribution without a list, as distributions of Linux install them: the modules that
    top_level.txt names (else its own name), and the metadata. Nothing where no module is found."""
    names = one.top_level or one.name.replace("-", "_")
    modules: set[str] = set()
    for word in re.findall(r"^[\w-]+$", names, re.MULTILINE):
        modules |= {str(path) for pattern in (".py", ".so", ".*.so") for path in one.site.glob(word + pattern)}
        modules.update(_walk(one.site / word))
    return (*modules, *_walk(one.info)) if modules else ()


def _walk(path: Path) -> Iterator[str]:
    if path.is_file():
        yield str(path)
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)  # noqa: PTH118


def _about_files(
    prefix: str, found: Iterable[_Installed], trees: Mapping[NormalizedName, Tree | None]
) -> Iterator[str]:
    """Notes on files that a user may miss."""
    unlisted = [one.name for one in found if one.recorded is None and trees[one.name] is not None]
    if unlisted:
        yield f"no list of files (RECORD), so only their modules are packed: {', '.join(unlisted)}"
    if lost := [name for name, tree in trees.items() if tree is None]:
        yield f"no files found, so they are left out as not installed: {', '.join(lost)}"
    if editable := [one.name for one in found if one.is_editable]:
        yield f"installed as editable, so their code lies elsewhere and is not packed: {', '.join(editable)}"
    listed = [path for one in found for path in one.recorded or () if not _is_cache(path)]
    if outside := [path for path in listed if not path.startswith(_inside(prefix))]:
        yield f"{len(outside)} files lie outside of the prefix and are left out, the first is {outside[0]!r}"
    if gone := [path for path in listed if path.startswith(_inside(prefix)) and not _is_there(path)]:
        yield f"{len(gone)} files are listed but not there and are left out, the first is {gone[0]!r}"


# --- dependencies ----------------------------------------------------------------------------------------


def _needs(name: NormalizedName, found: Mapping[NormalizedName, _Installed]) -> set[NormalizedName]:
    """What a distribution requires of those installed. What a required extra requires, it requires itself:
    with `foo[bar]` the requirements of foo's extra bar belong to whoever asked for it, not to foo."""
    needed: set[NormalizedName] = set()
    todo = [(name, "")]
    seen = set(todo)
    while todo:
        owner, extra = todo.pop()
        for requirement in found[owner].requirements:
            target = canonicalize_name(requirement.name)
            if target in found and _applies(requirement.marker, extra, found[owner].environment):
                needed.add(target)
                asked = {(target, canonicalize_name(wanted)) for wanted in requirement.extras} - seen
                seen |= asked
                todo += sorted(asked)
    return needed - {name}


def _applies(marker: Marker | None, extra: str, environment: Mapping[str, str]) -> bool:
    """Whether a requirement is one of `extra`, or with "" one of the distribution itself."""
    if marker is None:
        return not extra
    try:
        without = marker.evaluate({**environment, "extra": ""})
        return marker.evaluate({**environment, "extra": extra}) and not without if extra else without
    except (ValueError, KeyError):  # a comparison without meaning, an unknown variable: it may be needed
        return not extra


def cut_circles(needs: Mapping[_Key, set[_Key]]) -> tuple[dict[_Key, set[_Key]], list[str]]:
    """The same needs without circles, and a note on each circle.

    The head of a circle, its first member by name, still leads to all the others: inside, only those needs
    stay that lead away from it. Whoever outside needs a member now needs the head too, so that outside
    nothing is lost. The outcome does not depend on any order.
    """
    reached = {key: _reach(key, needs) for key in needs}
    circles = {key: {other for other in reached[key] if key in reached[other]} for key in needs}
    cut: dict[_Key, set[_Key]] = {}
    notes = []
    for key in needs:
        inner = circles[key]
        heads = {min(circles[other]) for other in needs[key] - inner if circles[other]}
        cut[key] = (needs[key] - inner) | heads
        if inner:
            away = _distances(min(inner), needs, inner)
            cut[key] |= {other for other in needs[key] & inner if away[other] > away[key]}
            if key == min(inner):
                members = ", ".join(sorted(inner))
                notes.append(f"{members} need each other in a circle, which is cut: {key} keeps all it needs")
    return cut, sorted(notes)


def _reach(start: _Key, needs: Mapping[_Key, set[_Key]]) -> set[_Key]:
    """What `start` needs, directly or not; with itself where it is in a circle."""
    reached: set[_Key] = set()
    todo = [start]
    while todo:
        new = needs[todo.pop()] - reached
        reached |= new
        todo += new
    return reached


def _distances(start: _Key, needs: Mapping[_Key, set[_Key]], within: set[_Key]) -> dict[_Key, int]:
    away = {start: 0}
    level = {start}
    for distance in count(1):
        level = {other for key in level for other in needs[key] & within} - away.keys()
        if not level:
            break
        away |= dict.fromkeys(level, distance)
    return away


# --- platform --------------------------------------------------------------------------------------------


def _this_platform() -> Platform:
    machine = platform.machine().lower()
    return Platform(sys.platform, _ARCHITECTURES.get(machine, machine), _VARIANTS.get(machine, ""))
