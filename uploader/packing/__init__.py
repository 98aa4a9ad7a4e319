"""From files on disk to layers: packed from a folder, or ready as they lie there.

Everything here is synchronous and runs in worker threads; callers go through `anyio.to_thread` under a limiter of
their own. Between two chunks of work each long function asks a `cancelled()` that it was given, and ends by
raising `Cancelled`. What is wrong with one package's files is a SourceError; the other packages go on.

In reading order:

- `tree.py` decides what is in a layer and in which order: normalised entries, from a walk that never leaves its
  root. It also gives the fingerprint by which an unchanged tree is known again without reading it.
- `tarball.py` turns entries into tar bytes, the same that Python's `tarfile` would write, several times faster.
- `codecs.py` is the table of compressions.
- `pack.py` joins them: each file is read once, and what was read is hashed, compressed, hashed again, and shown to an
  `Inspector` if the source brought one.
- `ready.py` measures layers that somebody else packed, with `decoding.py`, and serves file content to uploads.
- `cancelling.py` is how a thread is told to stop.

The layout of a packed layer is the one that Spack has always written, so that one packer serves every source, and
a Spack that reads such a layer finds what it expects.
"""
