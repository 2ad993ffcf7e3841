"""The contract between engines and a runtime, phrase by phrase: command lines, log records, error
wording, streams.

No engine runs here. Each drill uses the arguments that containerd's shim, conmon or buildah use.
"""

import json
import os
import re
import signal
from datetime import datetime
from pathlib import Path

import surroundings
from bundle import Runtime
from drill import Drills, expect
from session import alive

drills = Drills()


def start(session):
    """The runtime under test."""
    return Runtime(session)


def caught(pid):
    """The mask of the signals that a process catches."""
    return int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text()).group(1), 16)


@drills("--version: name, version, commit, spec")
def version(r):
    said = r.call("--version", bundle=r.bundle("version"), style="buildah").ok()
    lines = said.out.splitlines()
    expect(re.fullmatch(r"\S+ version \S+", lines[0]), lines)
    expect(any(re.fullmatch(r"commit: \S+", line) for line in lines), lines)
    expect(any(re.fullmatch(r"spec: 1\.\d+\.\d+\S*", line) for line in lines), lines)
    expect(said.err == "", said.err)


@drills("create, start, kill, delete are silent; the pid file holds the pid")
def life(r):
    b = r.bundle("life")
    made = r.create(b).ok()
    pid = (b / "init.pid").read_text()
    expect(re.fullmatch(r"\d+", pid) and alive(int(pid)), "pid file:", repr(pid))
    expect(r.status(b) == "created", r.status(b))
    calls = [made]
    for argv in [
        ["start", "life"],
        ["pause", "life"],
        ["resume", "life"],
        ["kill", "life", "15"],
        ["kill", "life", "9"],
    ]:
        calls.append(r.call(*argv, bundle=b).ok())
    r.await_status(b, "stopped")
    calls.append(r.call("delete", "life", bundle=b).ok())
    expect(all(c.out == c.err == "" for c in calls), [(c.out, c.err) for c in calls])
    expect(not [x for c in calls for x in c.records() if x["level"] == "error"], "errors logged")
    r.clean(b)


@drills("state: JSON with id, status, pid, bundle, created; pid 0 when stopped")
def state(r):
    b = r.running("state")
    seen = json.loads(r.call("state", "state", bundle=b).ok().out)
    expect(seen["id"] == "state" and seen["status"] == "running" and alive(seen["pid"]), seen)
    expect(seen["bundle"] == str(b), seen["bundle"])
    datetime.fromisoformat(seen["created"][:19])
    r.call("pause", "state", bundle=b).ok()
    statuses = [r.status(b)]
    r.call("resume", "state", bundle=b).ok()
    r.call("kill", "state", "KILL", bundle=b).ok()
    r.await_status(b, "stopped")
    last = json.loads(r.call("state", "state", bundle=b).ok().out)
    r.clean(b)
    expect(statuses == ["paused"] and last["pid"] == 0, statuses, last)
    return sorted(
        set(seen) & {"ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"}
    )


@drills("log: JSON lines with level, msg and time, appended, the error last")
def log(r):
    b = r.bundle("log", ["/nowhere"])
    first = r.create(b)
    second = r.create(b)
    expect(first.code and second.code and first.log and second.log, first.log, second.log)
    whole = (b / "log.json").read_text()
    expect(
        whole.startswith(first.log) and whole.endswith(second.log), "the log was not appended to"
    )
    for record in first.records() + second.records():
        expect({"level", "msg", "time"} <= set(record), record)
        expect(record["level"] in ("error", "warning", "info", "debug", "fatal"), record)
        datetime.fromisoformat(re.sub(r"\.\d+|Z$", "", record["time"]))
    expect(first.records()[-1]["level"] == "error", first.log)


@drills("log: text records without --log-format")
def log_text(r):
    b = r.bundle("logtext", ["/nowhere"])
    r.call("--log", b / "plain", "create", "--bundle", b, "logtext", bundle=b, style="buildah")
    written = (b / "plain").read_text().splitlines()
    expect(written and re.fullmatch(r'time="[^"]+" level=error msg=".+"', written[-1]), written)


@drills("log: --debug writes debug records, and errors stay last")
def log_debug(r):
    b = r.bundle("logdebug", ["/nowhere"])
    front = ["--debug", "--root", r.root, "--log", b / "log.json", "--log-format", "json"]
    made = r.call(*front, "create", "--bundle", b, "logdebug", bundle=b, style="buildah")
    records = [json.loads(line) for line in (b / "log.json").read_text().splitlines()]
    levels = [x["level"] for x in records]
    expect(made.code and "debug" in levels and levels[-1] == "error", levels)


