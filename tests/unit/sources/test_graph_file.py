from __future__ import annotations

import gc
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.errors import InputError
from uploader.model.digest import Digest
from uploader.model.package import Blob, Package, PackageId, Platform, Tree
from uploader.model.reference import Tag, parse_tag
from uploader.sources.graph_file import GraphFile, graph_schema
from uploader.sources.graph_format import PackageEntry, checked

if TYPE_CHECKING:
    from uploader.sources.base import Loaded

SHA = "sha256:" + "ab" * 32
HEADER: dict[str, Any] = {"schema": "uploader/graph/v1"}
ZLIB: dict[str, Any] = {"id": "zlib-5xk2", "name": "zlib", "version": "1.3", "blob": {"path": "zlib.tar.gz"}}
FULL: dict[str, Any] = {
    "id": "curl-9aa1", "name": "curl", "version": "8.9", "tag": "curl", "prefix": "store/curl", "at": "/opt/curl",
    "dependencies": ["zlib-5xk2", "gone", "zlib-5xk2"], "env": {"A": "b=c"}, "annotations": {"x.y": "two\nlines"},
    "config": {"z": [1, {"ü": None}], "a": 1.5}, "push": False, "platform": {"os": "linux", "architecture": "arm64"},
}  # fmt: skip


def document(*packages: object, **header: object) -> bytes:
    return json.dumps({**HEADER, **header, "packages": packages}).encode()


def read(content: bytes, **limits: Any) -> Loaded:
    return GraphFile(None, **limits).read(io.BytesIO(content), "g.json", Path("/graphs"))


def refusal(content: bytes, **limits: Any) -> str:
    """What the user is told; always one line."""
    with pytest.raises(InputError) as caught:
        read(content, **limits)
    assert str(caught.value).isprintable()
    return str(caught.value)


def zlib(**changes: object) -> dict[str, Any]:
    return {key: value for key, value in {**ZLIB, **changes}.items() if value is not ...}


def refusal_of(**changes: object) -> str:
    return refusal(document(zlib(**changes)))


# --- what is read


def test_a_small_package_gets_the_defaults() -> None:
    (package,) = read(document(ZLIB)).packages
    expected = Package(
        id=PackageId("zlib-5xk2"),
        name="zlib",
        version="1.3",
        tag=Tag("zlib-1.3-zlib-5xk2"),
        content=Blob(Path("/graphs/zlib.tar.gz")),
    )
    assert package == expected
    assert package.platform == Platform("linux", "amd64")


def test_every_key_arrives() -> None:
    (package,) = read(document(FULL)).packages
    assert package == Package(
        id=PackageId("curl-9aa1"),
        name="curl",
        version="8.9",
        tag=Tag("curl"),
        content=Tree(Path("/graphs/store/curl"), "/opt/curl"),
        dependencies=(PackageId("gone"), PackageId("zlib-5xk2")),
        platform=Platform("linux", "arm64"),
        env={"A": "b=c"},
        annotations={"x.y": "two\nlines"},
        config='{"z":[1,{"ü":null}],"a":1.5}',
        absence="not-redistributable",
    )


def test_everything_about_a_blob_arrives() -> None:
    media_type = "application/vnd.oci.image.layer.v1.tar+zstd"
    blob = {"path": "/b", "digest": SHA, "size": 3, "media_type": media_type, "diff_id": SHA}
    (package,) = read(document(zlib(blob=blob))).packages
    assert package.content == Blob(Path("/b"), Digest.parse(SHA), 3, media_type, Digest.parse(SHA))


def test_a_prefix_lies_at_its_own_absolute_path() -> None:
    (package,) = read(document(zlib(blob=..., prefix="../store/zlib"))).packages
    assert package.content == Tree(Path("/graphs/../store/zlib"), "/store/zlib")


def test_the_graphs_platform_is_the_packages_default() -> None:
    arm = {"os": "linux", "architecture": "arm", "variant": "v7"}
    loaded = read(document(ZLIB, FULL, platform=arm))
    assert [p.platform for p in loaded.packages] == [Platform("linux", "arm", "v7"), Platform("linux", "arm64")]


