"""containerd 2's CRI service, set up by README's lines for version 3 of its configuration: the
drills of `cri`, user namespaces included.

It comes from Debian unstable, as does the runc that it is compared with: see `newer`.
"""

import cri
from cri import Cri, begin
from drill import Drill, Drills, Skip
from session import packaged

# From 1.2 on, runc drops the flags of a bind mount's source (the noexec of the pod's /dev/shm)
# and makes the root private; hull does as runc 1.1 and crun do, so this is not compared.
drills = Drills(
    Drill(d.name, d.function, d.compared and d.name != "seen in the container: mounts", d.lacking)
    for d in cri.drills
)

CONFIG = """[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{scratch}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
"""


def start(session):
    """A running containerd 2 with its CRI service and both images."""
    if not (session.fetched.newer / "versions").exists():
        raise Skip("containerd 2 could not be fetched")
    return begin(
        Cri(
            session,
            3,
            CONFIG + packaged("containerd-v3.toml"),
            session.fetched.newer / "root/usr/bin",
        )
    )
