"""The VM backend under engines: `ctr run`, a CRI pod, `podman run` and `docker run`, each container
in an emulated VM of its own.

The runtime's name chooses the backend, as in README: engines name a program and no options. The
runtime that hull is compared with has one backend, also under that name, so that what has to differ
(a kernel of the container's own) is asserted and not compared.
"""

import json
import os
from pathlib import Path

import cri
import docker
import image
import podman
from containerd import Containerd
from cri import SERVER, Cri, begin, refused
from drill import Drills, Skip, expect, phrases
from session import alive, answers, load, packaged

drills = Drills()
NAME = "/usr/bin/hull-vm"
OWN_PIDS = {"pid": cri.CONTAINER}  # what a kubelet asks for, of the pod and of each container
OWN = {"namespace_options": OWN_PIDS}
# The server in the background, and a program that stops with 42.
SERVE = "echo said; " + " ".join(SERVER[:1] + SERVER[2:]) + "; exec /bin/trap"


class Ctr(Containerd):
    """ctr, at the daemon of another."""

    def __init__(self, other):
        self.s, self.socket, self.daemon = other.s, other.socket, other.daemon
        self.roots, self.program = other.s.scratch / "runtime-root", NAME


class Engines:
    """All four engines; `own` says whether each container has a VM, and so a kernel, of its own."""

    def __init__(self, session):
        self.s, self.pods = session, []
        self.own = session.runtime == "hull"
        os.symlink(os.path.realpath(session.path), NAME)
        if self.own:
            self.kernel()
            # README's line: a pod's sandbox holds namespaces only
            settings = Path("/etc/hull/config.toml")
            settings.parent.mkdir(exist_ok=True)
            settings.write_text('annotations = ["io.kubernetes.cri.container-type"]\n')
        self.cri = begin(Cri(session))
        self.cri.handler = "hull-vm"
        self.ctr = Ctr(self.cri)
        self.ctr.ctr("image", "import", session.work / "busybox.tar").ok()
        self.podman = podman.Podman(session)
        Path("/etc/containers/containers.conf.d/hull.conf").write_text(
            packaged("containers.conf").replace('runtime = "hull"', 'runtime = "hull-vm"')
        )
        podman.prepare(self.podman)
        self.docker = docker.Docker(session)
        self.docker.daemon = None  # it is started by the drill that needs it

    def dockerd(self):
        """A dockerd that knows the runtime by README's lines, under the VM backend's name."""
        at = self.s.scratch / "daemon.json"
        lines = json.loads(at.read_text())
        lines.update({"runtimes": {"hull-vm": {"path": NAME}}, "default-runtime": "runc"})
        at.write_text(json.dumps(lines))
        self.docker.up()
        self.docker.docker("load", "--input", self.s.work / "busybox.tar").ok()

    def kernel(self):
        """Give the sandbox a kernel in /boot, its modules beside it, as hull looks for it."""
        if not self.s.fetched.kernel.exists():
            raise Skip("no kernel for guests can be had")
        (image_file,) = self.s.fetched.kernel.glob("boot/vmlinuz-*")
        (modules,) = self.s.fetched.kernel.glob("lib/modules/*")
        boot = self.s.scratch / "boot"
        (boot / "modules" / modules.name).mkdir(parents=True)
        self.s.run("mount", "--bind", modules, boot / "modules" / modules.name).ok()
        (boot / image_file.name).write_bytes(image_file.read_bytes())
        self.s.run("mount", "--rbind", boot, "/boot").ok()

    def clear(self):
        """Remove what a failed drill has left."""
        self.cri.clear()
        self.ctr.daemon = self.cri.daemon
        self.ctr.clear()
        self.podman.clear()
        if self.docker.daemon:
            self.docker.clear()

    def stop(self):
        """Stop the engines."""
        if self.docker.daemon:
            self.docker.stop()
        self.podman.stop()
        self.cri.stop()


def start(session):
    """The engines with the images in them."""
    return Engines(session)


def own_kernel(e, release):
    """The kernel that a container saw is its guest's if it has a VM, and this host's if not."""
    expect((release.strip() == os.uname().release) != e.own, "kernel", release)


