"""Kubernetes' container runtime interface: containerd's CRI service, with a runtime handler named
`hull`.

The handler is what README's RuntimeClass names, and it is set up by README's lines; its BinaryName
is the runtime under test. containerd's default handler stays runc, so that what passes here passes
by the handler.
"""

import json
import re
import signal
from pathlib import Path

import image
from cri_api import Refused, Service
from daemon import Daemon
from drill import Drills, Skip, expect, phrases
from session import alive, answers, living, packaged, processes
from websocket import Stream

drills = Drills()
PAUSE = "docker.io/library/pause:drill"
POD, CONTAINER, NODE, TARGET = range(4)  # namespace modes
RUNNING, EXITED = 1, 2  # container states
SERVER = ["/usr/sbin/httpd", "-f", "-p", "8080", "-h", "/etc"]

CONFIG = """[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{scratch}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "drill",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "drill0",
            "isGateway": True,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.89.7.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


class Cri(Daemon):
    """A containerd with its CRI service, and the pods made in it."""

    def __init__(self, session, version=2, config=None, path=""):
        """`config` is the CRI service's configuration, the file of README's lines included."""
        config = config or CONFIG + packaged("containerd-v2.toml")
        super().__init__(
            session, version, config.format(scratch=session.scratch, pause=PAUSE), path=path
        )
        self.handler = re.search(r"^handler: (.+)$", packaged("runtimeclass.yaml"), re.M).group(1)
        self.logs = session.scratch / "logs"
        for directory in ["cni", "logs"]:
            (session.scratch / directory).mkdir(mode=0o711)
        (session.scratch / "cni/10-drill.conflist").write_text(json.dumps(NETWORK))
        self.call, self.count = None, 0

    def answers(self):
        try:
            return all(c["status"] for c in self.call("Status", deadline=5)["status"]["conditions"])
        except Refused:
            return False

    def up(self):
        self.call = Service(self.socket, self.s.note)
        super().up()

    def clear(self):
        """Remove all pods."""
        if self.daemon.poll() is not None:
            self.up()
        for pod in self.call("ListPodSandbox")["items"]:
            self.remove_pod(pod["id"])

    def pod(self, namespaces=None, security=None, sysctls=None, **more):
        """Run a pod sandbox; returns its id and its config."""
        self.count += 1
        name = f"pod{self.count}"
        context = {"namespace_options": namespaces or {}, **(security or {})}
        config = {
            "metadata": {"name": name, "uid": name, "namespace": "drill"},
            "log_directory": str(self.logs),
            "hostname": name,
            "linux": {
                "cgroup_parent": f"/{self.s.tag}",
                "security_context": context,
                "sysctls": sysctls or {},
            },
            **more,
        }
        return self.call("RunPodSandbox", config=config, runtime_handler=self.handler)[
            "pod_sandbox_id"
        ], config

    def create(self, pod, *command, name="main", security=None, resources=None, **more):
        """Create a container in a pod; returns its id. Its log is `<id of the pod>-<name>.log`."""
        sandbox, config = pod
        linux = {"resources": resources or {}, "security_context": security or {}}
        container = {
            "metadata": {"name": name},
            "image": {"image": image.NAME},
            "command": list(command),
            "log_path": f"{config['metadata']['name']}-{name}.log",
            "linux": linux,
            **more,
        }
        return self.call(
            "CreateContainer", pod_sandbox_id=sandbox, config=container, sandbox_config=config
        )["container_id"]

    def start(self, pod, *command, **more):
        """Create and start a container."""
        container = self.create(pod, *command, **more)
        self.call("StartContainer", container_id=container)
        return container

    def status(self, container):
        """A container's status."""
        return self.call("ContainerStatus", container_id=container)["status"]

    def pid(self, container):
        """The id of a container's first process."""
        return json.loads(
            self.call("ContainerStatus", container_id=container, verbose=True)["info"]["info"]
        )["pid"]

    def ended(self, container):
        """Wait for a container's end; returns its status."""
        return self.s.until(
            "its end",
            lambda: (lambda s: s if s["state"] == EXITED else None)(self.status(container)),
        )

    def log(self, pod, name="main"):
        """What a container printed: (stream, line) pairs of its log in the interface's format."""
        lines = (self.logs / f"{pod[1]['metadata']['name']}-{name}.log").read_text().splitlines()
        return [(line.split(" ", 3)[1], line.split(" ", 3)[3]) for line in lines]

    def once(self, *command, pod=None, **more):
        """Run a container to its end in a pod of its own; returns its exit status and its log,
        stderr's lines first.
        """
        made = pod or self.pod()
        container = self.start(made, *command, **more)
        status = self.ended(container)
        printed = self.s.until(
            "its log", lambda: self.log(made) or status["exit_code"] or [("", "")]
        )
        printed = printed if isinstance(printed, list) else self.log(made)
        if pod:
            self.call("RemoveContainer", container_id=container)
        else:
            self.remove_pod(made[0])
        return status["exit_code"], [
            line for wanted in ("stderr", "stdout") for s, line in printed if s == wanted
        ]

    def exec(self, container, *command, timeout=60):
        """ExecSync: (exit status, stdout, stderr)."""
        ran = self.call("ExecSync", container_id=container, cmd=list(command), timeout=timeout)
        return ran["exit_code"], ran["stdout"].decode(), ran["stderr"].decode()

    def remove_pod(self, sandbox):
        """Stop and remove a pod with all in it."""
        self.call("StopPodSandbox", pod_sandbox_id=sandbox)
        self.call("RemovePodSandbox", pod_sandbox_id=sandbox)


