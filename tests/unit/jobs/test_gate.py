from __future__ import annotations

from pathlib import Path

import pytest

from uploader.errors import JobStoreError
from uploader.jobs import gate

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:30 / /srv rw shared:9 - nfs4 server:/srv rw,vers=4.2
31 30 254:1 / /srv/local\040disk rw shared:10 - xfs /dev/vdb rw
32 22 0:40 / /home rw - fuse.sshfs me@host: rw
33 22 0:41 / /mnt rw - tmpfs tmpfs rw
34 33 0:42 / /mnt rw - cifs //server/tmp rw
a line of another kind
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/var/lib/jobs.db", "ext4", False),
        ("/srv/jobs.db", "nfs4", True),
        ("/srv/local disk/jobs.db", "xfs", False),
        ("/srvother/jobs.db", "ext4", False),
        ("/home/me/jobs.db", "fuse.sshfs", True),
        ("/mnt/jobs.db", "cifs", True),
    ],
)
def test_file_system_is_that_of_the_innermost_mount(path: str, kind: str, network: bool) -> None:
    assert gate.file_system_of(Path(path), MOUNTS) == kind
    assert gate.is_network(kind) == network


def test_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    with pytest.raises(JobStoreError, match=r"network file system \(nfs4\)") as refusal:
        gate.refuse_network_file_system(Path("/srv/jobs.db"), mounts)
    assert refusal.value.problem == "unsuitable"
    gate.refuse_network_file_system(Path("/var/lib/jobs.db"), mounts)
    gate.refuse_network_file_system(Path("/srv/jobs.db"), tmp_path / "no such file")