def test_a_package_that_is_not_pushed_needs_no_content() -> None:
    (package,) = read(document(zlib(blob=..., push=False))).packages
    assert (package.content, package.absence) == (None, "not-redistributable")


def test_null_is_as_good_as_left_out() -> None:
    assert read(document(zlib(tag=None, prefix=None, at=None, platform=None))) == read(document(ZLIB))


def test_only_made_tags_may_be_changed_later() -> None:
    assert read(document(ZLIB, FULL)).made_tags == {"zlib-5xk2"}


def test_json_lines_say_the_same_as_json() -> None:
    lines = b"\n".join(json.dumps(part).encode() for part in (HEADER, ZLIB, FULL))
    assert read(lines) == read(document(ZLIB, FULL)) == read(lines.replace(b"\n", b"\r\n\n") + b"\n\n")


@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_told_from_json_lines_by_content(indent: int | None) -> None:
    content = json.dumps({**HEADER, "packages": [ZLIB]}, indent=indent).encode() + b"\n"
    assert read(content) == read(document(ZLIB))


def test_a_byte_order_mark_is_ignored() -> None:
    assert read(b"\xef\xbb\xbf" + document(ZLIB)) == read(document(ZLIB))
    assert read(b"\xef\xbb\xbf" + b'{"schema":"uploader/graph/v1"}\n' + json.dumps(ZLIB).encode()).packages


def test_paths_are_relative_to_the_graph_file(tmp_path: Path) -> None:
    path = tmp_path / "graph.jsonl"
    path.write_bytes(json.dumps(HEADER).encode() + b"\n" + json.dumps(ZLIB).encode())
    loaded = GraphFile(path).load()
    assert loaded.source == str(path)
    assert loaded.packages[0].content == Blob(tmp_path / "zlib.tar.gz")


def test_standard_input_is_relative_to_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document(ZLIB))))
    loaded = GraphFile(None).load()
    assert loaded.packages[0].content == Blob(Path.cwd() / "zlib.tar.gz")