def start(session):
    """A running containerd with its CRI service and both images."""
    return begin(Cri(session))


def begin(engine):
    """Start the daemon and give it both images."""
    session = engine.s
    pause = session.scratch / "pause.tar"
    image.pause_archive(pause, PAUSE)
    engine.up()

    def ctr(*argv):
        return session.run(*engine.client("k8s.io", "image", *argv))

    for archive in [session.work / "busybox.tar", pause]:
        ctr("import", archive).ok()
    session.until("the images", lambda: ctr("ls", "-q").out.count("drill") >= 2)
    return engine


def refused(call, *arguments, **more):
    """The error text of a call that must be refused."""
    try:
        call(*arguments, **more)
    except Refused as error:
        return str(error)
    raise AssertionError("it was not refused")


@drills("a pod sandbox by the handler, with a CNI address")
def sandbox(e):
    pod = e.pod()
    status = e.call("PodSandboxStatus", pod_sandbox_id=pod[0])["status"]
    expect(status["state"] == 0 and status["network"]["ip"].startswith("10.89.7."), status)
    expect(status["runtime_handler"] == "hull", status)
    shown = processes("--root /run/containerd/runc/k8s.io") + processes(pod[0])
    expect(shown, "no shim")
    e.remove_pod(pod[0])
    return None


@drills("an unknown handler is refused")
def unknown_handler(e):
    config = {
        "metadata": {"name": "x", "uid": "x", "namespace": "x"},
        "linux": {"cgroup_parent": f"/{e.s.tag}"},
    }
    return "no runtime" in refused(
        e.call, "RunPodSandbox", config=config, runtime_handler="nowhere"
    )


@drills("containers: output, exit status, reason")
def containers(e):
    pod = e.pod()
    seen = []
    for number, script in enumerate(
        ["echo o; echo e >&2; exit 7", "exit 0", "exec /bin/sleep 100"]
    ):
        name = f"c{number}"
        container = e.start(pod, "/bin/sh", "-c", script, name=name)
        if number == 2:
            e.call("StopContainer", container_id=container, timeout=0)
        status = e.ended(container)
        seen.append([status["exit_code"], status["reason"]])
    e.s.until("the log", lambda: len(e.log(pod, "c0")) == 2)
    seen.append(sorted(e.log(pod, "c0")))
    e.remove_pod(pod[0])
    expect(
        seen[0] == [7, "Error"]
        and seen[1] == [0, "Completed"]
        and seen[3] == [("stderr", "e"), ("stdout", "o")],
        seen,
    )
    return seen


@drills("containers: a missing program, no permission, a missing mount")
def wrong(e):
    pod = e.pod()
    seen = {}
    for number, program in enumerate(["/nowhere", "nowhere", "/bin/not-executable"]):
        container = e.create(pod, program, name=f"w{number}")
        text = refused(e.call, "StartContainer", container_id=container)
        status = e.status(container)
        seen[program] = [phrases(text), status["exit_code"], status["reason"]]
        e.call("RemoveContainer", container_id=container)
    mount = {"container_path": "/etc/passwd", "host_path": str(e.logs)}
    container = e.create(pod, "/bin/true", name="m", mounts=[mount])
    seen["mount"] = phrases(refused(e.call, "StartContainer", container_id=container))
    e.remove_pod(pod[0])
    return seen