@drills("ctr run: output, exit status, a kernel of its own, nothing left")
def ctr_run(e):
    ran = e.ctr.run("r1", "/bin/sh", "-c", "uname -r; echo out; echo err >&2; exit 7", timeout=180)
    expect(ran.code == 7 and ran.err == "err\n" and ran.out.endswith("\nout\n"), ran.seen())
    own_kernel(e, ran.out.splitlines()[0])
    e.ctr.gone("r1")
    return ran.code


@drills("ctr: exec, stdin, a terminal, pause, metrics, kill, delete")
def ctr_task(e):
    e.ctr.ctr("run", "--detach", *e.ctr.options(), image.NAME, "x", "/bin/trap", timeout=180).ok()
    pid = e.ctr.pid("x")
    ran = e.ctr.exec("x", "/bin/sh", "-c", "echo o; echo e >&2; exit 5")
    seen = [ran.seen(), e.ctr.exec("x", "/usr/bin/md5sum", stdin="some text\n" * 5000).ok().out]
    missing = e.ctr.exec("x", "nowhere")
    seen.append([missing.code, phrases(missing.err)])
    status, shown = e.ctr.exec_terminal("x")
    e.ctr.ctr("task", "pause", "x").ok()
    paused = e.ctr.task("x")
    e.ctr.ctr("task", "resume", "x").ok()
    data = load(e.ctr.ctr("task", "metrics", "--format", "json", "x").ok().out)
    e.ctr.ctr("task", "kill", "x").ok()
    e.ctr.await_status("x", "STOPPED")
    ended = e.ctr.delete("x")
    e.ctr.remove("x")
    e.ctr.gone("x")
    expect(status == 6 and paused == (pid, "PAUSED") and ended == 42, status, shown, paused, ended)
    expect(data["memory"]["usage"]["usage"] > 0 and not alive(pid), data)
    return [*seen, status, ended]


@drills(
    "a CRI pod: output, the pod's names and address, its ports reached and forwarded, exec, "
    "statistics"
)
def cri_pod(e):
    pod = e.cri.pod(
        namespaces=OWN_PIDS, port_mappings=[{"container_port": 8080, "host_port": 18080}]
    )
    script = "uname -r; hostname; echo said >&2; stat -f -c %T /dev/shm; exec " + " ".join(SERVER)
    container = e.cri.start(pod, "/bin/sh", "-c", script, security=OWN)
    address = e.cri.call("PodSandboxStatus", pod_sandbox_id=pod[0])["status"]["network"]["ip"]
    e.s.until("the pod's answer", lambda: answers((address, 8080)), timeout=60)
    e.s.until(
        "its published port", lambda: answers((address, 8080)) and answers(("127.0.0.1", 18080))
    )
    cri.forwarded(e.cri, pod)
    printed = [line for stream, line in e.cri.log(pod) if stream == "stdout"]
    own_kernel(e, printed[0])
    ran = e.cri.exec(
        container,
        "/bin/sh",
        "-c",
        "/sbin/ip -o -4 address show eth0; /sbin/ip route; echo e >&2; exit 5",
    )
    expect(
        ran[0] == 5
        and f" {address}/24 " in ran[1]
        and "default via 10.89.7.1 dev eth0" in ran[1]
        and ran[2] == "e\n",
        ran,
    )
    out = e.cri.exec(
        container, "/bin/sh", "-c", "/usr/bin/wget -q -O - http://127.0.0.1:8080/group"
    )[1]
    stats = e.cri.call("ContainerStats", container_id=container)["stats"]
    expect(stats["memory"]["working_set_bytes"]["value"] > 0, stats)
    e.cri.remove_pod(pod[0])
    expect(
        printed[1] == pod[1]["hostname"] and printed[2] == "tmpfs" and "extra:x:2000" in out,
        printed,
        out,
    )
    return None


