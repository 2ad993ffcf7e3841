"""A small websocket client for the streams of the container runtime interface: exec, attach and
port-forward.

Every message is binary, and its first byte is the channel: 0 stdin, 1 stdout, 2 stderr, 3 the final
status, 4 the terminal's size; with port-forward, 0 data and 1 errors.
"""

import base64
import os
import socket
import struct
from urllib.parse import urlsplit


class Stream:
    """An open connection to a streaming URL."""

    def __init__(self, url, protocol="v4.channel.k8s.io", timeout=30):
        where = urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port), timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        head = [
            f"GET {where.path}?{where.query} HTTP/1.1",
            f"Host: {where.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: {protocol}",
        ]
        self.socket.sendall("\r\n".join([*head, "", ""]).encode())
        self.buffer = b""
        answer = self.until(b"\r\n\r\n")
        if b" 101 " not in answer.split(b"\r\n")[0]:
            raise AssertionError(f"no websocket: {answer!r}")

    def fill(self):
        """Read more from the socket; fails at its end."""
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the stream ended")
        self.buffer += data

    def until(self, mark):
        """What is read up to and with `mark`."""
        while mark not in self.buffer:
            self.fill()
        at = self.buffer.index(mark) + len(mark)
        taken, self.buffer = self.buffer[:at], self.buffer[at:]
        return taken

    def take(self, size):
        """The next `size` bytes."""
        while len(self.buffer) < size:
            self.fill()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def send(self, channel, data):
        """Send to a channel. A client's frames are masked."""
        data, mask = bytes([channel]) + data, os.urandom(4)
        size = (
            struct.pack(">B", 128 | len(data))
            if len(data) < 126
            else struct.pack(">BH", 128 | 126, len(data))
        )
        self.socket.sendall(
            b"\x82" + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))
        )

    def receive(self):
        """The next (channel, data); None when the other side closes."""
        while True:
            try:
                first, second = self.take(2)
                size = second & 127
                if size > 125:
                    size = struct.unpack(
                        ">H" if size == 126 else ">Q", self.take(2 if size == 126 else 8)
                    )[0]
                data = self.take(size)
            except EOFError:
                return None
            if first & 15 == 8:
                return None
            if first & 15 in (1, 2) and data:
                return data[0], data[1:]

    def all(self):
        """Everything to the end, by channel."""
        out = {}
        while True:
            message = self.receive()
            if message is None:
                return out
            out[message[0]] = out.get(message[0], b"") + message[1]

    def close(self):
        """Close the connection."""
        self.socket.close()
