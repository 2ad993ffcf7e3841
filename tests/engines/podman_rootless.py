"""Podman of an ordinary user: id maps by newuidmap, its network by slirp4netns, no cgroups of its
own on v1.
"""

import os
import shutil
from pathlib import Path

import podman
from drill import Drills, expect
from session import alive

USER = 64321  # not one that a host is likely to have

# What Podman itself refuses an ordinary user on cgroup v1, or what needs root's privileges.
REFUSED = [
    "run: --memory --pids-limit --cpus --cpuset-cpus",
    "run: out of memory",
    "pause and unpause; exec in a paused container",
    "update",
    "stats",
    "nothing is left at the end",
    "run: --privileged",
]
drills = Drills(
    d for d in podman.drills if d.name not in REFUSED and not d.name.startswith("checkpoint ")
)


class Rootless(podman.Podman):
    """Podman as the user `driller`, with a home and a runtime directory."""

    rootless = True

    def __init__(self, session):
        super().__init__(session)
        with open("/etc/passwd", "a") as passwd, open("/etc/group", "a") as group:
            passwd.write(f"driller:x:{USER}:{USER}::/run/t/user:/bin/sh\n")
            group.write(f"driller:x:{USER}:\n")
        self.home, self.runtime = session.scratch / "user", Path(f"/run/user/{USER}")
        for directory in [self.home, self.runtime, self.at]:
            directory.mkdir(parents=True, exist_ok=True)
            os.chown(directory, USER, USER)
        os.chmod(self.runtime, 0o700)
        self.parent = []
        self.kube = ["--network", "slirp4netns"]
        # These devices may be root's only; an ordinary user's Podman needs both.
        for name, number in [("fuse", os.makedev(10, 229)), ("net/tun", os.makedev(10, 200))]:
            copy = session.scratch / name.replace("/", "-")
            os.mknod(copy, 0o20666, number)
            os.chmod(copy, 0o666)
            session.run("mount", "--bind", copy, f"/dev/{name}").ok()

    def command(self, *argv):
        inner = [
            "env",
            f"HOME={self.home}",
            f"XDG_RUNTIME_DIR={self.runtime}",
            "podman",
            *map(str, argv),
        ]
        return [
            "setpriv",
            f"--reuid={USER}",
            f"--regid={USER}",
            "--clear-groups",
            "--inh-caps=-all",
            *inner,
        ]

    def podman(self, *argv, **more):
        return super().podman(*argv, cwd=self.home, **more)


def start(session):
    """Rootless Podman with both images in its storage."""
    engine = Rootless(session)
    podman.prepare(engine)
    return engine


@drills("it is rootless: mapped ids, no privilege")
def mapped(e):
    pid = e.launch("mapped", "--", "/bin/sleep", "1000")
    uid = os.stat(f"/proc/{pid}").st_uid
    maps = Path(f"/proc/{pid}/uid_map").read_text().split()
    e.remove("mapped")
    expect(uid == USER and maps[:3] == ["0", str(USER), "1"], uid, maps)
    return maps


@drills("run: --userns keep-id")
def keep_id(e):
    ran = e.run(
        "--userns",
        "keep-id",
        "--",
        "/bin/sh",
        "-c",
        "/usr/bin/id; /bin/stat -c %u:%g /proc/self; touch /tmp/x && echo written",
    )
    expect(ran.code == 0 and f"uid={USER}" in ran.out, ran.seen())
    return ran.out


@drills("run: --userns nomap, host")
def userns_modes(e):
    seen = []
    for mode in ["nomap", "host"]:
        ran = e.run(
            "--userns",
            mode,
            "--",
            "/bin/sh",
            "-c",
            "/bin/cat /proc/self/uid_map | wc -l; /usr/bin/id -u",
        )
        seen.append([ran.code, ran.out])
    return seen


@drills("podman unshare sees what containers leave")
def unshare(e):
    shared = e.home / "shared"
    shared.mkdir(exist_ok=True)
    os.chown(shared, USER, USER)
    e.run("--volume", f"{shared}:/shared", "--user", "1000:1000", "--", "/bin/sh", "-c", "id").ok()
    e.run(
        "--volume",
        f"{shared}:/shared",
        "--",
        "/bin/sh",
        "-c",
        "/bin/touch /shared/x; /bin/chown 5:6 /shared/x",
    ).ok()
    on_host = os.stat(shared / "x").st_uid
    mapped_back = e.podman("unshare", "stat", "-c", "%u:%g", str(shared / "x")).ok().out
    shutil.rmtree(shared)
    expect(on_host >= 100000 and mapped_back == "5:6\n", on_host, mapped_back)
    return mapped_back


@drills("nothing of a rootless container is left")
def nothing_left(e):
    pid = e.launch("last", "--", "/bin/sleep", "1000")
    e.remove("last")
    expect(not alive(pid), "it lives on")
    expect(not e.podman("ps", "--all", "--quiet").ok().out, "containers left")
    e.s.state_roots_empty(*(e.runtime / name for name in ("runc", "crun", "hull")))
    return None
