"""The local record: what it keeps, when it must not be trusted, and that it never fails anybody."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.model.descriptor import Descriptor, Layer
from uploader.model.digest import Digest
from uploader.model.reference import Tag
from uploader.oci.media_types import OCI_LAYER_GZIP
from uploader.record import FileState, Json, NoRecord, Record, RecordedManifest, RecordedSession, TreeKey, TreeState

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000_000
DAY = 24 * 3600.0
REPOSITORY, OTHER = "oci://registry.example/org/cache", "oci://registry.example/org/other"
ZLIB, CURL = Tag("zlib-1.3.1"), Tag("curl-8.9.0")
FILE = Path("/store/zlib.tar.gz")
STATE = FileState(size=7, mtime_ns=1, ctime_ns=2, inode=3, device=4, measured_ns=100 * SECOND)
LAYER = Layer(Descriptor(OCI_LAYER_GZIP, Digest.of(b"layer"), 5), Digest.of(b"tar"))
TREE = TreeKey(root="/store/zlib", at="/opt/zlib", codec="gzip", level=6, library="isal 1.7")
TREE_STATE = TreeState(fingerprint="f1", newest_ns=1, measured_ns=100 * SECOND)
MANIFEST = RecordedManifest(Digest.of(b"manifest"), LAYER.descriptor.digest)


def fill(record: Record) -> None:
    record.remember_file(FILE, STATE, LAYER)
    record.remember_tree(TREE, TREE_STATE, LAYER)
    record.remember_blob(REPOSITORY, LAYER.descriptor.digest, 5)
    record.remember_manifest(REPOSITORY, ZLIB, MANIFEST)
    record.remember_fact("registry.example", "ceiling", 12.5)


def known(record: Record) -> list[object]:
    return [
        record.layer_of_file(FILE, STATE),
        record.layer_of_tree(TREE, TREE_STATE),
        record.has_blob(REPOSITORY, LAYER.descriptor.digest),
        record.manifest(REPOSITORY, ZLIB),
        record.fact("registry.example", "ceiling"),
    ]


ALL: list[object] = [LAYER, LAYER, True, MANIFEST, 12.5]
NOTHING: list[object] = [None, None, False, None, None]


def test_what_was_recorded_is_known_to_the_next(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        assert known(record) == NOTHING
        fill(record)
        assert known(record) == ALL
    with Record(tmp_path / "record") as record:
        assert known(record) == ALL
        assert record.problem is None


def test_what_is_recorded_again_is_replaced(tmp_path: Path) -> None:
    newer = replace(LAYER, diff_id=Digest.of(b"newer"))
    with Record(tmp_path / "record") as record:
        fill(record)
        record.remember_file(FILE, STATE, newer)
        record.remember_tree(TREE, TREE_STATE, newer)
        assert record.layer_of_file(FILE, STATE) == newer
        assert record.layer_of_tree(TREE, TREE_STATE) == newer


def test_no_record_keeps_nothing() -> None:
    with NoRecord() as record:
        fill(record)
        record.forget_blobs(REPOSITORY, [LAYER.descriptor.digest])
        record.forget_repository(REPOSITORY)
        assert known(record) == NOTHING
        assert record.problem is None


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "inode", "device"])
def test_a_file_in_another_state_is_unknown(tmp_path: Path, field: str) -> None:
    with Record(tmp_path / "record") as record:
        record.remember_file(FILE, STATE, LAYER)
        assert record.layer_of_file(FILE, replace(STATE, measured_ns=200 * SECOND)) == LAYER
        assert record.layer_of_file(FILE, replace(STATE, **{field: 99})) is None


@pytest.mark.parametrize("field", ["root", "at", "codec", "level", "library"])
def test_a_tree_packed_another_way_is_unknown(tmp_path: Path, field: str) -> None:
    with Record(tmp_path / "record") as record:
        record.remember_tree(TREE, TREE_STATE, LAYER)
        other: dict[str, Any] = {field: 9 if field == "level" else "other"}
        assert record.layer_of_tree(replace(TREE, **other), TREE_STATE) is None
        assert record.layer_of_tree(TREE, replace(TREE_STATE, fingerprint="f2")) is None


def test_the_state_is_what_stat_says(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234567")
    os.utime(tmp_path / "file", ns=(1, 5 * SECOND + 1))
    stat = (tmp_path / "file").stat()
    state = FileState.of(stat, 42)
    assert (state.size, state.mtime_ns, state.measured_ns) == (7, 5 * SECOND + 1, 42)
    assert (state.ctime_ns, state.inode, state.device) == (stat.st_ctime_ns, stat.st_ino, stat.st_dev)


def test_no_file_system_is_too_coarse(tmp_path: Path) -> None:
    """Whatever the tick: a file that changes after it was measured is never taken for what it was."""
    names = count()
    with Record(tmp_path / "record") as record:

        @given(
            tick=st.sampled_from([1, 4_000_000, SECOND, 2 * SECOND]),
            written=st.integers(0, 9 * SECOND),
            rest=st.integers(0, 5 * SECOND),
            later=st.integers(0, 5 * SECOND),
            has_ctime=st.booleans(),
        )
        def check(tick: int, written: int, rest: int, later: int, has_ctime: bool) -> None:
            def stamp(time: int) -> int:
                return time // tick * tick

            file = Path(f"/store/{next(names)}")
            measured = written + rest
            before = replace(
                STATE, mtime_ns=stamp(written), ctime_ns=stamp(written) if has_ctime else 0, measured_ns=measured
            )
            record.remember_file(file, before, LAYER)
            changed = stamp(measured + later)
            after = replace(before, mtime_ns=changed, ctime_ns=changed if has_ctime else 0)
            assert record.layer_of_file(file, after) is None

        check()


@pytest.mark.parametrize("field", ["mtime_ns", "ctime_ns"])
def test_a_file_that_changed_just_now_is_not_recorded(tmp_path: Path, field: str) -> None:
    with Record(tmp_path / "record") as record:
        fresh = replace(STATE, **{field: STATE.measured_ns - 2 * SECOND})
        record.remember_file(FILE, fresh, LAYER)
        assert record.layer_of_file(FILE, fresh) is None
        rested = replace(STATE, **{field: STATE.measured_ns - 2 * SECOND - 1})
        record.remember_file(FILE, rested, LAYER)
        assert record.layer_of_file(FILE, rested) == LAYER


def test_a_tree_that_changed_just_now_is_not_recorded(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        fresh = replace(TREE_STATE, newest_ns=TREE_STATE.measured_ns - 2 * SECOND)
        record.remember_tree(TREE, fresh, LAYER)
        assert record.layer_of_tree(TREE, fresh) is None


def test_any_name_and_any_inode_can_be_recorded(tmp_path: Path) -> None:
    """File names need not be Unicode: what is not arrives as lone surrogates, which SQLite's text refuses."""
    with Record(tmp_path / "record") as record:

        @given(name=st.text(min_size=1), inode=st.integers(0, 2**64 - 1))
        @example(name="not-unicode-\udcff", inode=2**64 - 1)
        def check(name: str, inode: int) -> None:
            state = replace(STATE, inode=inode)
            record.remember_file(Path(name), state, LAYER)
            assert record.layer_of_file(Path(name), state) == LAYER
            assert record.problem is None

        check()