@drills(
    "a CRI pod: stopped in its grace period; a container started again; another beside it has no "
    "network to share"
)
def cri_again(e):
    pod = e.cri.pod(namespaces=OWN_PIDS)
    first = e.cri.start(pod, "/bin/trap", name="first", security=OWN)
    e.s.until("readiness", lambda: e.cri.log(pod, "first"), timeout=60)
    if e.own:
        second = e.cri.create(pod, "/bin/true", name="second", security=OWN)
        said = refused(e.cri.call, "StartContainer", container_id=second)
        expect("the containers of a pod cannot share them" in said, said)
    e.cri.call("StopContainer", container_id=first, timeout=60)
    seen = [e.cri.status(first)["exit_code"]]
    e.cri.call("RemoveContainer", container_id=first)
    again = e.cri.start(pod, *SERVER, name="again", security=OWN)
    address = e.cri.call("PodSandboxStatus", pod_sandbox_id=pod[0])["status"]["network"]["ip"]
    e.s.until("an answer of the second VM", lambda: answers((address, 8080)), timeout=60)
    e.cri.call("StopContainer", container_id=again, timeout=0)
    seen.append(e.cri.status(again)["exit_code"])
    e.cri.remove_pod(pod[0])
    expect(seen == [42, 137], seen)
    return seen


# What Podman puts into every container, and what its flags change there.
LOOK = """uname -r; hostname
for f in /etc/hosts /etc/resolv.conf /etc/hostname /run/.containerenv; do
    test -e $f && echo $f
done
stat -f -c %T /dev/shm
/bin/show credentials; /bin/show environment; /bin/show place
ls -1 /dev; id
touch /ro/x; echo w >/rw/x && cat /rw/x
/bin/grep files /proc/self/limits
echo err >&2; exit 7"""


@drills("podman run: output, exit status, its files and mounts, users, capabilities, limits")
def podman_run(e):
    volume = e.podman.at / "volume"
    volume.mkdir(exist_ok=True)
    os.chmod(volume, 0o777)
    flags = ["--hostname", "drill", "--name", "seen", "--network", "none", "--memory", "96m"]
    flags += ["--cap-drop", "CHOWN", "--user", "1000:2000", "--group-add", "3000"]
    flags += ["--ulimit", "nofile=1000:2000", "--ulimit", "nproc=3000:3000"]
    flags += ["-v", f"{volume}:/ro:ro", "-v", f"{volume}:/rw:rw", "--tmpfs", "/t", "--init"]
    ran = e.podman.run(*flags, "--", "/bin/sh", "-c", LOOK, timeout=180)
    expect(ran.code == 7, ran.seen())
    release, *lines = ran.out.splitlines()
    own_kernel(e, release)
    files = ["/etc/hosts", "/etc/hostname", "/run/.containerenv"]
    expect(ran.err.endswith("err\n"), ran.seen())
    expect(lines[:5] == ["drill", *files, "tmpfs"], ran.seen())
    expect((volume / "x").read_text() == "w\n", ran.seen())
    # core is a link to /proc/kcore, which not every kernel has
    return [ran.code, [line for line in lines if line != "core"], ran.err]


@drills("podman run -d: exec, a published port, logs, stop, its exit status; nothing is left")
def podman_life(e):
    flags = ["--publish", "127.0.0.1:18083:8080"]
    pid = e.podman.launch("web", *flags, "--", "/bin/sh", "-c", SERVE, timeout=180)
    e.s.until("an answer", lambda: answers(("127.0.0.1", 18083)), timeout=60)
    cases = [
        ["web", "/bin/sh", "-c", "echo o; echo e >&2; exit 5"],
        ["web", "/nowhere"],
        ["--user", "user", "--workdir", "/tmp", "web", "/bin/sh", "-c", "id; pwd"],
    ]
    ran = [e.podman.podman("exec", *case) for case in cases]
    e.s.until("readiness", lambda: "ready" in e.podman.podman("logs", "web").out)
    e.podman.podman("stop", "--time", "60", "web", timeout=120).ok()
    code = e.podman.inspect("web")["State"]["ExitCode"]
    logs = e.podman.podman("logs", "web").out
    e.podman.remove("web")
    expect(
        ran[0].seen() == {"code": 5, "out": "o\n", "err": "e\n"}
        and ran[1].code == 127
        and code == 42
        and not alive(pid),
        [r.seen() for r in ran],
        code,
    )
    return [[[r.code, r.out, phrases(r.err)] for r in ran], logs, code]


