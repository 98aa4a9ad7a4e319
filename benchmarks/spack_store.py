"""A Spack store of some hundred packages, as Spack 0.23 writes it: work C with a database, and recipes beside it.

    python -m benchmarks.spack_store FOLDER [--share SHARE]

`FOLDER/store` is the store, recorded where it lies; `FOLDER/recipes` is a repository of recipes that Spack must know to
push or install (`repos:: [FOLDER/recipes]`); `FOLDER/roots` holds what nobody depends on, as `/HASH /HASH …`. Every
package has what relocation changes: a program and a library with RPATHs, a script, a pkg-config file, links.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.works import make_c

_PLATFORM: Final = "linux-debian12-x86_64"
_COMPILER: Final = {"name": "gcc", "version": "12.2.0"}
_VERSION: Final = "1.0"
_RPATH_BYTES: Final = 4_000
_PROGRAM: Final = "int main(void) { return 0; }\n"
_LIBRARY: Final = "int answer(void) { return 42; }\n"


@dataclass(frozen=True, slots=True)
class Spec:
    """One package; `needs` are the specs that it links."""

    name: str
    hash: str
    prefix: Path
    needs: tuple[Spec, ...]

    def node(self) -> dict[str, Any]:
        """As it stands in the database and in `spec.json`."""
        flags = ("cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs")
        parameters = {"deptypes": ["build", "link"], "virtuals": []}
        node: dict[str, Any] = {
            "name": self.name,
            "version": _VERSION,
            "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
            "compiler": _COMPILER,
            "namespace": "bench",
            "parameters": {"build_system": "generic", **{flag: [] for flag in flags}},
            "package_hash": f"{self.hash * 2}====",
        }
        if self.needs:
            node["dependencies"] = [
                {"name": needed.name, "hash": needed.hash, "parameters": parameters} for needed in self.needs
            ]
        return {**node, "hash": self.hash}

    def closure(self) -> list[Spec]:
        """Itself first, then all that it needs."""
        found: dict[str, Spec] = {self.hash: self}
        waiting = [self]
        for spec in waiting:
            for needed in spec.needs:
                if needed.hash not in found:
                    found[needed.hash] = needed
                    waiting.append(needed)
        return list(found.values())


def make_store(folder: Path, share: float) -> list[Spec]:
    """Write it all to `folder`, which must not be there; the specs, each behind what it needs."""
    folder.mkdir(parents=True)
    make_c(folder, share)
    (folder / "store" / _PLATFORM / "gcc-12.2.0").mkdir(parents=True)
    found: dict[str, Spec] = {}
    for package in json.loads((folder / "graph.json").read_text())["packages"]:
        found[package["id"]] = _adopt(package, folder, found)
    specs = list(found.values())
    with TemporaryDirectory() as scratch:
        templates = _compile(_PROGRAM, Path(scratch), "-o"), _compile(_LIBRARY, Path(scratch), "-shared", "-fPIC", "-o")
    for spec in specs:
        _install(spec, templates)
    _write_database(folder, specs)
    _write_recipes(folder / "recipes", specs)
    return specs


def _adopt(package: dict[str, Any], folder: Path, found: dict[str, Spec]) -> Spec:
    name = package["id"].replace("package-", "g")
    hash_ = base64.b32encode(hashlib.sha1(name.encode(), usedforsecurity=False).digest()).decode().lower()
    prefix = folder.absolute() / "store" / _PLATFORM / "gcc-12.2.0" / f"{name}-{_VERSION}-{hash_}"
    (folder / package["prefix"]).rename(prefix)
    return Spec(name, hash_, prefix, tuple(found[key] for key in package["dependencies"]))


def _compile(source: str, scratch: Path, *options: str) -> bytes:
    """A program or a library, with room for its RPATH."""
    if shutil.which("gcc") is None:
        raise SystemExit("there is no gcc, which makes the programs of the store")
    rpath, made = "-Wl,-rpath," + "R" * _RPATH_BYTES, scratch / "made"
    (scratch / "source.c").write_text(source)
    subprocess.run(["gcc", "-O1", rpath, str(scratch / "source.c"), *options, str(made)], check=True)
    return made.read_bytes()


def _install(spec: Spec, templates: tuple[bytes, bytes]) -> None:
    """What a package has beside its bulk."""
    rpath = ":".join(f"{needed.prefix}/lib" for needed in (spec, *spec.needs)).encode()
    files = {
        f"bin/{spec.name}": templates[0].replace(b"R" * _RPATH_BYTES, rpath.ljust(_RPATH_BYTES, b"\0")),
        f"lib/lib{spec.name}.so": templates[1].replace(b"R" * _RPATH_BYTES, rpath.ljust(_RPATH_BYTES, b"\0")),
        f"bin/{spec.name}-run": f'#!/bin/sh\nexec {spec.prefix}/bin/{spec.name} "$@"\n'.encode(),
        f"lib/pkgconfig/{spec.name}.pc": f"prefix={spec.prefix}\nLibs: -L{spec.prefix}/lib -l{spec.name}\n".encode(),
        ".spack/spec.json": json.dumps(
            {"spec": {"_meta": {"version": 4}, "nodes": [s.node() for s in spec.closure()]}}
        ).encode(),
    }
    for name, content in files.items():
        path = spec.prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if name.startswith(("bin/", f"lib/lib{spec.name}")) else 0o644)
    (spec.prefix / "bin" / f"{spec.name}-link").symlink_to(spec.prefix / "bin" / spec.name)


def _write_database(folder: Path, specs: list[Spec]) -> None:
    dependents = Counter(needed.hash for spec in specs for needed in spec.needs)
    installs = {
        spec.hash: {
            "spec": spec.node(),
            "ref_count": dependents[spec.hash],
            "path": str(spec.prefix),
            "installed": True,
            "explicit": not dependents[spec.hash],
            "installation_time": 1.0,
            "deprecated_for": None,
        }
        for spec in specs
    }
    database = folder / "store" / ".spack-db" / "index.json"
    database.parent.mkdir()
    database.with_name("index_verifier").write_text("1")  # without it Spack reads the database again all the time
    database.write_text(json.dumps({"database": {"version": "7", "installs": installs}}))
    roots = " ".join(f"/{spec.hash}" for spec in specs if not dependents[spec.hash])
    (folder / "roots").write_text(f"{roots}\n")


def _write_recipes(folder: Path, specs: list[Spec]) -> None:
    for spec in specs:
        recipe = folder / "packages" / spec.name / "package.py"
        recipe.parent.mkdir(parents=True)
        recipe.write_text(
            "from spack.package import *\n\n\n"
            f'class {spec.name.capitalize()}(Package):\n    """Made up."""\n\n    version("{_VERSION}")\n'
        )
    (folder / "repo.yaml").write_text("repo:\n  namespace: bench\n")


def main() -> None:
    """Make a store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    print(f"{len(make_store(given.folder, given.share))} packages")


if __name__ == "__main__":
    main()
