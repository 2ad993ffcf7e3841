"""What the checkpoint drills share: a criu that works here, a program that counts, a client whose
bytes are checked.
"""

import socket
from pathlib import Path

from drill import Skip, expect

# Counts in memory, and writes each number into a file: a restored container goes on, one that is
# started anew begins with 1.
COUNTING = [
    "/bin/sh",
    "-c",
    "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; /bin/sleep 0.1; done",
]
SPEAKING = [*COUNTING[:2], COUNTING[2].replace("; echo", "; echo $i; echo")]
# Process 1 is an echo service of a single connection: it holds the connection itself.
ECHO = ["/usr/bin/nc", "-l", "-p", "7777", "-e", "/bin/cat"]


def criu_works(session):
    """Skip the drill where there is no criu that fits the kernel, with the reason."""
    missing = session.fetched.criu / "why"
    why = missing.read_text() if missing.exists() else ""
    if not Path("/usr/sbin/criu").exists():
        raise Skip(why or "criu is not installed")
    check = session.run("criu", "check")
    if check.code != 0:
        first = (check.err.splitlines() or ["?"])[0]
        raise Skip(f"criu does not work here: {first}" + f" ({why})" * bool(why))


class Client:
    """A connection to ECHO; what is sent must come back, byte by byte, whatever happened to the
    container in between.
    """

    def __init__(self, session, address):
        self.session, self.sent, self.got = session, b"", b""
        self.connection = session.until("the echo service", lambda: connected((address, 7777)))
        self.connection.settimeout(60)

    def send(self, text):
        """Send some bytes and do not wait for them."""
        self.connection.sendall(text)
        self.sent += text

    def back(self):
        """Wait until all that was sent has come back, and compare it."""
        while len(self.got) < len(self.sent):
            data = self.connection.recv(65536)
            expect(data, "the connection ended after", self.got[-40:])
            self.got += data
        expect(self.got == self.sent, "other bytes came back:", self.got[-40:])

    def close(self):
        """Close the connection; process 1 of the container ends with it."""
        self.connection.close()


def connected(at):
    """A connection, or None."""
    try:
        return socket.create_connection(at, 2)
    except OSError:
        return None
