"""The servers that are pushed to, all on loopback, all stopped at the end of a `with` block."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import Run, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

_SOURCE: Final = Path(__file__).with_name("nullreg.c")
_THREADS: Final = 2
_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 5.0
_PORT: Final = re.compile("^([0-9]+)\n")
_LISTENING: Final = re.compile(r"listening on (127\.0\.0\.1:[0-9]+)")
_TMPFS: Final = Path("/dev/shm")  # noqa: S108 - memory is what we want


class Missing(Exception):  # noqa: N818 - a reason to leave something out
    """A program that a part of the suite needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: `host` is HOST:PORT, `ca_file` vouches for it (then it speaks TLS).

    `counts` gives what it has seen since it was started or reset, as far as it counts.
    """

    host: str
    counts: Callable[[], Run]
    ca_file: Path | None = None


def require(program: str) -> str:
    """The program's path; raises Missing."""
    path = shutil.which(program)
    if path is None:
        raise Missing(f"{program} is not installed")
    return path


@contextmanager
def null_sink(folder: Path) -> Iterator[Server]:
    """`nullreg.c`, compiled below `folder`, with its counts at nought."""
    program = _compiled(folder)
    with _running([str(program), str(_THREADS)], folder) as output:
        host = f"127.0.0.1:{_awaited(output, _PORT)}"
        _get(host, "/reset")
        yield Server(host, lambda: _counts(host))


@contextmanager
def registry(folder: Path, certificates: Path | None = None) -> Iterator[Server]:
    """Debian's docker-registry, empty, with its content on a tmpfs; by TLS with `certificates`."""
    program = require("docker-registry")
    content = Path(tempfile.mkdtemp(prefix="uploader-bench-", dir=_TMPFS if _TMPFS.is_dir() else None))
    configuration: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(content)},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": "127.0.0.1:0", "secret": "shared by no other replica"},
    }
    authority = None
    if certificates is not None:
        authority = certificates / "ca.pem"
        configuration["http"]["tls"] = {"certificate": str(authority), "key": str(certificates / "ca.key")}
    path = folder / "registry.yml"
    path.write_text(json.dumps(configuration))  # JSON is YAML
    try:
        with _running([program, "serve", str(path)], folder) as output:
            yield Server(_awaited(output, _LISTENING), lambda: {}, authority)
    finally:
        shutil.rmtree(content, ignore_errors=True)


@contextmanager
def behind(start: Callable[[], AbstractContextManager[Server]], folder: Path, *flags: str) -> Iterator[Server]:
    """Another server behind `front.py`: later, by `--delay SECONDS`, or with TLS, by `--tls FOLDER`."""
    with start() as server, _running(python("benchmarks.front", server.host, *flags), folder, "front") as output:
        host = f"127.0.0.1:{_awaited(output, _PORT)}"
        yield Server(host, server.counts, Path(flags[1]) / "ca.pem" if "--tls" in flags else None)


def make_certificates(folder: Path) -> Path:
    """An authority (`ca.pem`) that vouches for itself as 127.0.0.1; raises Missing."""
    program = require("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    names = ("-subj", "/CN=benchmarks", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.pem"))
    subprocess.run([program, "req", "-x509", *key, *names, *files], check=True, capture_output=True)
    return folder


def _compiled(folder: Path) -> Path:
    compiler = require("gcc")
    program = folder / "nullreg"
    if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
        subprocess.run([compiler, "-O2", "-o", str(program), str(_SOURCE), "-lpthread"], check=True)
    return program


@contextmanager
def _running(command: Sequence[str], folder: Path, name: str = "server") -> Iterator[Path]:
    """Run a server until the block ends; gives the file with what it says."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _awaited(output: Path, pattern: re.Pattern[str]) -> str:
    """What a server says once it is ready."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        text = output.read_text(errors="replace")
        if match := pattern.search(text):
            return match[1]
        time.sleep(0.005)
    raise Missing(f"the server did not start: {text[-500:]}")


def _counts(host: str) -> Run:
    counted: dict[str, float] = json.loads(_get(host, "/stats"))
    return {name: counted[name] for name in ("requests", "connections", "bytes")}


def _get(host: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()
