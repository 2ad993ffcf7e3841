"""Images made by hand from busybox-static: no registry, no network.

One tar archive serves every engine: it is an OCI image layout (containerd, Podman, buildah, skopeo)
and at the same time a `docker save` archive (Docker 20.10 reads nothing else).
"""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

BUSYBOX = "/bin/busybox"
NAME = "docker.io/library/busybox:drill"

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/:/bin/false
user:x:1000:1000::/home/user:/bin/sh
"""
GROUP = "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nextra:x:2000:user\n"

# Prints one aspect of what the process has, for comparison between runtimes. Programs are named by
# their full path, as busybox's shell would otherwise run them without an exec. Mounts are sorted,
# as their order tells when they were made and not how they stack; runc leaves the directory of the
# v1 hierarchies writable where the config says "ro".
SHOW = r"""#!/bin/sh
case $1 in
credentials)
    fields='Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|SigBlk|SigIgn|Umask'
    /bin/grep -E "^($fields):" /proc/self/status ;;
mounts)
    /usr/bin/awk '{
        i=7; while ($i != "-") i++
        print $5, $6, $(i+1), (i > 7 ? "propagated" : "private")
    }' /proc/self/mountinfo |
    /bin/sed 's,^/sys/fs/cgroup r[ow],/sys/fs/cgroup r?,' | /usr/bin/sort ;;
devices) cd /dev && for f in * pts/ptmx; do
    [ -L "$f" ] && echo "$f -> $(readlink "$f")" || /bin/stat -c '%n %F %a %u:%g %t,%T' "$f"
    done ;;
limits) /bin/cat /proc/self/limits ;;
environment) /usr/bin/env | /usr/bin/sort ;;
cgroup) /bin/grep -vE '^(0|[0-9]+:name=)' /proc/self/cgroup ;;
namespaces) /bin/ls -l /proc/self/ns | /usr/bin/awk 'NF > 8 {print $9}' ;;
masked)
    for f in kcore keys timer_list sched_debug latency_stats acpi scsi sys/kernel/hostname \
        sysrq-trigger bus; do
        writable=$([ -w /proc/$f ] && echo writable)
        echo "$f $(/bin/stat -c '%F %t,%T' /proc/$f 2>/dev/null) $writable"
    done
    /bin/ls /sys/firmware | /usr/bin/wc -l ;;
place)
    echo "$(/bin/pwd) $(/bin/cat /proc/self/oom_score_adj) $(umask)"
    /usr/bin/tr '\0' ' ' </proc/1/cmdline
    echo ;;
esac
"""
ASPECTS = [
    "credentials",
    "mounts",
    "devices",
    "limits",
    "environment",
    "cgroup",
    "namespaces",
    "masked",
    "place",
]

# Shows how many network links there are, and the name of process 1.
LINKS_AND_INIT = (
    "/sbin/ip -o link | /usr/bin/wc -l; "
    "/usr/bin/tr '\\0' ' ' </proc/1/cmdline | /usr/bin/cut -c1-20"
)
# Process 1 of a pod: it waits, reaps and obeys SIGTERM.
PAUSE = "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do /bin/sleep 1000 & wait $!; done\n"
# Ends with 42 on SIGTERM; says "ready" when the trap is set.
TRAP = "#!/bin/sh\ntrap 'echo caught; exit 42' TERM\necho ready\nwhile :; do /bin/sleep 0.1; done\n"


@dataclass(frozen=True)
class Entry:
    """A directory, a link or a file of the root filesystem; `kind` is tarfile's."""

    name: str
    kind: bytes
    mode: int
    content: bytes = b""
    target: str = ""
    uid: int = 0

    def add(self, tar):
        """Add the entry to an archive."""
        info = tarfile.TarInfo(self.name)
        info.type, info.mode, info.uid, info.gid = self.kind, self.mode, self.uid, self.uid
        info.linkname, info.size = self.target, len(self.content)
        tar.addfile(info, io.BytesIO(self.content))


def entries():
    """The root filesystem."""
    for name in [
        "bin",
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "usr",
        "usr/bin",
        "usr/sbin",
        "var",
        "mnt",
    ]:
        yield Entry(name, tarfile.DIRTYPE, 0o755)
    yield Entry("tmp", tarfile.DIRTYPE, 0o1777)
    yield Entry("home/user", tarfile.DIRTYPE, 0o755, uid=1000)
    yield Entry("bin/busybox", tarfile.REGTYPE, 0o755, Path(BUSYBOX).read_bytes())
    listed = subprocess.run([BUSYBOX, "--list-full"], check=True, capture_output=True, text=True)
    for applet in listed.stdout.split():
        if applet != "bin/busybox":
            yield Entry(applet, tarfile.SYMTYPE, 0o777, target=BUSYBOX)
    for name, mode, content in [
        ("etc/passwd", 0o644, PASSWD),
        ("etc/group", 0o644, GROUP),
        ("bin/show", 0o755, SHOW),
        ("bin/pause", 0o755, PAUSE),
        ("bin/trap", 0o755, TRAP),
        ("bin/not-executable", 0o644, "#!/bin/sh\n"),
        ("bin/no-interpreter", 0o755, "#!/nowhere\n"),
        ("bin/no-format", 0o755, "\x01\x02\x03\x04"),
    ]:
        yield Entry(name, tarfile.REGTYPE, mode, content.encode())


def layer():
    """The root filesystem as an uncompressed tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry in entries():
            entry.add(tar)
    return out.getvalue()


def unpack(directory):
    """The root filesystem as a plain directory, for bundles and --rootfs."""
    with tarfile.open(fileobj=io.BytesIO(layer())) as tar:
        tar.extractall(directory)


def archive(path, name=NAME, layers=None, config=None):
    """Write the image archive `name` to `path`; `layers` are uncompressed tar archives."""
    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def described(kind, value):
        return {"mediaType": f"application/vnd.oci.image.{kind}+json", **blob(encoded(value))}

    stored = [blob(data) for data in (layers or [layer()])]
    configured = described("config.v1", image_config(stored, config or {}))
    tars = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **one} for one in stored]
    manifest = {"schemaVersion": 2, "config": configured, "layers": tars}
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    listed = described("manifest.v1", manifest)
    listed["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
    }

    def place(of):
        return "blobs/" + of["digest"].replace(":", "/")

    layer_places = [place(one) for one in stored]
    saved = [{"Config": place(configured), "RepoTags": [name], "Layers": layer_places}]
    files = {
        "oci-layout": encoded({"imageLayoutVersion": "1.0.0"}),
        "index.json": encoded({"schemaVersion": 2, "manifests": [listed]}),
        "manifest.json": encoded(saved),
        **blobs,
    }
    with tarfile.open(path, "w") as tar:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def image_config(layers, config):
    """The image's configuration: the drills' own, with the changes of `config`."""
    run = {
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "IMAGE=drill"],
        "Cmd": ["/bin/sh"],
        "WorkingDir": "/",
    }
    return {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {**run, **config},
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
        "history": [{"created_by": "drill"} for _ in layers],
    }


def encoded(value):
    """JSON."""
    return json.dumps(value).encode()


def pause_archive(path, name):
    """Write the image of a pod's first process."""
    archive(path, name, config={"Cmd": ["/bin/pause"]})