# --- what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "g.json: empty"),
        (b'{"schema":\n  }', "not JSON: Expecting value at line 2, column 3"),
        (b"\xff\xfe{", "not UTF-8: byte 0xff at offset 0"),
        (b"[]", "the document is a list: expected an object"),
        (b'{"schema": NaN}', "NaN is not a number"),
        (b'{"schema": -Infinity}', "-Infinity is not a number"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"packages": []}', '"schema" is missing: expected "uploader/graph/v1"'),
        (b'{"schema": "uploader/graph/v9", "new": 1}', "\"schema\" is 'uploader/graph/v9'"),
        (b'{"schema": "uploader/graph/v1"}', '"packages" is missing'),
        (b'{"schema": "uploader/graph/v1", "packages": {}}', '"packages" is an object'),
        (b'{"schema": "uploader/graph/v1", "packages": []}', "no packages"),
        (b'{"schema": "uploader/graph/v1", "packages": [7]}', "packages[0]: it is 7: expected an object"),
        (b'{"schema": "uploader/graph/v1", "pakages": []}', "unknown key \"pakages\": did you mean 'packages'?"),
        (b'{"schema": 1, "schema": "uploader/graph/v1"}', "the key 'schema' is there twice"),
    ],
)
def test_a_broken_document_is_refused(content: bytes, message: str) -> None:
    assert message in refusal(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nmae": "x"}, "unknown key \"nmae\": did you mean 'name'?"),
        ({"blob": {"path": "x", "digset": SHA}}, "unknown key \"blob.digset\": did you mean 'digest'?"),
        ({"platform": {"os": "linux", "arch": "x"}}, 'unknown key "platform.arch"'),
        ({"name": ...}, '"name" is missing: expected the package\'s name'),
        ({"name": 3}, '"name" is 3: expected the package\'s name'),
        ({"name": ""}, "\"name\" is ''"),
        ({"name": "\ud800"}, "\"name\" is '\\ud800'"),
        ({"name": 10**400}, '"name" is a huge number'),
        ({"version": "1\n"}, "\"version\" is '1\\n'"),
        ({"tag": "a b"}, "\"tag\" is 'a b': expected the tag in the repository: 1 to 128 letters"),
        ({"blob": {"path": "x", "digest": "sha256:AB"}}, "\"blob.digest\" is 'sha256:AB'"),
        ({"blob": {"path": "x", "diff_id": "md5:ab"}}, "\"blob.diff_id\" is 'md5:ab'"),
        ({"blob": {"path": "x", "size": -1}}, '"blob.size" is -1'),
        ({"blob": {"path": "x", "size": 1.0}}, '"blob.size" is 1.0'),
        ({"blob": {"path": "x", "size": True}}, '"blob.size" is true'),
        ({"blob": {"path": "x", "media_type": "text/css"}}, "'text/css' is not the media type of a tar layer"),
        ({"blob": {"path": ""}}, "\"blob.path\" is ''"),
        ({"blob": {"path": "a\0"}}, "\"blob.path\" is 'a\\x00'"),
        ({"blob": "x"}, "\"blob\" is 'x': expected the package's content as a ready layer, an object"),
        ({"blob": ..., "prefix": "a\0"}, "\"prefix\" is 'a\\x00'"),
        ({"blob": ...}, 'neither "blob" nor "prefix" is given'),
        ({"prefix": "x"}, 'both "blob" and "prefix" are given'),
        ({"at": "/x"}, '"at" is given without "prefix"'),
        ({"dependencies": ["a", 3]}, '"dependencies[1]" is 3: expected a list of the ids'),
        ({"dependencies": ["a", ""]}, "\"dependencies[1]\" is ''"),
        ({"dependencies": "a"}, "\"dependencies\" is 'a'"),
        ({"env": {"A=B": "x"}}, "'A=B'"),
        ({"env": {"A\0": "x"}}, "'A\\x00'"),
        ({"env": {"": "x"}}, "\"env.''\""),
        ({"env": {"A": "\0"}}, "\"env.A\" is '\\x00'"),
        ({"env": {"A": 1}}, '"env.A" is 1'),
        ({"annotations": {"A": 1}}, '"annotations.A" is 1'),
        ({"annotations": {"": "x"}}, "\"annotations.''\""),
        ({"annotations": {"dev.uploader.id": "x"}}, "'dev.uploader.id' is set by the push itself"),
        ({"config": []}, '"config" is a list'),
        ({"config": {"x": ["\udc80"]}}, "\"config\" holds half a character: '\\udc80'"),
        ({"push": 0}, '"push" is 0'),
        ({"platform": "linux"}, "\"platform\" is 'linux'"),
        ({"platform": {"os": "linux"}}, '"platform.architecture" is missing'),
        ({"platform": {"os": "li nux", "architecture": "x"}}, "\"platform.os\" is 'li nux'"),
    ],
)
def test_a_broken_package_is_refused_by_name_and_key(changes: dict[str, Any], message: str) -> None:
    told = refusal_of(**changes)
    assert told.startswith("g.json: packages[0] (package 'zlib-5xk2'): ")
    assert message in told


@pytest.mark.parametrize("bad", ["", "a\nb", "a\x7f", "\x9b", "\u2028", "x" * 1025])
def test_an_id_is_a_line(bad: str) -> None:
    assert '"id" is ' in refusal_of(id=bad)


@pytest.mark.parametrize("bad", ["opt", "/opt/", "/a/../b", "/a/./b", "//a", "/a//b", "/.."])
def test_at_is_an_absolute_normal_path(bad: str) -> None:
    assert f"{bad!r} is not an absolute path" in refusal_of(blob=..., prefix="x", at=bad)


@pytest.mark.parametrize(
    "key", ["architecture", "os", "rootfs", "config", "created", "history", "RootFS", "hi\u017ftory"]
)
def test_config_may_not_set_what_the_push_sets(key: str) -> None:
    assert "is set by the push itself" in refusal_of(config={key: {}})


def test_config_is_not_nested_absurdly() -> None:
    def nested(depth: int) -> object:
        return json.loads("[" * depth + "]" * depth)

    assert read(document(zlib(config={"a": nested(63), "b": [[]] * 100}))).packages
    for depth in (64, 800):
        assert "nested deeper than 64 levels" in refusal_of(config={"a": nested(depth)})