WRONG = {
    "a missing program, by path": (["/nowhere"], "no such file or directory"),
    "a missing program, by name": (["nowhere"], "executable file not found in $PATH"),
    "a program without execute permission": (["/bin/not-executable"], "permission denied"),
    "a directory as program": (["/tmp"], "permission denied"),
}
for what, (args, *words) in WRONG.items():

    @drills(f"create: {what}: {words[0]!r}")
    def create_wrong(r, args=args, words=words):
        b = r.bundle("wrong", args)
        seen = r.create(b).refused(*words)
        expect(
            not (b / "init.pid").exists() or not alive(int((b / "init.pid").read_text())),
            "its process lives",
        )
        gone = r.call("state", "wrong", bundle=b).refused("does not exist")
        left = r.s.cgroups(f"/{r.s.tag}/wrong/")
        expect(not left, "cgroups left:", left)
        r.clean(b)
        return seen, gone

    @drills(f"create under conmon: {what}: the log is one JSON object")
    def create_wrong_conmon(r, args=args, words=words):
        b = r.bundle("wrongc", args)
        made = r.create(b, style="conmon")
        record = json.loads(made.log)
        r.clean(b, "conmon")
        expect(any(w in record["msg"] for w in words), record)
        return made.code

    @drills(f"exec: {what}: {words[0]!r}")
    def exec_wrong(r, args=args, words=words):
        b = r.running("execwrong")
        seen = r.exec(b, *args).refused(*words)
        expect(
            not (b / "exec.pid").exists() or not alive(int((b / "exec.pid").read_text())),
            "its process lives",
        )
        r.clean(b)
        return seen


@drills("create: a wrong format is told by exec, after start")
def wrong_format(r):
    b = r.bundle("format", ["/bin/no-format"])
    made = r.create(b)
    started = r.call("start", "format", bundle=b) if made.code == 0 else made
    r.clean(b)
    return [made.code, started.code]


@drills("create: a missing bind source: 'no such file or directory'")
def bind_missing(r):
    mount = {"destination": "/x", "type": "bind", "source": "/nowhere", "options": ["rbind"]}
    b = r.bundle("bind", change=lambda c: c["mounts"].append(mount))
    seen = r.create(b).refused("no such file or directory")
    r.clean(b)
    return seen


@drills("create: a directory mounted on a file: 'not a directory'")
def bind_mismatch(r):
    mount = {
        "destination": "/etc/passwd",
        "type": "bind",
        "source": str(r.s.scratch),
        "options": ["rbind"],
    }
    b = r.bundle("mismatch", change=lambda c: c["mounts"].append(mount))
    seen = r.create(b).refused("not a directory")
    r.clean(b)
    return seen


@drills("create: a missing root filesystem: 'no such file or directory'")
def root_missing(r):
    b = r.bundle("noroot", change=lambda c: c["root"].update(path="/nowhere/rootfs"))
    seen = r.create(b).refused("no such file or directory")
    r.clean(b)
    return seen


@drills("create: an identifier in use: 'already exists'")
def create_twice(r):
    b = r.running("twice")
    seen = r.create(b).refused("already exists", "exists")
    expect(r.status(b) == "running", "the first container suffered")
    r.clean(b)
    return seen[0]


@drills("create: no config.json, a config that is no JSON")
def no_config(r):
    b = r.bundle("noconfig")
    (b / "config.json").write_text("{")
    torn = r.create(b)
    (b / "config.json").unlink()
    missing = r.create(b)
    expect(torn.code and torn.error() and missing.code, torn.log)
    return torn.code, missing.code, "config.json" in missing.error()


MISSING = {
    "start": ["start", "none"],
    "kill": ["kill", "none", "9"],
    "kill --all": ["kill", "--all", "none", "9"],
    "delete": ["delete", "none"],
    "state": ["state", "none"],
    "pause": ["pause", "none"],
    "resume": ["resume", "none"],
    "ps": ["ps", "--format", "json", "none"],
}
for verb, argv in MISSING.items():

    @drills(f"{verb} of a container that is not there: 'does not exist'")
    def missing_container(r, argv=argv):
        return r.call(*argv, bundle=r.bundle("none")).refused("does not exist")