def test_blobs_are_forgotten_one_by_one(tmp_path: Path) -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    with Record(tmp_path / "record") as record:
        for repository in (REPOSITORY, OTHER):
            record.remember_blob(repository, one, 5)
            record.remember_blob(repository, two, 5)
        record.forget_blobs(REPOSITORY, [one])
        found = [record.has_blob(repository, digest) for repository in (REPOSITORY, OTHER) for digest in (one, two)]
    assert found == [False, True, True, True]


def test_a_repository_is_forgotten_whole(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        fill(record)
        record.remember_blob(OTHER, LAYER.descriptor.digest, 5)
        record.forget_repository(REPOSITORY)
        assert known(record) == [LAYER, LAYER, False, None, 12.5]
        assert record.has_blob(OTHER, LAYER.descriptor.digest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


SESSION = RecordedSession("https://registry.example/v2/org/cache/blobs/uploads/1?_state=secret", 7)


def test_a_session_is_kept_for_a_day_or_until_it_has_ended(tmp_path: Path) -> None:
    now = [10 * DAY]
    blob = LAYER.descriptor.digest
    with Record(tmp_path / "record", clock=lambda: now[0]) as record:
        record.remember_session(REPOSITORY, blob, RecordedSession("/first", 3))
        record.remember_session(REPOSITORY, blob, SESSION)
        assert (record.session(REPOSITORY, blob), record.session(OTHER, blob)) == (SESSION, None)
        now[0] += DAY - 1
        assert record.session(REPOSITORY, blob) == SESSION
        now[0] += 1
        assert record.session(REPOSITORY, blob) is None
        record.remember_session(REPOSITORY, blob, SESSION)
        record.forget_session(REPOSITORY, blob)
        assert record.session(REPOSITORY, blob) is None


def test_a_session_is_not_printed() -> None:
    assert "secret" not in repr(SESSION)


def test_old_sessions_do_not_stay_on_the_disk(tmp_path: Path) -> None:
    now = [10 * DAY]
    with Record(tmp_path / "record", clock=lambda: now[0]) as record:
        record.remember_session(REPOSITORY, LAYER.descriptor.digest, SESSION)
    now[0] += 2 * DAY
    with Record(tmp_path / "record", clock=lambda: now[0]):
        pass
    with sqlite3.connect(tmp_path / "record") as database:
        assert database.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    database.close()


def test_a_record_of_before_there_were_sessions_gets_them(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        fill(record)
    change(tmp_path / "record", "DROP TABLE sessions")
    with Record(tmp_path / "record") as record:
        record.remember_session(REPOSITORY, LAYER.descriptor.digest, SESSION)
        assert record.session(REPOSITORY, LAYER.descriptor.digest) == SESSION
        assert known(record) == ALL
        assert record.problem is None


def test_sessions_need_a_private_file(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        assert record.lock_folder == tmp_path / "record-uploads"
        (tmp_path / "record").chmod(0o640)
        assert record.lock_folder is None
        (tmp_path / "record").unlink()
        assert record.lock_folder is None
    assert NoRecord().lock_folder is None


def test_the_tags_of_a_repository_are_those_on_record(tmp_path: Path) -> None:
    with Record(tmp_path / "record.db") as record:
        for repository, tag in (("here", "a-1"), ("here", "b-2"), ("there", "c-3")):
            record.remember_manifest(repository, Tag(tag), RecordedManifest(Digest.of(b"m"), Digest.of(b"l")))
        assert record.tags("here") == {"a-1", "b-2"}
        assert record.tags("nowhere") == frozenset()
    assert record.tags("here") == frozenset()


def test_facts_are_any_json(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:

        @given(JSON)
        def check(value: Json) -> None:
            record.remember_fact("host", "name", value)
            assert record.fact("host", "name") == value

        check()


def test_what_is_not_used_for_90_days_is_dropped(tmp_path: Path) -> None:
    now = 1000 * DAY
    with Record(tmp_path / "record", clock=lambda: now) as record:
        fill(record)
        record.remember_manifest(REPOSITORY, CURL, MANIFEST)
    now += 60 * DAY
    with Record(tmp_path / "record", clock=lambda: now) as record:
        assert record.manifest(REPOSITORY, CURL) == MANIFEST
    now += 60 * DAY
    with Record(tmp_path / "record", clock=lambda: now) as record:
        assert record.manifest(REPOSITORY, CURL) == MANIFEST
        assert known(record) == NOTHING


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "record"
    with Record(path) as record:
        fill(record)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"record": 0o600, "record-wal": 0o600, "record-shm": 0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_locked_record_is_done_without(tmp_path: Path) -> None:
    with Record(tmp_path / "record", patience_seconds=0, clock=count(int(time.time())).__next__) as record:
        fill(record)
        other = sqlite3.connect(tmp_path / "record", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        record.remember_blob(OTHER, LAYER.descriptor.digest, 5)
        assert record.problem is not None
        assert "is not used: database is locked" in record.problem
        other.close()
        assert known(record) == NOTHING
    with Record(tmp_path / "record") as record:
        assert known(record) == ALL


def test_a_corrupt_record_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b"SQLite format 3\0" + b"no database" * 1000)
    with Record(tmp_path / "record") as record:
        assert record.problem is not None
        assert "record.corrupt" in record.problem
        fill(record)
    with Record(tmp_path / "record") as record:
        assert record.problem is None
        assert known(record) == ALL
    assert (tmp_path / "record.corrupt").read_bytes() == b"SQLite format 3\0" + b"no database" * 1000


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """A user may have named a file of theirs by mistake: the graph, say."""
    path = tmp_path / "graph.json"
    path.write_text('{"schema": "uploader/graph/v1"}')
    with Record(path) as record:
        assert "left alone" in str(record.problem)
        fill(record)
        assert known(record) == NOTHING
    assert path.read_text() == '{"schema": "uploader/graph/v1"}'
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_that_turns_out_corrupt_later_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with Record(path) as record:
        fill(record)
    with path.open("r+b") as file:
        file.seek(4096)  # the first page says what tables there are; the others are ruined
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with Record(path) as record:
        assert known(record) == NOTHING
        fill(record)
        assert known(record) == ALL
        assert record.problem is not None
        assert "was corrupt" in record.problem


def test_of_two_that_find_it_corrupt_one_makes_a_new_one_for_both(tmp_path: Path) -> None:
    path = tmp_path / "record"
    Record(path).close()
    with Record(path) as one, Record(path) as other:
        path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
        path.with_name("record-wal").unlink(missing_ok=True)
        for record in (one, other):
            known(record)  # and so it sees what became of its file
        fill(one)
        assert known(one) == known(other) == ALL
        assert "was corrupt" in str(one.problem)
    with Record(path) as record:
        assert (record.problem, known(record)) == (None, ALL)


def test_a_record_opened_beside_another_in_one_process_leaves_that_ones_log(tmp_path: Path) -> None:
    """Closing any file ends all locks that the process has on it: another process would take the log for left over."""
    path = tmp_path / "record"
    Record(path).close()
    with Record(path) as one:
        fill(one)
        Record(path).close()
        code = f"from pathlib import Path; from uploader.record import Record; Record(Path({str(path)!r})).close()"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert path.with_name("record-wal").exists()
        assert known(one) == ALL


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record")
    for path in (tmp_path / "record", Path(os.devnull)):
        with Record(path) as record:
            fill(record)
            assert ("no regular file" in str(record.problem), known(record)) == (True, NOTHING)
            assert record.lock_folder is None


def change(path: Path, statement: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    ("statement", "why"),
    [("PRAGMA user_version = 2", "it has schema 2"), ("PRAGMA application_id = 7", "another program's")],
)
def test_a_database_of_others_is_left_alone(tmp_path: Path, statement: str, why: str) -> None:
    with Record(tmp_path / "record") as record:
        fill(record)
    change(tmp_path / "record", statement)
    content = (tmp_path / "record").read_bytes()
    with Record(tmp_path / "record") as record:
        assert known(record) == NOTHING
        fill(record)
        assert record.problem is not None
        assert why in record.problem
    assert (tmp_path / "record").read_bytes() == content
    assert list(tmp_path.iterdir()) == [tmp_path / "record"]


@pytest.mark.parametrize("path", ["/sys/uploader/record", "/dev/null/record", "/"])
def test_a_place_that_cannot_be_written_is_done_without(path: str) -> None:
    with Record(Path(path)) as record:
        fill(record)
        assert known(record) == NOTHING
        assert record.problem is not None
        assert f"{path} is not used" in record.problem


@pytest.mark.parametrize("statement", ["digest = 'no digest'", "diff_id = 7", "size = NULL"])
def test_a_row_that_makes_no_sense_is_not_there(tmp_path: Path, statement: str) -> None:
    with Record(tmp_path / "record") as record:
        fill(record)
    change(tmp_path / "record", f"UPDATE files SET {statement}")  # noqa: S608
    with Record(tmp_path / "record") as record:
        assert record.layer_of_file(FILE, STATE) is None
        assert record.layer_of_tree(TREE, TREE_STATE) == LAYER


WRITER = """
import os, signal, sys
from pathlib import Path
from uploader.model.digest import Digest
from uploader.record import Record

print("ready", flush=True)
sys.stdin.readline()
record = Record(Path(sys.argv[1]), patience_seconds=20)
for number in range(500):
    record.remember_blob(sys.argv[2], Digest.of(b"%d" % number), 5)
record.remember_fact(sys.argv[2], "all", "written")  # at once, and with it what waits to be written
assert record.problem is None, record.problem
os.kill(os.getpid(), signal.SIGKILL)
"""


LARGE = Layer(replace(LAYER.descriptor, size=2**20), LAYER.diff_id)


def remember_many(record: Record) -> None:
    for number in range(256):
        record.remember_blob(OTHER, Digest.of(b"%d" % number), 5)


AT_ONCE: dict[str, Callable[[Record], object]] = {
    "a large file": lambda record: record.remember_file(FILE, STATE, LARGE),
    "a tree": lambda record: record.remember_tree(TREE, TREE_STATE, LAYER),
    "a large blob": lambda record: record.remember_blob(OTHER, LARGE.descriptor.digest, LARGE.descriptor.size),
    "the end of a push": Record.flush,
    "a session": lambda record: record.remember_session(REPOSITORY, LARGE.descriptor.digest, RecordedSession("u", 0)),
    "the end of a session": lambda record: record.forget_session(REPOSITORY, LARGE.descriptor.digest),
    "a fact": lambda record: record.remember_fact("registry.example", "ceiling", 1),
    "a changed fact": lambda record: record.change_fact("registry.example", "ceiling", lambda _: 1),
    "forgotten blobs": lambda record: record.forget_blobs(OTHER, [LAYER.descriptor.digest]),
    "a forgotten repository": lambda record: record.forget_repository(OTHER),
    "a question for all tags": lambda record: record.tags(OTHER),
    "many": remember_many,
    "the end": Record.close,
}


@pytest.mark.parametrize("then", AT_ONCE.values(), ids=AT_ONCE)
def test_what_comes_at_one_moment_is_written_together(tmp_path: Path, then: Callable[[Record], object]) -> None:
    now = time.time()
    with Record(tmp_path / "record", clock=lambda: now) as record, Record(tmp_path / "record") as other:
        record.remember_blob(REPOSITORY, LAYER.descriptor.digest, 5)
        record.remember_manifest(REPOSITORY, ZLIB, MANIFEST)
        assert record.has_blob(REPOSITORY, LAYER.descriptor.digest)
        assert record.manifest(REPOSITORY, ZLIB) == MANIFEST
        assert other.manifest(REPOSITORY, ZLIB) is None
        then(record)
        assert other.has_blob(REPOSITORY, LAYER.descriptor.digest)
        assert other.manifest(REPOSITORY, ZLIB) == MANIFEST


@pytest.mark.parametrize("later", [0.03, -1.0])
def test_what_comes_later_is_written_with_what_came_before(tmp_path: Path, later: float) -> None:
    now = time.time()
    with Record(tmp_path / "record", clock=lambda: now) as record, Record(tmp_path / "record") as other:
        record.remember_blob(REPOSITORY, LAYER.descriptor.digest, 5)
        assert not other.has_blob(REPOSITORY, LAYER.descriptor.digest)
        now += later
        record.remember_blob(REPOSITORY, MANIFEST.digest, 5)
        assert other.has_blob(REPOSITORY, LAYER.descriptor.digest)
        assert other.has_blob(REPOSITORY, MANIFEST.digest)


def test_two_processes_may_write_and_be_killed(tmp_path: Path) -> None:
    path = tmp_path / "state" / "record"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in (REPOSITORY, OTHER)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [-signal.SIGKILL, -signal.SIGKILL]
    with Record(path) as record:
        for repository in (REPOSITORY, OTHER):
            assert all(record.has_blob(repository, Digest.of(b"%d" % number)) for number in range(500))


def test_a_closed_record_knows_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path / "record")
    fill(record)
    record.close()
    record.close()
    assert known(record) == NOTHING


def test_a_use_in_another_thread_is_a_mistake_that_shows(tmp_path: Path) -> None:
    raised: list[type[BaseException]] = []

    def use() -> None:
        try:
            record.has_blob(REPOSITORY, LAYER.descriptor.digest)
        except sqlite3.ProgrammingError as error:
            raised.append(type(error))

    with Record(tmp_path / "record") as record:
        thread = Thread(target=use)
        thread.start()
        thread.join()
        assert raised == [sqlite3.ProgrammingError]
        assert record.problem is None


class TestChangingFacts:
    def test_processes_change_a_fact_one_after_the_other(self, tmp_path: Path) -> None:
        one, two = (Record(tmp_path / "record.sqlite") for _ in range(2))
        for record in (one, two, one):
            assert record.change_fact("host", "count", lambda value: value + 1 if isinstance(value, int) else 1)
        assert (one.fact("host", "count"), two.fact("host", "count")) == (3, 3)

    def test_a_change_that_fails_leaves_it_and_the_record_as_they_were(self, tmp_path: Path) -> None:
        record = Record(tmp_path / "record.sqlite")
        record.remember_fact("host", "count", 1)
        with pytest.raises(ZeroDivisionError):
            record.change_fact("host", "count", lambda _: 1 // 0)
        record.remember_fact("host", "other", 2)
        assert (record.fact("host", "count"), record.fact("host", "other")) == (1, 2)

    def test_a_fact_that_is_no_json_is_none(self, tmp_path: Path) -> None:
        record = Record(tmp_path / "record.sqlite")
        record.remember_fact("host", "name", 1)
        with sqlite3.connect(tmp_path / "record.sqlite") as database:
            database.execute("UPDATE facts SET json = '{' WHERE used > 0")
        database.close()
        seen: list[object] = []
        assert record.fact("host", "name") is None

        def five(value: object) -> int:
            seen.append(value)
            return 5

        assert record.change_fact("host", "name", five)
        assert (seen, record.fact("host", "name")) == ([None], 5)

    def test_where_nothing_is_kept_nothing_is_changed(self) -> None:
        assert not NoRecord().change_fact("host", "name", lambda _: 1)