def test_config_numbers_fit_a_double() -> None:
    assert "too large" in refusal(document(zlib(config={"a": 7})).replace(b"7", b"1e999"))


def test_a_doubled_key_is_refused_with_its_package() -> None:
    content = document(ZLIB, zlib(id="b", config={"x": [{"A": "1", "B": "2"}]})).replace(b'"B"', b'"A"')
    assert refusal(content) == "g.json: packages[1] (package 'b'): the key 'A' is there twice in one object"


def test_a_doubled_id_is_refused() -> None:
    told = refusal(document(ZLIB, FULL, ZLIB))
    assert told == "g.json: packages[2] (package 'zlib-5xk2'): a package before it has the same id"


def test_a_tag_given_twice_is_refused() -> None:
    told = refusal(document(zlib(tag="t"), zlib(id="b", tag="t")))
    assert "packages[1] (package 'b'): \"tag\" is 't', which package 'zlib-5xk2' has too" in told


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, ZLIB, "", {**ZLIB, "q": 1}], "g.json, line 4 (package 'zlib-5xk2'): unknown key \"q\""),
        ([HEADER, ZLIB, ZLIB], "g.json, line 3 (package 'zlib-5xk2'): a package before it has the same id"),
        ([HEADER, "{x}"], "g.json, line 2: not JSON: Expecting property name enclosed in double quotes at line 2"),
        ([HEADER, '{"id":"x","id":"y"}'], "g.json, line 2 (package 'y'): the key 'id' is there twice"),
        ([HEADER, ""], "g.json: the graph has no packages"),
        ([{**HEADER, "platform": 1}, ZLIB], 'g.json, line 1: "platform" is 1'),
        ([HEADER, zlib(name="x" * 600)], "g.json, line 2: longer than 500 bytes"),
    ],
)
def test_broken_json_lines_are_refused_by_line(lines: list[object], message: str) -> None:
    content = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    told = refusal(content.encode(), line_bytes=500)
    assert message in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "line 1 is empty"),
        (document(ZLIB), 'line 1: "packages" is given: in JSON Lines each has its own line'),
        (json.dumps(HEADER).encode(), "the graph has no packages"),
    ],
)
def test_a_file_named_jsonl_is_json_lines(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "g.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        GraphFile(path).load()


def test_a_document_that_is_too_long_is_refused() -> None:
    content = document(ZLIB)
    assert read(content, document_bytes=len(content)).packages
    assert "longer than" in refusal(content, document_bytes=len(content) - 1)


def test_lines_are_never_read_past_their_limit() -> None:
    class Endless(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            assert size == 101
            return super().readline(size)

    content = json.dumps(HEADER).encode() + b"\n" + b"[" * 1000
    with pytest.raises(InputError, match="line 2: longer than 100 bytes"):
        GraphFile(None, line_bytes=100).read(Endless(content), "g.json", Path())


def test_the_garbage_collector_runs_again_after_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        GraphFile(tmp_path / "missing").load()
    assert gc.isenabled()


@pytest.mark.parametrize("path", ["", "missing.json", "x" * 300])
def test_a_file_that_cannot_be_read_is_an_input_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="read graph file"):
        GraphFile(tmp_path / path).load()


# --- the format's description


def test_every_key_is_described() -> None:
    schema = graph_schema()
    objects = [schema, *schema["$defs"].values()]
    undescribed = [k for o in objects for k, v in o["properties"].items() if not v.get("description")]
    assert undescribed == []
    assert {"schema", "platform", "packages"} == set(schema["properties"])


@given(st.from_regex(r"[a-zA-Z0-9_.\-]{0,130}", fullmatch=True) | st.text(max_size=4))
@example("a" * 128)
@example("a\n")
def test_the_format_allows_the_tags_that_are_tags(text: str) -> None:
    def accepts(check: object, *arguments: object) -> bool:
        try:
            check(*arguments)  # type: ignore[operator]
        except InputError:
            return False
        return True

    assert accepts(checked, PackageEntry, {**ZLIB, "tag": text}) == accepts(parse_tag, text)