@drills("a pod of Podman's: its infra container in namespaces, its container in a VM")
def podman_pod(e):
    podman = e.podman.podman
    # Podman marks no infra container as one.
    flags = ["--name", "pod", *e.podman.parent, "--share", "net,ipc,uts", "--hostname", "podhost"]
    made = podman("--runtime", "hull", "pod", "create", *flags).ok()
    command = ["/bin/sh", "-c", "uname -r; hostname; exec /bin/sleep 1000"]
    flags = ["--detach", "--pod", "pod", "--name", "one"]
    podman("run", *flags, image.NAME, *command, timeout=180).ok()
    e.s.until("its output", lambda: podman("logs", "one").out.count("\n") == 2, timeout=60)
    release, name = podman("logs", "one").out.split()
    own_kernel(e, release)
    e.pods.append(made.out.strip())
    podman("pod", "rm", "--force", "--time", "0", "pod", timeout=120).ok()
    expect(name == "podhost", name)
    return None


# What a container of Docker's shows of its network.
ADDRESS = "/sbin/ip -o -4 address show eth0"


@drills(
    "docker run: output, exit status, an address from its hook, a published port, exec, stop; "
    "nothing is left"
)
def docker_run(e):
    e.dockerd()
    d, backend = e.docker, ("--runtime", "hull-vm")
    script = f"uname -r; {ADDRESS}; echo e >&2; exit 7"
    ran = d.run(*backend, "--", "/bin/sh", "-c", script, timeout=180)
    release, shown = ran.out.splitlines()
    own_kernel(e, release)
    expect(ran.code == 7 and ran.err == "e\n" and " 172.17.0." in shown, ran.seen())
    flags = [*backend, "--publish", "127.0.0.1:18084:8080"]
    pid = d.launch("web", *flags, "--", "/bin/sh", "-c", SERVE, timeout=180)
    address = d.inspect("web")["NetworkSettings"]["IPAddress"]
    both = [(address, 8080), ("127.0.0.1", 18084)]
    e.s.until("an answer", lambda: all(answers(at) for at in both), timeout=60)
    seen = d.docker("exec", "web", "/bin/sh", "-c", f"{ADDRESS}; cat /etc/hosts; exit 5")
    expect(seen.code == 5 and f" {address}/" in seen.out, seen.seen(), address)
    expect(seen.out.count(address) == 2, seen.seen(), address)
    e.s.until("readiness", lambda: "ready" in d.docker("logs", "web").out)
    d.docker("stop", "--time", "60", "web", timeout=120).ok()
    code, logs = d.inspect("web")["State"]["ExitCode"], d.docker("logs", "web").out
    d.docker("rm", "web").ok()
    expect(code == 42 and logs.startswith("said\n") and not alive(pid), code, logs)
    expect(not d.docker("ps", "--all", "--quiet").out, "containers left")
    return [ran.code, code]


@drills("what cannot cross is refused, and the engine's user is told why")
def refusals(e):
    seen = []
    for flags in [["--network", "host"], ["-v", "/dev/zero:/dev/z"]]:
        seen.append(e.podman.run(*flags, "--", "/bin/true", timeout=180))
    e.podman.launch("other", "--runtime", "/usr/sbin/runc", "--", "/bin/sleep", "1000")
    seen.append(e.podman.run("--pid", "container:other", "--", "/bin/true", timeout=180))
    e.podman.clear()
    told = ["virtual machine" in ran.err or "VM" in ran.err for ran in seen]
    expect(not e.own or all(told), [ran.seen() for ran in seen])
    return None


@drills("nothing is left at the end")
def nothing_left(e):
    expect(not e.podman.podman("ps", "--all", "--quiet").ok().out, "containers left")
    roots = [e.ctr.roots / e.s.tag, "/run/containerd/runc/k8s.io", "/run/hull", "/run/runc"]
    e.s.state_roots_empty(*roots)
    e.s.gone("QEMU", "qemu-system")
    e.s.gone("the monitor", "hull-vm")
    e.s.gone("the shims", "containerd-shim")
    # conmon's own cgroup and the pods' are Podman's to remove
    e.s.no_cgroups_left(keep=lambda at: "conmon" in at or Path(at).name in e.pods)
    return None
