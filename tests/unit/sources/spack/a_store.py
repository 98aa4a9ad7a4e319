"""Small stores on disk, for tests of what is read from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from uploader.sources.spack.database import Database, parse_database

if TYPE_CHECKING:
    from pathlib import Path

RECORDED = "/opt/store"
META = {"7": 4, "8": 5}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
"""Values that JSON can hold."""


def a_hash(name: str) -> str:
    """A hash as Spack has them: 32 letters and digits, here beginning with the name."""
    return name.replace("-", "").ljust(32, "2")


@dataclass
class AStore:
    """What `index.json` holds; `write` also makes the prefixes."""

    version: str = "7"
    installs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, *needs: str, version: str = "1.0", key: str = "", **entry: Any) -> AStore:
        """One spec; `needs` are NAME or NAME:TYPE+TYPE, by default linked and for the build."""
        hash_ = a_hash(key or name)
        external = entry.pop("external", False)
        spec = {
            "name": name,
            "version": version,
            "arch": {"platform": "linux", "platform_os": "debian12", "target": "x86_64"},
            "parameters": {"build_system": "generic", "cflags": []},
            "dependencies": [an_edge(text) for text in needs],
            "hash": hash_,
        }
        spec |= {"compiler": {"name": "gcc", "version": "12.2.0"}} if self.version == "7" else {}
        spec |= {"external": {"path": "/usr"}} if external else {}
        path = "/usr" if external else f"{RECORDED}/linux/{name}-{version}-{hash_}"
        self.installs[hash_] = {"spec": spec, "path": path, "installed": True, "explicit": False} | entry
        return self

    def content(self) -> bytes:
        return json.dumps({"database": {"version": self.version, "installs": self.installs}}).encode()

    def database(self) -> Database:
        return parse_database(self.content())

    def write(self, root: Path) -> Path:
        """The database, and of each prefix `.spack/spec.json` and one program."""
        (root / ".spack-db").mkdir(parents=True)
        (root / ".spack-db" / "index.json").write_bytes(self.content())
        for hash_, entry in self.installs.items():
            if entry["path"] != "/usr" and entry["installed"]:
                prefix = self.prefix(root, hash_)
                (prefix / ".spack").mkdir(parents=True)
                (prefix / "bin").mkdir()
                (prefix / "bin" / "run").write_text(f"#!/bin/sh\nexec {entry['path']}/lib/run\n")
                document = {"spec": {"_meta": {"version": META[self.version]}, "nodes": [entry["spec"]]}}
                (prefix / ".spack" / "spec.json").write_text(json.dumps(document))
        return root

    def prefix(self, root: Path, hash_: str) -> Path:
        """Where a prefix is written."""
        return root / str(self.installs[hash_]["path"]).removeprefix(f"{RECORDED}/")


def an_edge(text: str) -> dict[str, Any]:
    name, _, types = text.partition(":")
    parameters = {"deptypes": types.split("+") if types else ["build", "link"], "virtuals": []}
    return {"name": name, "hash": a_hash(name), "parameters": parameters}
