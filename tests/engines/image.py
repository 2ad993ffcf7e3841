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

BUSYBOX = "/bin/busybox"
NAME = "docker.io/library/busybox:drill"

PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nuser:x:1000:1000::/home/user:/bin/sh\n"
GROUP = "root:x:0:\ndaemon:x:1:\nuser:x:1000:\nextra:x:2000:user\n"

# Prints one aspect of the process's world, for comparison between runtimes. Programs are named by
# their full path, as busybox's shell would otherwise run them without an exec. Mounts are sorted,
# as their order tells when they were made and not how they stack; the folder of the v1 hierarchies
# is left writable by runc where the config says "ro".
SHOW = r"""#!/bin/sh
case $1 in
credentials) /bin/grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|SigBlk|SigIgn|Umask):' /proc/self/status ;;
mounts) /usr/bin/awk '{i=7; while ($i != "-") i++; print $5, $6, $(i+1), (i > 7 ? "propagated" : "private")}' /proc/self/mountinfo |
    /bin/sed 's,^/sys/fs/cgroup r[ow],/sys/fs/cgroup r?,' | /usr/bin/sort ;;
devices) cd /dev && for f in * pts/ptmx; do
    [ -L "$f" ] && echo "$f -> $(readlink "$f")" || /bin/stat -c '%n %F %a %u:%g %t,%T' "$f"; done ;;
limits) /bin/cat /proc/self/limits ;;
environment) /usr/bin/env | /usr/bin/sort ;;
cgroup) /bin/grep -vE '^(0|[0-9]+:name=)' /proc/self/cgroup ;;
namespaces) /bin/ls -l /proc/self/ns | /usr/bin/awk 'NF > 8 {print $9}' ;;
masked) for f in kcore keys timer_list sched_debug latency_stats acpi scsi sys/kernel/hostname sysrq-trigger bus; do
    echo "$f $(/bin/stat -c '%F %t,%T' /proc/$f 2>/dev/null) $([ -w /proc/$f ] && echo writable)"; done
    /bin/ls /sys/firmware | /usr/bin/wc -l ;;
place) echo "$(/bin/pwd) $(/bin/cat /proc/self/oom_score_adj) $(umask)"; /usr/bin/tr '\0' ' ' </proc/1/cmdline; echo ;;
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

# Process 1 of a pod: it waits, reaps and obeys SIGTERM.
PAUSE = "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do /bin/sleep 1000 & wait $!; done\n"
# Ends with 42 on SIGTERM; says "ready" when the trap is set.
TRAP = "#!/bin/sh\ntrap 'echo caught; exit 42' TERM\necho ready\nwhile :; do /bin/sleep 0.1; done\n"


def entries():
    """The root filesystem as (name, mode, uid, kind, content) tuples; the kind is d, l or f."""
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
        yield name, 0o755, 0, "d", ""
    yield "tmp", 0o1777, 0, "d", ""
    yield "home/user", 0o755, 1000, "d", ""
    with open(BUSYBOX, "rb") as program:
        yield "bin/busybox", 0o755, 0, "f", program.read()
    applets = subprocess.run(
        [BUSYBOX, "--list-full"], check=True, capture_output=True, text=True
    ).stdout.split()
    for applet in applets:
        if applet != "bin/busybox":
            yield applet, 0o777, 0, "l", BUSYBOX
    yield "etc/passwd", 0o644, 0, "f", PASSWD.encode()
    yield "etc/group", 0o644, 0, "f", GROUP.encode()
    yield "bin/show", 0o755, 0, "f", SHOW.encode()
    yield "bin/pause", 0o755, 0, "f", PAUSE.encode()
    yield "bin/trap", 0o755, 0, "f", TRAP.encode()
    yield "bin/not-executable", 0o644, 0, "f", b"#!/bin/sh\n"
    yield "bin/no-interpreter", 0o755, 0, "f", b"#!/nowhere\n"
    yield "bin/no-format", 0o755, 0, "f", b"\x01\x02\x03\x04"


def layer():
    """The root filesystem as an uncompressed tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode, uid, kind, content in entries():
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid = mode, uid, uid
            info.type = {"d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "f": tarfile.REGTYPE}[kind]
            if kind == "l":
                info.linkname = content
            info.size = len(content) if kind == "f" else 0
            tar.addfile(info, io.BytesIO(content) if kind == "f" else None)
    return out.getvalue()


def unpack(folder):
    """The root filesystem as a plain folder, for bundles and --rootfs."""
    with tarfile.open(fileobj=io.BytesIO(layer())) as tar:
        tar.extractall(folder)


def archive(path, name=NAME, layers=None, config=None):
    """Write the image archive `name` to `path`; `layers` are uncompressed tar archives."""
    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    stored = [blob(data) for data in (layers or [layer()])]
    run = {
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "IMAGE=drill"],
        "Cmd": ["/bin/sh"],
        "WorkingDir": "/",
    }
    image = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {**run, **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in stored]},
        "history": [{"created_by": "drill"} for _ in stored],
    }
    oci = "application/vnd.oci.image."
    configured = {"mediaType": oci + "config.v1+json", **blob(json.dumps(image).encode())}
    tars = [{"mediaType": oci + "layer.v1.tar", **one} for one in stored]
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci + "manifest.v1+json",
        "config": configured,
        "layers": tars,
    }
    described = {"mediaType": oci + "manifest.v1+json", **blob(json.dumps(manifest).encode())}
    tag = name.rsplit(":", 1)[1]
    described["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": tag,
    }

    def place(d):
        return "blobs/" + d["digest"].replace(":", "/")

    saved = [
        {"Config": place(configured), "RepoTags": [name], "Layers": [place(one) for one in stored]}
    ]
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [described]}).encode(),
        "manifest.json": json.dumps(saved).encode(),
        **blobs,
    }
    with tarfile.open(path, "w") as tar:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
