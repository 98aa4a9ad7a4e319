"""The index of a Spack build cache, the JSON document at the tag `index.spack`: what can be installed from there.

An index is a set of specs, each as a node of its graph, and the hashes of those that were pushed. All else in the
document (the order, the counts of dependents, externals and build dependencies that are only named) follows from these,
so that two indexes merge to the same bytes whichever comes first, and a rebuilt one equals a merged one.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from uploader.errors import InputError
from uploader.model.reference import Tag
from uploader.sources.spack.database import VERSIONS, edge_of
from uploader.sources.spack.naming import spack_tag
from uploader.sources.spack.package_format import SpackFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from uploader.model.package import PackageId
    from uploader.sources.base import Format
    from uploader.sources.spack.database import Database, DatabaseVersion

INDEX_TAG: Final = Tag("index.spack")

_OF_SPEC_VERSION: Final[Mapping[int, DatabaseVersion]] = MappingProxyType({4: "7", 5: "8"})
_REBUILD: Final = "`uploader index` makes it anew from the tags"


@dataclass(frozen=True, slots=True)
class Index:
    """Nodes by hash, and which of them are in the build cache; no more nodes than those and what they need."""

    version: DatabaseVersion
    nodes: Mapping[str, Mapping[str, Any]]
    pushed: frozenset[str]


def is_spec_tag(tag: str) -> bool:
    """Whether a spec may be at the tag, as far as its name tells."""
    return tag.endswith(".spack") and tag != INDEX_TAG


def parse_index(content: bytes) -> Index:
    """Read the document; raises InputError for one that is broken, or of a version that we do not know."""
    try:
        database = json.loads(content)["database"]
        version = str(database["version"])
        if version not in VERSIONS:
            raise InputError(f"index.spack: its version is {version[:20]}, and only {' and '.join(VERSIONS)} are known")
        installs = database["installs"]
        nodes = {key: _checked(key, entry["spec"]) for key, entry in installs.items()}
        pushed = frozenset(key for key, entry in installs.items() if entry.get("in_buildcache"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"index.spack: it is broken ({type(error).__name__}: {error}); {_REBUILD}") from error
    return _trimmed(version, nodes, pushed)


def index_bytes(index: Index) -> bytes:
    """The document. The specs are in the order of their tags, each behind all that it needs, as Spack writes them."""
    order = _order(index.nodes, index.pushed)
    dependents = Counter(edge.hash for key in order for edge in map(edge_of, index.nodes[key].get("dependencies", ())))
    installs = {
        key: {"spec": index.nodes[key], "ref_count": dependents[key], "in_buildcache": key in index.pushed}
        for key in order
    }
    return json.dumps({"database": {"version": index.version, "installs": installs}}, separators=(",", ":")).encode()


def merge_indexes(one: Index, other: Index) -> Index:
    """Both together, the same in whichever order; raises InputError where no Spack could read both in one document."""
    if one.version != other.version:
        raise InputError(
            f"index.spack: the one that is there has version {one.version}, the one to be merged {other.version}, and "
            "one Spack cannot read both: push what different generations of Spack installed to different repositories"
        )
    nodes = dict(one.nodes)
    for key, node in other.nodes.items():
        known = nodes.setdefault(key, node)
        if known != node:
            nodes[key] = min(known, node, key=_canonical)
    return Index(one.version, nodes, one.pushed | other.pushed)


def part_of(index: Index, pushed: frozenset[str]) -> Index | None:
    """What the index says of those specs that it lists; None if it lists none of them."""
    listed = index.pushed & pushed
    return _trimmed(index.version, index.nodes, listed) if listed else None


def index_of(database: Database, pushed: Iterable[str]) -> Index:
    """The index of what was pushed from one store."""
    records = database.records
    nodes = {key: record.spec for key, record in records.items()}
    return _trimmed(database.version, nodes, frozenset(pushed) & records.keys())


def index_of_formats(formats: Mapping[PackageId, Format], pushed: Iterable[PackageId]) -> Index | None:
    """The index of those of the packages `pushed` that came from Spack stores; None if none did.

    Raises InputError where the stores are of different generations.
    """
    stores: dict[int, tuple[Database, set[str]]] = {}
    for key in pushed:
        format_ = formats.get(key)
        if isinstance(format_, SpackFormat):
            stores.setdefault(id(format_.database), (format_.database, set()))[1].add(key)
    indexes = [index_of(database, keys) for database, keys in stores.values()]
    return reduce(merge_indexes, indexes) if indexes else None


def index_of_configs(
    configs: Mapping[str, bytes], version: DatabaseVersion | None = None
) -> tuple[Index | None, dict[str, str]]:
    """The index of what the configs at these tags describe, and by tag why some are passed over.

    Where different generations of Spack pushed to one repository, that of `version` counts, by default that with more
    tags, or else the newer one.
    """
    specs: dict[str, tuple[DatabaseVersion, list[Mapping[str, Any]]]] = {}
    skipped: dict[str, str] = {}
    for tag in sorted(configs):
        try:
            specs[tag] = _spec_of(configs[tag])
        except (ValueError, KeyError, TypeError, AttributeError, LookupError, RecursionError) as error:
            skipped[tag] = f"its config holds no spec ({type(error).__name__}: {error})"
    tally = Counter(found for found, _ in specs.values())
    most = max(VERSIONS, key=lambda candidate: (tally[candidate], candidate))
    here = version or most
    nodes: dict[str, Mapping[str, Any]] = {}
    pushed: set[str] = set()
    for tag, (other, found) in specs.items():
        if other != here:
            skipped[tag] = f"it was pushed by another generation of Spack (index version {other}, here {here})"
            continue
        pushed.add(found[0]["hash"])
        for node in found:
            nodes.setdefault(node["hash"], node)
    return (_trimmed(here, nodes, frozenset(pushed)) if pushed else None), skipped


def _spec_of(config: bytes) -> tuple[DatabaseVersion, list[Mapping[str, Any]]]:
    """The version of a config's spec, and its nodes, the spec's own first."""
    spec = json.loads(config)["spec"]
    nodes = [_checked(node["hash"], node) for node in spec["nodes"]]
    if not nodes:
        raise ValueError("no nodes")
    return _OF_SPEC_VERSION[spec["_meta"]["version"]], nodes


def _checked(key: str, node: Any) -> Mapping[str, Any]:
    """The node, if it has what we look at."""
    if not all(isinstance(node[name], str) for name in ("name", "version", "hash")) or node["hash"] != key:
        raise ValueError(f"the entry {key[:40]!r} is not a spec")
    for dependency in node.get("dependencies", ()):
        edge_of(dependency)
    return cast("Mapping[str, Any]", node)


def _trimmed(version: DatabaseVersion, nodes: Mapping[str, Mapping[str, Any]], pushed: frozenset[str]) -> Index:
    return Index(version, {key: nodes[key] for key in _order(nodes, pushed)}, pushed)


def _order(nodes: Mapping[str, Mapping[str, Any]], pushed: frozenset[str]) -> list[str]:
    """What was pushed by tag, each behind what it needs for whatever purpose, by name."""
    order: dict[str, None] = {}
    seen: set[str] = set()
    for key in sorted(pushed, key=lambda k: spack_tag(nodes[k]["name"], nodes[k]["version"], k)):
        stack = [] if key in seen else [(key, iter(_needs(nodes[key])))]
        seen.add(key)
        while stack:
            current, needs = stack[-1]
            for needed in needs:
                if needed in nodes and needed not in seen:
                    seen.add(needed)
                    stack.append((needed, iter(_needs(nodes[needed]))))
                    break
            else:
                order[current] = None
                stack.pop()
    return list(order)


def _needs(node: Mapping[str, Any]) -> list[str]:
    edges = sorted(map(edge_of, node.get("dependencies", ())), key=lambda edge: (edge.name, edge.hash))
    return [edge.hash for edge in edges]


def _canonical(node: Mapping[str, Any]) -> str:
    return json.dumps(node, sort_keys=True)
