#!/usr/bin/python3
"""tests/vm/watch.py PID CONTROL SECONDS: ends a test VM whose output and console have both been
silent for SECONDS. PID is that of `timeout`, which runs QEMU; CONTROL is the VM's control
directory.

The script first sends the VM a non-maskable interrupt. The guest's kernel answers with a panic that
says where every CPU and every task stands (`unknown_nmi_panic`, `panic_print`;
admin-guide/kernel-parameters), and the script prints a line for each program.
"""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

TASK = re.compile(r"task:(\S+)\s+state:(\S)\s.*?pid:\s*(\d+)")
FRAME = re.compile(r"^(?:\[[^]]*\] )?\s+(?:\? )?([A-Za-z_][\w.]*)\+0x")


def sizes(control):
    """The lengths of the files that the VM writes to."""
    return [
        os.stat(control / name).st_size if (control / name).exists() else 0
        for name in ("output", "console")
    ]


def alive(pid):
    """Whether QEMU still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def tasks(console):
    """Each program of a kernel's task list as one line: its name, state, pid and innermost
    functions. Kernel threads are left out.
    """
    found, frames = [], None
    for line in console.splitlines():
        if task := TASK.search(line):
            frames = []
            found.append((task.groups(), frames))
        elif "</TASK>" in line:
            frames = None
        elif frames is not None and (frame := FRAME.match(line)):
            frames.append(frame[1])
    for (name, state, pid), frames in found:
        if "ret_from_fork" not in frames:
            functions = " ".join(f for f in frames if f not in ("__schedule", "schedule"))
            yield f"  {name}[{pid}] {state} {functions[:140]}"


def interrupt(control):
    """Sends the interrupt by QEMU's monitor."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(10)
        monitor.connect(str(control / "monitor"))
        monitor.recv(4096)
        monitor.sendall(b"nmi\n")
        time.sleep(1)


def end(pid, control):
    """Prints where the VM's programs stand, and ends it."""
    console = control / "console"
    told = console.stat().st_size
    try:
        interrupt(control)
    except OSError as error:
        print(f"  its monitor does not answer: {error}")
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.5)
    for line in tasks(console.read_bytes()[told:].decode(errors="replace")):
        print(line)
    if alive(pid):
        os.kill(pid, signal.SIGTERM)


def main():
    pid, control, limit = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    seen, since = sizes(control), time.monotonic()
    while alive(pid):
        time.sleep(1)
        now = sizes(control)
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since >= limit:
            print(
                f"test-vm: the VM was silent for {limit:.0f} s; its programs were at:", flush=True
            )
            end(pid, control)
            return


main()
