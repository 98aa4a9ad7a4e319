"""Whether a package may be given to others, as the recipe says that the store keeps beside it.

The recipe is parsed, never run. Where it says `redistribute(binary=False)` under a condition (`when=`), or something
that only running it could tell, it counts as said: what was left out can still be pushed with `--private`, what was
given away cannot be taken back.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from uploader.sources.base import OpenFile, open_any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_DIRECTIVE: Final = "redistribute"
_DEEPEST: Final = 5  # folders below `repos`: spack_repo, a namespace of a few parts
_LARGEST_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """`note` is what a user should know of how it was reached; empty where the recipe says it plainly."""

    may_be_given: bool
    note: str = ""


_PLAIN: Final = Verdict(may_be_given=True)


def judge_recipes(prefix: Path, name: str, open_file: OpenFile = open_any) -> Verdict:
    """What the recorded recipes of package `name` say; where there are several, the strictest."""
    verdicts = [_judge_file(path, open_file) for path in _recipes(prefix / ".spack" / "repos", name)]
    return _strictest(verdicts)


def judge_recipe(source: bytes) -> Verdict:
    """What one recipe says."""
    if _DIRECTIVE.encode() not in source:  # spares parsing nearly all of them
        return _PLAIN
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on escapes like "\d", which are the recipe's affair
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
        return Verdict(
            may_be_given=False,
            note=f"its recipe mentions {_DIRECTIVE}, but cannot be parsed ({reason}), so it is taken for private",
        )
    verdicts = [_judge_call(call, in_block) for call, in_block in _calls(tree)]
    return _strictest(verdicts)


def _strictest(verdicts: Sequence[Verdict]) -> Verdict:
    """A plain no, then a no with a reason, then a yes with one."""
    return min(verdicts, key=lambda v: (v.may_be_given, bool(v.note) != v.may_be_given), default=_PLAIN)


def _judge_file(path: Path, open_file: OpenFile) -> Verdict:
    try:
        with open_file(path) as stream:
            source = stream.read(_LARGEST_BYTES)
    except OSError as error:
        return Verdict(may_be_given=True, note=f"its recipe cannot be read ({error.strerror}), so it is given")
    return judge_recipe(source)


def _recipes(repos: Path, name: str) -> Iterator[Path]:
    """`NAMESPACE/packages/NAME/package.py`, where the namespace may be several folders. Others are there too."""
    module = name.replace("-", "_")
    folders = {name, module, f"_{module}"}  # the latter two in newer repositories, whose folders are Python modules
    level = [repos]
    for _ in range(_DEEPEST):
        children: list[Path] = []
        for folder in level:
            packages = folder / "packages"
            if packages.is_dir():
                yield from (path for other in sorted(folders) if (path := packages / other / "package.py").is_file())
            else:
                children += _subfolders(folder)
        level = children


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.is_symlink())
    except OSError:
        return []


def _calls(tree: ast.AST) -> Iterator[tuple[ast.Call, bool]]:
    """Every call of the directive, and whether it stands in a `with` or `if`."""
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, in_block = todo.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == _DIRECTIVE:
            yield node, in_block
        in_block = in_block or isinstance(node, ast.With | ast.If | ast.For | ast.IfExp)
        todo.extend((child, in_block) for child in ast.iter_child_nodes(node))


def _judge_call(call: ast.Call, in_block: bool) -> Verdict:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    binary = given.get("binary", call.args[1] if len(call.args) > 1 else None)
    match binary:
        case None if None not in given:
            return _PLAIN
        case ast.Constant(value=None) | ast.Constant(value=True):
            return _PLAIN
        case ast.Constant(value=False) if "when" not in given and not in_block:
            return Verdict(may_be_given=False)
        case ast.Constant(value=False):
            when = given.get("when")
            condition = f"when={ast.unparse(when)}" if when is not None else "in a block"
            note = f"its recipe keeps its binaries back under a condition ({condition}), which is taken as met"
            return Verdict(may_be_given=False, note=note)
        case _:
            note = f"only running its recipe could tell ({ast.unparse(call)}), so it is taken for private"
            return Verdict(may_be_given=False, note=note)