@drills("exec, update of a container that is not there: 'does not exist'")
def missing_exec(r):
    b = r.bundle("none")
    return [
        r.exec(b, "/bin/true").refused("does not exist"),
        r.call("update", "--resources", "-", "none", bundle=b, stdin="{}").refused(
            "does not exist"
        ),
    ]


@drills("delete --force of a container that is not there succeeds silently")
def delete_missing(r):
    done = r.call("delete", "--force", "none", bundle=r.bundle("none")).ok()
    expect(done.out == "" and done.err == "", done.out, done.err)


@drills("kill of a stopped container: a phrase that means NotFound")
def kill_stopped(r):
    b = r.stopped("killed")
    seen = r.call("kill", "killed", "15", bundle=b).refused(
        "container not running", "no such process", "os: process already finished", "does not exist"
    )
    every = r.call("kill", "--all", "killed", "9", bundle=b)
    r.clean(b)
    return [seen[0], every.code]


@drills("kill: numbers, names with and without SIG; --all reaches all")
def kill_forms(r):
    seen = []
    for form in ["10", "SIGUSR1", "USR1"]:
        b = r.running(
            "forms",
            "/bin/sh",
            "-c",
            "trap 'echo got; exit 3' USR1; echo ready; while :; do /bin/sleep 0.1; done",
        )
        r.s.until(
            "the trap", lambda: caught((b / "init.pid").read_text()) >> (signal.SIGUSR1 - 1) & 1
        )
        seen.append(r.call("kill", "forms", form, bundle=b).code)
        r.await_status(b, "stopped")
        r.clean(b)
    b = r.running("forms", "/bin/sh", "-c", "/bin/sleep 55 & /bin/sleep 55 & wait")

    def count():
        return len(json.loads(r.call("ps", "--format", "json", "forms", bundle=b).ok().out) or [])

    r.s.until("three processes", lambda: count() == 3)
    seen.append(r.call("kill", "--all", "forms", "9", bundle=b).code)
    r.s.until("their end", lambda: count() == 0)
    r.clean(b)
    return seen


@drills("kill: an unknown signal is refused")
def kill_unknown(r):
    b = r.running("unknown")
    seen = r.call("kill", "unknown", "NOTASIGNAL", bundle=b)
    expect(seen.code != 0 and "NOTASIGNAL" in seen.error(), seen.log)
    expect(r.status(b) == "running", "it died")
    r.clean(b)
    return seen.code


@drills("start twice, start of a stopped container: refused")
def start_twice(r):
    b = r.running("again")
    seen = [r.call("start", "again", bundle=b).refused("already running", "running")[0]]
    r.call("kill", "again", "9", bundle=b).ok()
    r.await_status(b, "stopped")
    seen.append(r.call("start", "again", bundle=b).refused("stopped")[0])
    r.clean(b)
    return seen


@drills("exec in a stopped and in a paused container: refused")
def exec_states(r):
    b = r.stopped("xstop")
    seen = [r.exec(b, "/bin/true").refused("stopped", "not running")[0]]
    r.clean(b)
    b = r.running("xpause")
    r.call("pause", "xpause", bundle=b).ok()
    seen.append(r.exec(b, "/bin/true").refused("paused")[0])
    r.call("resume", "xpause", bundle=b).ok()
    seen.append(r.exec(b, "/bin/true").code)
    r.clean(b)
    return seen


@drills("pause and resume in the wrong state: refused")
def pause_states(r):
    b = r.running("pausing")
    seen = [r.call("resume", "pausing", bundle=b).refused("not paused")[0]]
    r.call("kill", "pausing", "9", bundle=b).ok()
    r.await_status(b, "stopped")
    seen.append(
        r.call("pause", "pausing", bundle=b).refused("not running", "not be paused", "stopped")[0]
    )
    r.clean(b)
    return seen


@drills("delete of a running container: refused, and it runs on")
def delete_running(r):
    b = r.running("busy")
    seen = r.call("delete", "busy", bundle=b).refused("not stopped", "running")
    expect(r.status(b) == "running", r.status(b))
    pid = int((b / "init.pid").read_text())
    r.call("delete", "--force", "busy", bundle=b).ok()
    r.s.until("its end", lambda: not alive(pid))
    r.call("state", "busy", bundle=b).refused("does not exist")
    r.clean(b)
    return seen[0]


@drills("delete --force of a paused and of a created container")
def delete_force(r):
    b = r.running("fpause")
    r.call("pause", "fpause", bundle=b).ok()
    r.call("delete", "--force", "fpause", bundle=b).ok()
    r.clean(b)
    b = r.bundle("fcreate")
    r.create(b).ok()
    pid = int((b / "init.pid").read_text())
    r.call("delete", "--force", "fcreate", bundle=b).ok()
    r.s.until("its end", lambda: not alive(pid))
    r.clean(b)


