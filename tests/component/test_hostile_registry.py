"""Registries that answer with anything at all: no traceback, no hang, no memory blow-up, a documented exit status."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.component.hostile import DEEP, WIDE, Ended, a_graph, carried_out, heal, push, says, verify
from uploader.model.digest import Digest
from uploader.oci.media_types import DOCKER_MANIFEST, MANIFESTS, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from uploader.testing import Answer, Bearer, FakeRegistry, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from uploader.testing import Kind

FINISHED: Final = {0, 1, 3}
DIGEST: Final = f"sha256:{'0' * 64}"
BODIES: Final = {
    "nothing": b"",
    "no JSON": b"<html>\x00\xff\x1b[31m</html>",
    "null": b"null",
    "a number": b"1e999",
    "a list": b"[]",
    "deep": DEEP.encode(),
    "wide": json.dumps({"tags": [WIDE], "token": WIDE, "errors": [{"code": WIDE, "message": WIDE}]}).encode(),
    "many": json.dumps({"errors": [{"code": "X", "message": "y"}] * 3000, "tags": ["t"] * 3000}).encode(),
    "wrong types": b'{"tags": {"a": 1}, "errors": {"code": 1}, "token": [1], "config": 1, "layers": 2}',
    "lone surrogates": b'{"tags": ["\\ud800"], "errors": [{"code": "\\ud800", "message": "\\udfff"}]}',
    "control characters": b'{"errors": [{"code": "\\u001b[2J", "message": "\\r\\nSet-Cookie: x\\u0000"}]}',
    "huge numbers": b'{"schemaVersion": 2, "expires_in": 1' + b"0" * 4000 + b', "token": "t"}',
}
KINDS: Final[tuple[Kind, ...]] = ("tags", "head-manifest", "open", "mount", "put-blob", "put-manifest", "token")


def answered(source: Path, *faults: Fault, auth: bool = False, name: str = "cache") -> Ended:
    """A push to a registry with these faults, twice: the second meets the tags and blobs of the first."""

    async def work() -> Ended:
        login = Bearer("nobody", anonymous=Bearer().grants) if auth else None
        async with FakeRegistry(faults=faults, auth=login) as registry:
            await push(source, registry.destination(name), jobs=2)
            return await push(source, registry.destination(name), jobs=2)

    return carried_out(work)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", KINDS)
def test_bodies(tmp_path: Path, kind: Kind, body: str) -> None:
    """As an answer of success, and as one of failure."""
    faults = [Fault(kind, Answer(status, body=BODIES[body]), times=1) for status in (200, 400, 500)]
    assert answered(a_graph(tmp_path), *faults, auth=kind == "token").status in FINISHED


@pytest.mark.parametrize("kind", ["open", "put-blob", "put-manifest", "head-manifest"])
@pytest.mark.parametrize("status", [204, 206, 304, 308, 409, 451, 599, 999])
def test_statuses(tmp_path: Path, kind: Kind, status: int) -> None:
    assert answered(a_graph(tmp_path), Fault(kind, Answer(status, body=b""), times=3)).status in FINISHED


LOCATIONS = [
    "",
    "/",
    "//",
    "///etc/passwd",
    "http://",
    "http:///upload",
    "http://[::1",
    "http://[fe80::1%25eth0]/upload",
    "http://a b/upload",
    "http://user:hidden@127.0.0.1/upload",
    "http://127.0.0.1:0/upload",
    "http://127.0.0.1:99999/upload",
    "http://127.0.0.1:-1/upload",
    "http://xn--/upload",
    "http://\u00e9.test/upload".encode().decode("latin-1"),
    "https://127.0.0.1:1/upload",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:text/plain,x",
    "../../../../v2/",
    "?",
    "#fragment",
    "%",
    "%zz%00",
    "/v2/cache/blobs/uploads/1?_state=" + "x" * 7000,
    "/v2/cache/blobs/uploads/\u00ff",
    "http://127.0.0.1:1/upload?digest=sha256:0&digest=sha256:1",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_locations(tmp_path: Path, location: str) -> None:
    ended = answered(a_graph(tmp_path), Fault("open", Answer(202, headers={"location": location}, body=b""), times=2))
    assert ended.status in FINISHED
    assert "hidden" not in ended.said
    assert "_state=x" not in ended.said


CHALLENGES = [
    "",
    "Bearer",
    "Bearer realm",
    "Bearer realm=",
    'Bearer realm=""',
    'Bearer realm="',
    'Bearer realm="\\',
    'Bearer realm="http://127.0.0.1:1/token',
    'Bearer realm="/token"',
    'Bearer realm="//127.0.0.1/token"',
    'Bearer realm="ftp://127.0.0.1/token"',
    'Bearer realm="http://[::1/token"',
    'Bearer realm="http://127.0.0.1:99999/token"',
    'Bearer realm="http://user:hidden@127.0.0.1/token"',
    'Bearer realm="https://127.0.0.1:1/token",scope="' + "x " * 3000 + '"',
    'Bearer service="s"',
    "Basic",
    'Basic realm="\u00e9"'.encode().decode("latin-1"),
    "Negotiate",
    "Negotiate YII=, Basic",
    "Digest realm=x, nonce=y, qop=auth",
    "Bearer " * 900,
    "," * 7000,
    "=" * 7000,
    '"' * 7000,
    "Bearer realm=a, realm=b, Bearer realm=c",
]


@pytest.mark.parametrize("challenge", CHALLENGES)
def test_challenges(tmp_path: Path, challenge: str) -> None:
    ended = answered(a_graph(tmp_path), Fault("any", Answer(401, headers={"www-authenticate": challenge}), times=4))
    assert ended.status in FINISHED
    assert "hidden" not in ended.said


HEADERS = [
    ("any", 503, "retry-after", value)
    for value in ("-1", "nan", "0x10", "soon", "Fri, 99 Foo 9999", "Thu, 01 Jan 1970 00:00:00 GMT", "1;2")
] + [
    *(("open", 202, "oci-chunk-min-length", value) for value in ("-1", "0", "x", "9" * 500, "1e9", "10000000000")),
    *(("head-manifest", 200, "docker-content-digest", value) for value in ("", "x", "sha256:", DIGEST, "md5:00")),
    *(("put-manifest", 201, "docker-content-digest", value) for value in ("x", DIGEST, "sha512:" + "0" * 128)),
    *(("tags", 200, "link", value) for value in ("<>", "<", '<//x>; rel="next"', '<?n=1>; rel="next"', "," * 5000)),
    *(("patch", 202, "range", value) for value in ("", "0-", "-1", "5-1", "0-99999999999999999999", "bytes=0-x")),
    *(("any", 200, "content-encoding", value) for value in ("gzip", "br", "x")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "status", "name", "value"), HEADERS)
def test_headers(tmp_path: Path, kind: Kind, status: int, name: str, value: str) -> None:
    fault = Fault(kind, Answer(status, headers={name: value}, body=b'{"tags": ["t"]}'), times=2)
    assert answered(a_graph(tmp_path), fault).status in FINISHED


def endless(piece: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.repeat(piece)


OK = b"HTTP/1.1 200 OK\r\n"
WIRE: dict[str, tuple[bytes, Callable[[], Iterator[bytes]] | None]] = {
    "nothing": (b"", None),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", None),
    "a status that is none": (b"HTTP/1.1 abc\r\n\r\n", None),
    "a status of six digits": (b"HTTP/1.1 200000 OK\r\n\r\n", None),
    "HTTP/9": (b"HTTP/9.9 200 OK\r\n\r\n", None),
    "only the beginning": (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n123", None),
    "a length below zero": (OK + b"content-length: -5\r\n\r\nabc", None),
    "two lengths": (OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", None),
    "a length of many digits": (OK + b"content-length: " + b"9" * 400 + b"\r\n\r\nabc", None),
    "a chunk without a size": (OK + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n", None),
    "a chunk of many digits": (OK + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 400 + b"\r\n", None),
    "length and chunks": (OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", None),
    "a header without end": (OK + b"x: ", endless(b"y" * 65536)),
    "headers without end": (OK, endless(b"x: y\r\n" * 10_000)),
    "chunks without end": (OK + b"transfer-encoding: chunked\r\n\r\n", endless(b"ffff\r\n" + b"0" * 65535 + b"\r\n")),
    "a body without end": (OK + b"\r\n", endless(b"0" * 65536)),
    "a refusal without end": (b"HTTP/1.1 403 No\r\n\r\n", endless(b"0" * 65536)),
    "a zip bomb": (OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(bytes(50_000_000)), None),
    "100 again and again": (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, None),
    "a header with a line break": (OK + b"x: y\r\n z\r\ncontent-length: 0\r\n\r\n", None),
    "a header with a zero": (OK + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n", None),
    "an upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n\x81\x00", None),
}


@pytest.mark.parametrize("case", WIRE)
def test_anything_on_the_wire(tmp_path: Path, case: str) -> None:
    source = a_graph(tmp_path)

    async def work() -> Ended:
        async with says(*WIRE[case]) as host:
            return await push(source, f"oci+http://{host}/cache", jobs=2)

    assert carried_out(work).status in {1, 3}


def named(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


LAYER: Final = b"a layer"
MANY: Final = range(9999)
CONFIGS: dict[str, bytes] = {
    **{name: body for name, body in BODIES.items() if name not in {"many"}},
    "diff_ids of wrong types": b'{"rootfs": {"diff_ids": [1, null, {}]}}',
    "diff_ids that are none": b'{"rootfs": {"diff_ids": "sha256"}}',
    "no rootfs": b'{"rootfs": []}',
    "labels of wrong types": b'{"config": {"Labels": ["dev.uploader.id"]}, "rootfs": {"diff_ids": []}}',
    "gaps of wrong types": b'{"config": {"Labels": {"dev.uploader.id": "app", "dev.uploader.missing": 7}}}',
    "a Spack config without specs": b'{"buildcache_layout_version": 2, "spec": 1}',
}
ODD: dict[str, object] = {
    "no config": {"layers": []},
    "no layers": {"config": named(b"{}", OCI_CONFIG)},
    "layers of wrong types": {"config": named(b"{}", OCI_CONFIG), "layers": [1, None, "x"]},
    "a size below zero": {"config": {"mediaType": "x", "digest": DIGEST, "size": -1}, "layers": []},
    "a size of many digits": {"config": {"mediaType": "x", "digest": DIGEST, "size": 10**30}, "layers": []},
    "a size that is true": {"config": {"mediaType": "x", "digest": DIGEST, "size": True}, "layers": []},
    "a digest of an unknown kind": {"config": {"mediaType": "x", "digest": "md5:00", "size": 2}, "layers": []},
    "annotations of wrong types": {"config": named(b"{}", OCI_CONFIG), "layers": [], "annotations": [1]},
    "ten thousand layers": {"config": named(b"{}", OCI_CONFIG), "layers": [named(LAYER, OCI_LAYER)] * 10_000},
    "an index of itself": {
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_INDEX, "digest": DIGEST, "size": 1}],
    },
    "an index of wrong types": {"mediaType": OCI_INDEX, "manifests": {"a": 1}},
    "gaps without end": {
        "config": named(b"{}", OCI_CONFIG),
        "layers": [named(LAYER, OCI_LAYER)],
        "annotations": {
            "dev.uploader.id": "app",
            "dev.uploader.missing": json.dumps(
                [{"id": "x", "tag": None, "why": "failed", "index": n} for n in range(9999)]
            ),
        },
    },
    "gaps at wrong places": {
        "config": named(b"{}", OCI_CONFIG),
        "layers": [named(LAYER, OCI_LAYER)],
        "annotations": {
            "dev.uploader.id": "app",
            "dev.uploader.missing": json.dumps(
                [{"id": "x", "tag": "../..", "why": "failed", "index": n} for n in (-1, 10**30, True)]
            ),
        },
    },
    "gaps that are no JSON": {
        "config": named(b"{}", OCI_CONFIG),
        "layers": [],
        "annotations": {"dev.uploader.id": "app", "dev.uploader.missing": DEEP},
    },
}


def everything_about(source: Path, content: bytes, media_type: str, *blobs: bytes) -> list[Ended]:
    """Verify, push over it, heal: of a repository whose tag `app` points at this."""

    async def work(command: str) -> Ended:
        async with FakeRegistry() as registry:
            repository = registry.repository("cache")
            for blob in (*blobs, LAYER, b"{}"):
                repository.add_blob(blob)
            repository.add_manifest(content, "app", media_type=media_type)
            to = registry.destination("cache")
            match command:
                case "verify":
                    return await verify(to)
                case "heal":
                    return await heal(source, to)
                case _:
                    return await push(source, to)

    async def all_of_it() -> Ended:
        ended.extend([await work(command) for command in ("verify", "push", "heal")])
        return ended[0]

    ended: list[Ended] = []
    carried_out(all_of_it)
    return ended


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": named(config, OCI_CONFIG),
        "layers": [named(LAYER, OCI_LAYER)],
        "annotations": {"dev.uploader.id": "app"},
    }
    for ended in everything_about(a_graph(tmp_path), json.dumps(document).encode(), OCI_MANIFEST, config):
        assert ended.status in FINISHED


@pytest.mark.parametrize("name", [*BODIES, *ODD])
def test_manifests(tmp_path: Path, name: str) -> None:
    content = BODIES[name] if name in BODIES else json.dumps({"schemaVersion": 2, **ODD[name]}).encode()  # type: ignore[dict-item]
    for ended in everything_about(a_graph(tmp_path), content, OCI_MANIFEST):
        assert ended.status in FINISHED


@pytest.mark.parametrize("media_type", [*MANIFESTS, DOCKER_MANIFEST])
def test_media_types_that_do_not_fit(tmp_path: Path, media_type: str) -> None:
    content = json.dumps({"schemaVersion": 2, "mediaType": "text/html", "manifests": [], "layers": []}).encode()
    for ended in everything_about(a_graph(tmp_path), content, media_type):
        assert ended.status in FINISHED