@drills("stop: caught in its grace period; killed after it")
def stop(e):
    pod = e.pod()
    seen = []
    for name, command in [
        ("caught", ["/bin/trap"]),
        ("killed", ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do /bin/sleep 1; done"]),
    ]:
        container = e.start(pod, *command, name=name)
        e.s.until("readiness", lambda: e.log(pod, name))
        e.call("StopContainer", container_id=container, timeout=2 if name == "killed" else 30)
        seen.append(e.status(container)["exit_code"])
        e.call("StopContainer", container_id=container, timeout=2)
        e.call("RemoveContainer", container_id=container)
        e.call("RemoveContainer", container_id=container)
    e.remove_pod(pod[0])
    expect(seen == [42, 137], seen)
    return seen


@drills("exec sync: output, status, a missing program, a time limit")
def exec_sync(e):
    pod = e.pod()
    container = e.start(pod, "/bin/sleep", "1000")
    seen = [
        e.exec(container, "/bin/sh", "-c", "echo o; echo e >&2; exit 5"),
        e.exec(container, "/bin/true"),
    ]
    for program in ["/nowhere", "nowhere", "/bin/not-executable"]:
        seen.append(phrases(refused(e.exec, container, program)))
    late = refused(e.exec, container, "/bin/sleep", "500", timeout=1)
    expect("exceeded" in late, late)
    e.s.gone("the late program", "/bin/sleep 500")
    e.remove_pod(pod[0])
    expect(seen[0] == (5, "o\n", "e\n"), seen)
    return seen


@drills("exec: a stream with a terminal, resized")
def exec_stream(e):
    pod = e.pod()
    container = e.start(pod, "/bin/sleep", "1000")
    url = e.call(
        "Exec", container_id=container, cmd=["/bin/sh"], tty=True, stdin=True, stdout=True
    )["url"]
    stream = Stream(url)
    stream.send(4, json.dumps({"Width": 101, "Height": 37}).encode())
    stream.send(0, b"sleep 1; /bin/stty size; test -t 0 && echo termin''al\n")
    first = b""
    while b"\nterminal" not in first.replace(b"\r", b""):
        first += stream.receive()[1]
    stream.send(0, b"exit 6\n")
    shown = stream.all()
    stream.close()
    e.remove_pod(pod[0])
    expect(b"37 101" in first, first, shown)
    return [json.loads(shown[3])["status"], b"6" in shown[3]]


@drills("exec: a stream without a terminal, stdin to its end")
def exec_pipe(e):
    pod = e.pod()
    container = e.start(pod, "/bin/sleep", "1000")
    url = e.call(
        "Exec",
        container_id=container,
        cmd=["/bin/sh", "-c", "read x; echo got $x; echo err >&2"],
        stdin=True,
        stdout=True,
        stderr=True,
    )["url"]
    stream = Stream(url)
    stream.send(0, b"text\n")
    shown = stream.all()
    stream.close()
    e.remove_pod(pod[0])
    expect(shown[1] == b"got text\n" and shown[2] == b"err\n", shown)
    return json.loads(shown[3])["status"]


@drills("attach: a container with a terminal")
def attach(e):
    pod = e.pod()
    container = e.start(pod, "/bin/sh", stdin=True, stdin_once=False, tty=True)
    stream = Stream(
        e.call("Attach", container_id=container, stdin=True, stdout=True, tty=True)["url"]
    )
    stream.send(0, b"echo $((6*7))\n")
    shown = b""
    while b"\n42" not in shown.replace(b"\r", b""):
        shown += stream.receive()[1]
    stream.send(0, b"exit 3\n")
    status = e.ended(container)
    stream.close()
    e.remove_pod(pod[0])
    return status["exit_code"]


def forwarded(e, pod):
    """What the pod's server answers by port-forward is its file."""
    stream = Stream(e.call("PortForward", pod_sandbox_id=pod[0], port=[8080])["url"])
    stream.send(0, b"GET /group HTTP/1.0\r\n\r\n")
    got = b""
    while b"extra:x:2000" not in got:
        message = stream.receive()
        expect(message, "the stream ended:", got)
        got += message[1] if message[0] == 0 else b""
    stream.close()


@drills("port-forward into the pod")
def port_forward(e):
    pod = e.pod()
    container = e.start(pod, *SERVER)
    e.s.until(
        "the listener",
        lambda: ":1F90" in e.exec(container, "/bin/cat", "/proc/net/tcp", "/proc/net/tcp6")[1],
    )
    forwarded(e, pod)
    e.remove_pod(pod[0])
    return None


@drills("the pod's address is reached, its published port too")
def reach(e):
    pod = e.pod(port_mappings=[{"container_port": 8080, "host_port": 18080}])
    e.start(pod, *SERVER)
    address = e.call("PodSandboxStatus", pod_sandbox_id=pod[0])["status"]["network"]["ip"]
    e.s.until("the pod's answer", lambda: answers((address, 8080)))
    published = answers((address.rsplit(".", 1)[0] + ".1", 18080))
    e.remove_pod(pod[0])
    return published


@drills("statistics")
def stats(e):
    pod = e.pod()
    container = e.start(pod, "/bin/sh", "-c", "x=$(/usr/bin/seq 1 20000); /bin/sleep 1000")

    def used():
        return e.call("ContainerStats", container_id=container)["stats"]

    found = e.s.until(
        "cpu time",
        lambda: (lambda s: s if s["cpu"]["usage_core_nano_seconds"]["value"] > 0 else None)(used()),
    )
    listed = [s["attributes"]["id"] for s in e.call("ListContainerStats")["stats"]]
    e.remove_pod(pod[0])
    expect(found["memory"]["working_set_bytes"]["value"] > 0 and container in listed, found, listed)
    return None


@drills("a pod's shared process namespace: stopping one container ends all of its processes only")
def shared_pids(e):
    pod = e.pod(namespaces={"pid": POD})
    both = [
        e.start(
            pod,
            "/bin/sh",
            "-c",
            f"/bin/sleep {n} & exec /bin/sleep {n}",
            name=name,
            security={"namespace_options": {"pid": POD}},
        )
        for name, n in [("a", 601), ("b", 602)]
    ]
    seen = e.exec(both[0], "/bin/sh", "-c", "/bin/cat /proc/1/cmdline | /usr/bin/tr '\\0' ' '")[1]
    e.s.until(
        "all four",
        lambda: len(processes("/bin/sleep 601")) >= 2 and len(processes("/bin/sleep 602")) >= 2,
    )
    e.call("StopContainer", container_id=both[0], timeout=0)
    e.s.gone("a", "/bin/sleep 601")
    expect(len(living("/bin/sleep 602")) >= 2, "b suffered")
    e.remove_pod(pod[0])
    expect("pause" in seen, seen)
    return seen


@drills("process namespaces: a container's own, the node's, another container's")
def pid_modes(e):
    seen = {}
    pod = e.pod(namespaces={"pid": CONTAINER})
    own = e.start(
        pod, "/bin/sleep", "701", name="own", security={"namespace_options": {"pid": CONTAINER}}
    )
    seen["own"] = e.exec(own, "/bin/cat", "/proc/1/cmdline")[1]
    target = e.start(
        pod,
        "/bin/sleep",
        "702",
        name="target",
        security={"namespace_options": {"pid": TARGET, "target_id": own}},
    )
    seen["target"] = e.exec(target, "/bin/cat", "/proc/1/cmdline")[1]
    e.remove_pod(pod[0])
    pod = e.pod(namespaces={"pid": NODE})
    node = e.start(pod, "/bin/sleep", "703", security={"namespace_options": {"pid": NODE}})
    seen["node"] = "sandbox.py" in e.exec(node, "/bin/cat", "/proc/1/cmdline")[1]
    e.remove_pod(pod[0])
    for number in (701, 702, 703):
        e.s.gone("the program", f"/bin/sleep {number}")
    expect("701" in seen["own"] and "701" in seen["target"] and seen["node"], seen)
    return seen


@drills("the node's network")
def host_network(e):
    pod = e.pod(namespaces={"network": NODE}, hostname="")
    code, out = e.once(
        "/sbin/ip",
        "-o",
        "link",
        "show",
        "drill0",
        pod=pod,
        security={"namespace_options": {"network": NODE}},
    )
    e.remove_pod(pod[0])
    expect(code == 0, out)
    return code


@drills("seccomp: the runtime's default, none, a profile of the node")
def seccomp(e):
    script = (
        "/bin/grep Seccomp: /proc/self/status; /bin/mkdir /tmp/x && echo made; "
        "/usr/bin/unshare -m /bin/true && echo unshared"
    )
    added = {"add_capabilities": ["SYS_ADMIN"]}
    seen = []
    for profile in [
        {"profile_type": 0},
        {"profile_type": 1},
        {"profile_type": 2, "localhost_ref": str(e.s.seccomp_profile())},
    ]:
        security = {"seccomp": profile, "capabilities": added}
        seen.append(e.once("/bin/sh", "-c", script, security=security)[1])
    expect("made" in seen[0] and "made" in seen[1] and "made" not in seen[2], seen)
    return seen


@drills("capabilities added and dropped; privileged")
def capabilities(e):
    seen = []
    for wanted in [
        {"capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]}},
        {"capabilities": {"drop_capabilities": ["ALL"]}},
        {"no_new_privs": True},
    ]:
        seen.append(e.once("/bin/show", "credentials", security=wanted)[1])
    pod = e.pod(security={"privileged": True})
    try:
        seen.append(e.once("/bin/show", "masked", pod=pod, security={"privileged": True})[1])
    except Refused as error:  # this host may lack a capability that privileged asks for
        seen.append(phrases(str(error)))
    e.remove_pod(pod[0])
    return seen


@drills("users and groups by number and by name")
def users(e):
    seen = []
    for wanted in [
        {"run_as_user": {"value": 1000}},
        {"run_as_username": "user"},
        {"supplemental_groups": [2000, 3000]},
        {"run_as_user": {"value": 1000}, "run_as_group": {"value": 2000}},
    ]:
        seen.append(e.once("/usr/bin/id", security=wanted)[1])
    return seen


@drills("masked and read-only paths, read-only root")
def masked(e):
    lists = {
        "masked_paths": ["/proc/kcore", "/proc/keys", "/nowhere"],
        "readonly_paths": ["/proc/sys", "/nowhere"],
    }
    script = "/bin/show masked; echo x >/proc/sys/kernel/domainname; touch /x; touch /tmp/x"
    return [
        e.once("/bin/sh", "-c", script, security=lists)[1],
        e.once("/bin/sh", "-c", script, security={"readonly_rootfs": True})[1],
    ]


@drills("sysctls, host name and resolver of the pod")
def sysctls(e):
    dns = {"servers": ["192.0.2.1"], "searches": ["drill.test"], "options": ["ndots:2"]}
    pod = e.pod(
        sysctls={"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"},
        dns_config=dns,
    )
    script = (
        "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced; "
        "cat /etc/resolv.conf; echo $(/bin/hostname | /bin/sed 's/[0-9]//g')"
    )
    seen = e.once("/bin/sh", "-c", script, pod=pod)
    e.remove_pod(pod[0])
    expect(seen[1][:2] == ["80", "1"], seen)
    return seen


@drills("mounts: read-only, and propagated from and to the host")
def mounts(e):
    host = e.s.scratch / "volume"
    host.mkdir(exist_ok=True)
    e.s.run("mount", "--bind", host, host).ok()
    e.s.run("mount", "--make-shared", host).ok()
    pod = e.pod(security={"privileged": True})
    paths = [
        {"container_path": f"/v{n}", "host_path": str(host), "propagation": n} for n in (0, 1, 2)
    ]
    paths.append({"container_path": "/ro", "host_path": str(host), "readonly": True})
    try:
        container = e.start(pod, "/bin/sleep", "1000", mounts=paths, security={"privileged": True})
    except Refused as error:
        paths.pop(2)
        e.s.note(f"without the two-way mount, as privileged is refused here: {error}")
        container = e.start(pod, "/bin/sleep", "1000", name="second", mounts=paths)
    inner = host / "inner"
    inner.mkdir(exist_ok=True)
    e.s.run("mount", "-t", "tmpfs", "marker", inner).ok()
    seen = [
        e.exec(container, "/bin/grep", "-c", "/inner ", "/proc/self/mountinfo")[1],
        e.exec(container, "touch", "/ro/x")[0],
    ]
    shown = e.exec(container, "/bin/grep", "-E", " /(v[0-9]|ro)", "/proc/self/mountinfo")[
        1
    ].splitlines()
    # whether a private volume stays private under a shared root is not compared: runc 1.1 leaves it
    # so, runc 1.3 and crun share all
    seen.append(sorted([line.split()[4], line.split()[5], "master" in line] for line in shown))
    e.remove_pod(pod[0])
    for at in [inner, host]:
        e.s.run("umount", "--lazy", at)
    expect(seen[1] != 0, seen)
    return seen


@drills("a device of the node")
def device(e):
    wanted = [{"container_path": "/dev/drill", "host_path": "/dev/fuse", "permissions": "rw"}]
    _, out = e.once(
        "/bin/sh",
        "-c",
        "/bin/stat -c '%F %t,%T' /dev/drill; : </dev/drill && echo opened",
        devices=wanted,
    )
    expect("opened" in out, out)
    return out


@drills("resources: limits, their update, out of memory")
def resources(e):
    pod = e.pod()
    limits = {"memory_limit_in_bytes": 64 << 20, "cpu_quota": 20000, "cpu_shares": 512}
    container = e.start(pod, "/bin/sleep", "1000", resources={**limits, "cpu_period": 100000})

    def shown():
        files = ["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us", "cpu/cpu.shares"]
        paths = [file.replace("/", f"/{e.s.tag}/{container}/") for file in files]
        return [Path("/sys/fs/cgroup", path).read_text().strip() for path in paths]

    seen = [shown()]
    changed = {"memory_limit_in_bytes": 96 << 20, "cpu_quota": 30000, "cpu_shares": 256}
    e.call("UpdateContainerResources", container_id=container, linux=changed)
    seen.append(shown())
    hungry = ["/usr/bin/tail", "-c", "200m", "/dev/zero"]
    oom = e.start(pod, *hungry, name="oom", resources={"memory_limit_in_bytes": 16 << 20})
    ended = e.ended(oom)
    seen.append([ended["exit_code"], ended["reason"]])
    e.remove_pod(pod[0])
    before, after = [str(64 << 20), "20000", "512"], [str(96 << 20), "30000", "256"]
    expect(seen == [before, after, [137, "OOMKilled"]], seen)
    return seen


for aspect in image.ASPECTS:

    @drills(f"seen in the container: {aspect}")
    def seen_in_container(e, aspect=aspect):
        pod = e.pod(hostname="drill")
        code, out = e.once("/bin/show", aspect, pod=pod)
        e.remove_pod(pod[0])
        return [code, out]


@drills("a user namespace for the pod")
def user_namespace(e):
    mapping = [{"host_id": 100000, "container_id": 0, "length": 65536}]
    pod = e.pod(namespaces={"userns_options": {"mode": POD, "uids": mapping, "gids": mapping}})
    container = e.start(
        pod,
        "/bin/sleep",
        "1000",
        security={
            "namespace_options": {"userns_options": {"mode": POD, "uids": mapping, "gids": mapping}}
        },
    )
    mapped = e.exec(container, "/bin/cat", "/proc/self/uid_map")[1].split()
    e.remove_pod(pod[0])
    if mapped[1] != "100000":
        raise Skip("this containerd does not know user namespaces of pods: it ignored the request")
    return mapped


@drills("containerd is killed and started again with a live pod")
def restarted(e):
    pod = e.pod()
    container = e.start(pod, "/bin/trap")
    pid = e.pid(container)
    e.daemon.send_signal(signal.SIGKILL)
    e.daemon.wait()
    expect(alive(pid), "it died with the daemon")
    e.up()
    expect(e.status(container)["state"] == RUNNING, e.status(container))
    ran = e.exec(container, "/bin/sh", "-c", "exit 4")
    e.call("StopContainer", container_id=container, timeout=30)
    status = e.status(container)["exit_code"]
    e.remove_pod(pod[0])
    expect(ran[0] == 4 and status == 42, ran, status)
    return [ran, status]


@drills("nothing is left at the end")
def nothing_left(e):
    expect(
        not e.call("ListPodSandbox")["items"] and not e.call("ListContainers")["containers"],
        "pods left",
    )
    e.s.state_roots_empty("/run/containerd/runc/k8s.io")
    e.s.gone("the shims", "containerd-shim")
    e.s.no_cgroups_left()
    expect(not list(Path("/run/netns").glob("cni-*")), "network namespaces left")
    return None