@drills("ps --format json: an array of integers and nothing else")
def ps(r):
    b = r.running("ps", "/bin/sh", "-c", "/bin/sleep 100 & wait")
    pids = r.s.until(
        "two",
        lambda: (json.loads(r.call("ps", "--format", "json", "ps", bundle=b).ok().out) or [])[1:],
    )
    said = r.call("ps", "--format", "json", "ps", bundle=b).ok()
    r.clean(b)
    listed = json.loads(said.out)
    expect(pids and all(isinstance(p, int) for p in listed) and said.err == "", said.out, said.err)
    expect(int((b / "init.pid").read_text()) in listed, listed)
    return len(listed)


@drills("update: --resources -, --resources=-, --resources=FILE")
def update(r):
    b = r.running("update")
    limit = Path(f"/sys/fs/cgroup/memory/{r.s.tag}/update/memory.limit_in_bytes")
    seen = []
    for step, flags in enumerate(
        [["--resources", "-"], ["--resources=-"], [f"--resources={b}/resources.json"]]
    ):
        wanted = json.dumps({"memory": {"limit": (step + 1) << 26}, "cpu": {"shares": 256 + step}})
        (b / "resources.json").write_text(wanted)
        done = r.call("update", *flags, "update", bundle=b, stdin=wanted).ok()
        expect(int(limit.read_text()) == (step + 1) << 26, flags, limit.read_text())
        seen.append([done.out, done.err])
    shares = Path(f"/sys/fs/cgroup/cpu/{r.s.tag}/update/cpu.shares").read_text()
    r.clean(b)
    return seen, shares


@drills("exec: pid file, exit of the detached process left to the caller")
def exec_detached(r):
    b = r.running("xd")
    done = r.exec(b, "/bin/sleep", "66").ok()
    pid = (b / "exec.pid").read_text()
    expect(
        re.fullmatch(r"\d+", pid) and b"66" in Path(f"/proc/{pid}/cmdline").read_bytes(), repr(pid)
    )
    r.clean(b)
    r.s.until("its end", lambda: not alive(int(pid)))
    return [done.out, done.err]


@drills("exec: a process file's user, cwd, environment, capabilities")
def exec_process(r):
    b = r.running("xp")
    script = "/bin/grep -E '^(Uid|Gid|Groups|Cap...|NoNew)' /proc/self/status; pwd; echo $A $HOME"
    wanted = {
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [5, 2000]},
        "cwd": "/tmp",
        "env": ["A=b", "PATH=/bin"],
        "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    }
    r.exec(b, "/bin/sh", "-c", script, process=wanted).ok()
    r.s.until("its output", lambda: (b / "exec.out").read_text().count("\n") == 11)
    out = (b / "exec.out").read_text()
    r.clean(b)
    return out


@drills("run: the exit status is the program's, 128+n after a signal")
def run_status(r):
    seen = []
    for name, args in {"r7": ["/bin/sh", "-c", "exit 7"], "r0": ["/bin/true"]}.items():
        b = r.bundle(name, args)
        seen.append(r.call("run", "--bundle", b, name, bundle=b).code)
        r.call("state", name, bundle=b).refused("does not exist")
        r.clean(b)
    b = r.bundle("r9", ["/bin/sleep", "1000"])
    pidfile = b / "run.pid"
    argv = [r.s.path, "--root", r.root, "run", "--bundle", b, "--pid-file", pidfile, "r9"]
    background = r.s.start(*argv, log="run9.log")
    r.s.until(
        "its start", lambda: pidfile.exists() and pidfile.read_text() and r.status(b) == "running"
    )
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    seen.append(background.wait(30))
    r.clean(b)
    expect(seen == [7, 0, 137], seen)
    return seen


@drills("exec: the umask of a process file", compared=False, lacking=["runc"])
def exec_umask(r):
    b = r.running("umask")
    user = {"uid": 0, "gid": 0, "umask": 0o027}
    r.exec(b, "/bin/sh", "-c", "umask; echo done", process={"user": user}).ok()
    r.s.until("its output", lambda: "done" in (b / "exec.out").read_text())
    out = (b / "exec.out").read_text()
    r.clean(b)
    expect(out.startswith("0027"), out)


