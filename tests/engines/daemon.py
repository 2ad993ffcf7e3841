"""A containerd in a sandbox: what its own drills and those of its CRI service share."""

HEAD = """version = {version}
root = "{scratch}/containerd/root"
state = "{scratch}/containerd/state"
disabled_plugins = [{disabled}]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[debug]
  level = "debug"
"""


class Daemon:
    """A containerd of our own: its directories, its configuration, its start and its end."""

    def __init__(
        self, session, version, config="", disabled=("io.containerd.internal.v1.opt",), path=""
    ):
        """`config` is what follows the common head, in the form of `version`; `path` a directory of
        newer programs.
        """
        self.s = session
        self.socket = session.scratch / "c.sock"
        self.environment = {"PATH": f"{path}:{session.environment['PATH']}"} if path else {}
        # a mapped root must pass through
        for directory in ["containerd", "containerd/root", "containerd/state"]:
            (session.scratch / directory).mkdir(mode=0o711)
        self.config = session.scratch / "containerd.toml"
        plugins = ", ".join(f'"{name}"' for name in disabled)
        head = HEAD.format(
            version=version, scratch=session.scratch, socket=self.socket, disabled=plugins
        )
        self.config.write_text(head + config)
        self.daemon = None

    def client(self, namespace, *argv):
        """The argument list of a ctr command in one of containerd's namespaces."""
        return ["ctr", "--address", str(self.socket), "--namespace", namespace, *map(str, argv)]

    def answers(self):
        """Whether the daemon does its work."""
        return self.s.run("ctr", "--address", self.socket, "version").code == 0

    def up(self):
        """Start the daemon and wait until it answers."""
        self.daemon = self.s.start(
            "containerd", "--config", self.config, log="containerd.log", env=self.environment
        )
        self.s.until("containerd", self.answers)

    def stop(self):
        """Stop the daemon."""
        self.daemon.terminate()
        self.daemon.wait(30)
