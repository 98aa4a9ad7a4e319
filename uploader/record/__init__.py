"""The local record: what earlier pushes hashed, packed and found in repositories (SQLite).

It saves work and is never proof: what it says of a repository is a guess to be asked about, and what it says of
files holds only while they are in the very state that was hashed. So losing it costs time and nothing else, and it
never fails a push: a database that is locked, not to be written, or of a newer version is said once in `problem`,
and the push goes on without it; a corrupt one is moved aside for a new one.

A transaction takes 15 to 35 microseconds (write-ahead log, synchronous=NORMAL), and a package has four things to be
kept. So what comes within 20 ms of a write waits for the next one, or for `flush`: a killed process loses that, but
never the hash or the sending of many bytes, a packed tree or a session; a power cut takes the last moments. All calls
come from one thread and do not wait, save for another process's writing: a second at most, and then no more. Processes
may share the file, machines may not: the log needs shared memory, so it must not lie on a network file system. What is
not used for 90 days is dropped when the record is opened. The sessions of uploads may hold secrets: they are kept for a
day, and only in a file that nobody else may read.
"""

from uploader.record.database import Json
from uploader.record.record import NoRecord, Record
from uploader.record.states import FileState, RecordedManifest, RecordedSession, TreeKey, TreeState

__all__ = [
    "FileState",
    "Json",
    "NoRecord",
    "Record",
    "RecordedManifest",
    "RecordedSession",
    "TreeKey",
    "TreeState",
]
