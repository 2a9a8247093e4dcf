"""By hand, as root, what systemd does for a site's two services: users, hidden paths, a network of loopback alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

CLONE_NEWNET = 0x40000000
NODE, TRAINER, GROUP = "64321", "64322", "64320"


class Network:
    """A network with nothing but loopback, in which ``port`` of our own loopback answers as well."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self._port = name, port
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        self._server = self._inside()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    def _inside(self) -> socket.socket:
        """A socket that listens in that network; a socket stays where it was made."""
        made: list[socket.socket] = []

        def make() -> None:  # a thread's network is its own
            handle = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(handle, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            os.close(handle)
            made.append(socket.create_server(("127.0.0.1", self._port)))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def _serve(self) -> None:
        while True:
            try:
                inner, _ = self._server.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(("127.0.0.1", self._port), 10)
            except OSError:
                inner.close()
                continue
            outer.settimeout(None)
            threading.Thread(target=_relay, args=(inner, outer), daemon=True).start()


def _relay(inner: socket.socket, outer: socket.socket) -> None:
    with inner, outer:
        back = threading.Thread(target=_pump, args=(outer, inner), daemon=True)
        back.start()
        _pump(inner, outer)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def confined(
    command: list[str], user: str, site: Path, hidden: list[Path], kept: Path, network: str | None = None
) -> list[str]:
    """``command`` as ``user`` without any privilege, with ``hidden`` out of sight, in ``network`` if one is named.

    ``kept``: an empty folder. Folders that only root may enter are opened as far as the interpreter and the site.
    """
    needed = [Path(sys.base_prefix), site]
    mounts = [line for number, path in enumerate(needed) for line in _opened(path, kept / str(number))]
    for path in hidden:
        if path.is_dir():
            mounts.append(["mount", "-t", "tmpfs", "-o", "mode=0000", "hidden", str(path)])
        elif path.exists():
            mounts += [["touch", str(kept / "none")], ["chmod", "0", str(kept / "none")]]
            mounts.append(["mount", "--bind", str(kept / "none"), str(path)])
    script = "\n".join([*map(shlex.join, mounts), 'exec "$@"'])
    drop = ["setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups", "--no-new-privs"]
    drop += ["--bounding-set=-all", "--inh-caps=-all"]
    enter = ["nsenter", f"--net=/run/netns/{network}"] if network else []
    return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", *enter, *drop, *command]


def _opened(path: Path, kept: Path) -> list[list[str]]:
    """Mounts that let everybody come as far as ``path``, without showing what else its closed parents hold."""
    closed = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001]
    if not closed:
        return []
    kept.mkdir(exist_ok=True)
    return [
        ["mount", "--bind", str(path), str(kept)],
        ["mount", "-t", "tmpfs", "-o", "mode=0755", "opened", str(closed[0])],
        ["mkdir", "-p", str(path)],
        ["mount", "--bind", str(kept), str(path)],
    ]
