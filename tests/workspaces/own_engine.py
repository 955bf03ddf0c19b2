"""A container engine of the tests' own, to be killed and starved without harm to another."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from m2gym.workspaces.state import remove_tree
from tests.workspaces.small_image import NAME, tar_of_bash


class OwnEngine:
    """``dockerd`` with a folder, a socket and (if named) a bridge of its own."""

    def __init__(self, *options: str, data: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="m2gym-engine-", dir="/tmp"))
        self.socket = f"unix://{self.folder}/sock"
        self._data = data or self.folder / "data"
        self._options = options or ("--bridge=none",)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers. A first start after a kill may fail: tried thrice."""
        for _ in range(3):
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        *self._apart(),
                        *("dockerd", f"--data-root={self._data}", f"--host={self.socket}"),
                        *(f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"),
                        *("--iptables=false", "--ip-masq=false", *self._options),
                    ],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            for _ in range(600):
                if self.docker("version", check=False).returncode == 0:
                    return
                if self._process.poll() is not None:
                    break
                time.sleep(0.1)
            self.kill()
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def _apart(self) -> tuple[str, ...]:
        """An engine without a bridge removes ``docker0``, whosever it is: it gets a network of its
        own, in which there is none."""
        return ("unshare", "--net") if "--bridge=none" in self._options else ()

    def docker(
        self, *words: str, data: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """The engine's command line against this engine."""
        command = ["docker", f"--host={self.socket}", *words]
        return subprocess.run(command, input=data, capture_output=True, check=check)

    def import_image(self) -> None:
        self.docker("import", "-", NAME, data=tar_of_bash())

    def kill(self) -> None:
        """SIGKILL, to it and to the containerd that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        keeper = self.folder / "exec" / "containerd" / "containerd.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int(keeper.read_text()), signal.SIGKILL)
        for name in (keeper, self.folder / "pid"):
            name.unlink(missing_ok=True)

    def close(self) -> None:
        """End it as one does, and whatever it leaves."""
        if self._process is not None and self._process.poll() is None:
            for name in self.docker("ps", "-aq", check=False).stdout.decode().split():
                self.docker("rm", "-f", name, check=False)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
        self.kill()
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith((str(self.folder), str(self._data))):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        remove_tree(self.folder)


class SmallDisk:
    """A file system of so many megabytes in a file."""

    def __init__(self, megabytes: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="m2gym-disk-", dir="/tmp"))
        image, self.path = self._folder / "image", self._folder / "disk"
        self.path.mkdir()
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(self.path)], check=True)

    def fill(self) -> None:
        """Until not a block is left."""
        with (self.path / "ballast").open("wb", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def free(self) -> None:
        (self.path / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)
        remove_tree(self._folder)


class OwnBridge:
    """A bridge with room for one address beside its own."""

    name, network = "m2gymtest0", "10.213.77.0/30"

    def __init__(self) -> None:
        for words in (
            f"link add name {self.name} type bridge",
            f"address add 10.213.77.1/30 dev {self.name}",
            f"link set {self.name} up",
        ):
            subprocess.run(["ip", *words.split()], check=True)

    def close(self) -> None:
        subprocess.run(["ip", "link", "delete", self.name], check=False)


def can_be_made() -> bool:
    """Whether an engine can be started here."""
    return os.getuid() == 0 and all(map(shutil.which, ("dockerd", "docker", "containerd")))
