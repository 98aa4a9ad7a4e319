"""What a spec needs, and what goes along with it: walks over the edges of the database.

An external is walked through: what it needs, whoever needs it needs, but it has no files that could be a layer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from uploader.sources.spack.database import DependencyType, Record

ALL: Final[frozenset[DependencyType]] = frozenset({"build", "link", "run", "test"})
WITHOUT_BUILD: Final[frozenset[DependencyType]] = frozenset({"link", "run", "test"})
RUN_TIME: Final[frozenset[DependencyType]] = frozenset({"link", "run"})
"""Whose layers an image names."""
LINK: Final[frozenset[DependencyType]] = frozenset({"link"})


def closure(records: Mapping[str, Record], roots: Iterable[Record], types: frozenset[DependencyType]) -> list[Record]:
    """The roots and all that goes along, breadth first, without externals. Hashes nobody recorded are passed over."""
    found = dict.fromkeys(root.hash for root in roots)
    todo = deque(found)
    while todo:
        for edge in records[todo.popleft()].edges:
            if edge.types & types and edge.hash in records and edge.hash not in found:
                found[edge.hash] = None
                todo.append(edge.hash)
    return [records[key] for key in found if not records[key].is_external]


def direct(records: Mapping[str, Record], record: Record, types: frozenset[DependencyType]) -> frozenset[str]:
    """The hashes of what a spec needs directly, or through externals only. One nobody recorded is among them: a gap."""
    found: set[str] = set()
    walked = {record.hash}
    todo = [record]
    while todo:
        for edge in todo.pop().edges:
            if not edge.types & types or edge.hash in walked:
                continue
            walked.add(edge.hash)
            needed = records.get(edge.hash)
            if needed is not None and needed.is_external:
                todo.append(needed)
            else:
                found.add(edge.hash)
    return frozenset(found)


def narrowed(records: Mapping[str, Record], types: frozenset[DependencyType]) -> dict[str, tuple[str, ...]]:
    """The recorded hashes that each spec needs for these purposes, by name: for walks that start from every spec."""
    return {
        key: tuple(edge.hash for edge in record.edges if edge.types & types and edge.hash in records)
        for key, record in records.items()
    }


def depth_first(children: Mapping[str, tuple[str, ...]], root: str) -> list[str]:
    """The root and all that is reached from it, each when it is met first."""
    found: dict[str, None] = {}
    stack = [root]
    while stack:
        key = stack.pop()
        if key not in found:
            found[key] = None
            stack.extend(reversed(children[key]))
    return list(found)


def breadth_first(children: Mapping[str, tuple[str, ...]], root: str) -> list[str]:
    """The root and all that is reached from it, the nearest first."""
    found = {root: None}
    todo = deque([root])
    while todo:
        for child in children[todo.popleft()]:
            if child not in found:
                found[child] = None
                todo.append(child)
    return list(found)


def dependents_first(children: Mapping[str, tuple[str, ...]], root: str) -> list[str]:
    """The root and all that is reached from it, each before what it needs: the reverse of the order of layers."""
    done: list[str] = []
    seen = {root}
    stack = [(root, iter(children[root]))]
    while stack:
        key, rest = stack[-1]
        for child in rest:
            if child not in seen:
                seen.add(child)
                stack.append((child, iter(children[child])))
                break
        else:
            done.append(key)
            stack.pop()
    return done[::-1]