@drills("flags of newer engines are accepted: create")
def newer_flags(r):
    b = r.bundle("newer")
    seen = {}
    for flags in [["--no-pivot"], ["--no-new-keyring"], ["--preserve-fds", "0"]]:
        seen[flags[0]] = r.create(b, *flags).code
        r.clean(b)
    for front in [["--rootless=auto"], ["--rootless=false"], ["--debug"]]:
        made = r.call(
            *front, "--root", r.root, "create", "--bundle", b, "newer", bundle=b, style="buildah"
        )
        seen[front[0]] = made.code
        r.clean(b)
    expect(not any(seen.values()), seen)
    return seen


@drills("flags of newer engines are accepted: checkpoint and restore")
def newer_criu_flags(r):
    b = r.bundle("criu")
    # without the container the answer must be about it, not about the flags
    dump = [
        "--image-path",
        b / "i",
        "--work-path",
        b / "w",
        "--leave-running",
        "--tcp-established",
        "--ext-unix-sk",
        "--shell-job",
        "--file-locks",
        "--empty-ns",
        "network",
        "--parent-path",
        "../p",
        "--pre-dump",
        "--manage-cgroups-mode",
        "soft",
        "--auto-dedup",
    ]
    seen = [r.call("checkpoint", *dump, "criu", bundle=b).refused("does not exist")[0]]
    help_text = r.call("checkpoint", "--help", bundle=b, style="buildah").ok().out
    probe = r.call("restore", "--lsm-mount-context", bundle=b, style="buildah")
    said = probe.out + probe.err
    expect(help_text and ("requires an argument" in said or "flag needs an argument" in said), said)
    single = r.call(
        "restore",
        "--bundle",
        b / "no",
        "--detach",
        "--image-path",
        b / "i",
        "--work-path",
        b / "w",
        "-no-subreaper",
        "--no-pivot",
        "--pid-file",
        b / "p",
        "criu",
        bundle=b,
    )
    expect(single.code != 0 and "not defined" not in single.log + single.err, single.err)
    return seen


@drills("options given twice: the last one counts")
def repeated(r):
    b = r.running("repeated")
    for argv in [
        ["kill", "--all", "--all", "repeated", "0"],
        ["ps", "--format", "table", "--format", "json", "repeated"],
    ]:
        done = r.call("--debug", "--debug", *argv, bundle=b).ok()
    expect(json.loads(done.out), done.out)
    r.clean(b)
    b = r.bundle("repeated")
    r.create(b, "--pid-file", b / "first", "--pid-file", b / "second").ok()
    seen = [(b / name).exists() for name in ("first", "second")]
    r.clean(b)
    dumped = r.call("checkpoint", "--leave-running", "--leave-running", "nobody", bundle=b).refused(
        "does not exist"
    )[0]
    expect(seen == [False, True], seen)
    return seen, dumped


@drills("features: JSON on stdout")
def features(r):
    said = json.loads(r.call("features", bundle=r.bundle("features"), style="buildah").ok().out)
    expect(
        said["ociVersionMin"]
        and "create" not in said
        and "CAP_KILL" in said["linux"]["capabilities"],
        said,
    )
    # a runtime may know more than runc of Debian, which is why nothing else is compared
    expect(
        {"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}
        <= set(said["linux"]["namespaces"]),
        said["linux"]["namespaces"],
    )
    expect({"hooks", "linux", "mountOptions", "ociVersionMax"} <= set(said), sorted(said))


@drills("buildah's calls: no --root, no --log; errors on stderr")
def buildah(r):
    b = r.bundle("buildah", ["/bin/sh", "-c", "exit 4"])
    r.create(b, style="buildah").ok()
    r.call("start", "buildah", bundle=b, style="buildah").ok()

    def status():
        return json.loads(r.call("state", "buildah", bundle=b, style="buildah").ok().out)["status"]

    r.s.until("its end", lambda: status() == "stopped")
    r.call("delete", "buildah", bundle=b, style="buildah").ok()
    again = r.call("state", "buildah", bundle=b, style="buildah")
    expect(again.code == 1 and "does not exist" in again.err, again.err)
    wrong = r.create(r.bundle("buildah", ["nowhere"]), style="buildah")
    expect("executable file not found in $PATH" in wrong.err, wrong.err)
    r.clean(b)
    return wrong.code


drills += surroundings.drills


@drills("nothing is left at the end")
def nothing_left(r):
    r.s.state_roots_empty(r.root)
    r.s.no_cgroups_left()
