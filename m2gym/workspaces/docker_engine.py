"""The container engine: one client a process, its errors in our words, and the reaper.

The engine must run on this machine's own kernel: a box is reached through a socket that the engine
shows in the container, and its files through a descriptor that comes over that socket.

Every container and snapshot carries the label of its owner, a process of this machine and user
(`m2gym.workspaces.state`). A box ends by itself when its owner dies; what an engine that was down
or killed left behind is removed by the next owner, or by ``m2gym doctor --reap``: only what bears
the mark of this user's folder and whose owner's lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from m2gym.core.errors import CapabilityError, InfraError
from m2gym.workspaces.state import State

T = TypeVar("T")

OWNER, PLACE = "m2gym.owner", "m2gym.place"
"""Labels: whose a thing is, and the mark of the folder that holds the owners' locks."""

ANSWER_SECONDS = 120
"""How long the engine may take to answer one request; the project's choice."""

_MENDS = (
    ("no space left on device", "the engine's disk is full; run: docker system prune"),
    ("address pool", "too many networks; run: docker network prune"),
    ("no available ipv4", "the network has no free address; run: docker network prune"),
    ("no such image", "no such image here; run: docker pull IMAGE"),
    ("pull access denied", "no registry has it under that name; build it, or run: docker login"),
    ("toomanyrequests", "the registry asks to wait; run: docker login"),
    ("connection refused", "the engine does not run; run: systemctl start docker"),
    ("permission denied", "this user may not use the engine; run: sudo usermod -aG docker $USER"),
    ("no such file or directory", "the engine does not run; run: systemctl start docker"),
    ("connection aborted", "the engine does not answer; run: systemctl restart docker"),
    ("read timed out", "the engine is stuck; run: systemctl restart docker"),
)  # fmt: skip

_guard = threading.Lock()
_current: Engine | None = None


class Engine:
    """A client of the engine that ``DOCKER_HOST`` names (by default this machine's)."""

    def __init__(self) -> None:
        try:
            import docker
        except ImportError:
            raise CapabilityError(
                "the docker workspace needs the Docker SDK; run: pip install 'm2gym[docker]'"
            ) from None
        where = os.environ.get("DOCKER_HOST", "")
        if where and not where.startswith("unix://"):
            raise CapabilityError(
                f"the docker workspace needs an engine on this machine, DOCKER_HOST is {where!r}; "
                "run m2gym beside the engine, or use workspace='e2b'"
            )
        self.pid = os.getpid()
        with failures("reaching the engine"):
            self.api = docker.APIClient(
                **docker.utils.kwargs_from_env(), version="auto", timeout=ANSWER_SECONDS
            )
            info = self.api.info()
        kernel = os.uname().release
        if info.get("KernelVersion") != kernel:
            raise CapabilityError(
                f"the docker workspace needs the engine on this kernel ({kernel}), it runs on "
                f"{info.get('KernelVersion')}; run m2gym where the engine runs"
            )
        self.driver = str(info.get("Driver"))
        self.place = _place()
        self.reaped = self.reap()

    def labels(self) -> dict[str, str]:
        """Marks of what this process makes."""
        return {OWNER: State.get().owner, PLACE: self.place}

    def reap(self) -> list[str]:
        """Remove containers and snapshots of dead owners; what was removed.

        Raises:
            InfraError: the engine failed.
        """
        removed: list[str] = []
        ours = {"label": [f"{PLACE}={self.place}"]}
        base = State.get().path.parent
        with failures("looking for what dead runs left"):
            containers = self.api.containers(all=True, filters=ours)
            images = self.api.images(filters=ours)
        for kind, things in (("container", containers), ("snapshot", images)):
            for thing in things:
                if not _dead(base / str((thing.get("Labels") or {}).get(OWNER, ""))):
                    continue
                if kind == "container":
                    self.remove_container(thing["Id"])
                else:
                    self.remove_image(thing["Id"])
                removed.append(f"{kind} {thing['Id'].removeprefix('sha256:')[:12]}")
        return removed

    def remove_container(self, name: str) -> None:
        """Kill and remove a container; returns when it is gone. A missing one is fine."""
        import docker

        with failures("removing a container"):
            try:
                self.api.remove_container(name, force=True, v=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409:
                    raise
            with contextlib.suppress(docker.errors.NotFound):
                self.api.wait(name, timeout=30, condition="removed")

    def has_container(self, name: str) -> bool:
        """Whether a container runs or is about to."""
        import docker

        with failures("looking at a container"):
            try:
                state = self.api.inspect_container(name)["State"]
            except docker.errors.NotFound:
                return False
        return bool(state["Running"] or state["Status"] == "created")

    def remove_image(self, name: str) -> None:
        """Remove an image; one that is missing or in use is left."""
        import docker

        with failures("removing an image"):
            try:
                self.api.remove_image(name, force=True)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):
                    raise


def engine() -> Engine:
    """This process's client, made on first use.

    Raises:
        CapabilityError: no SDK, or an engine elsewhere.
        InfraError: the engine does not answer.
    """
    global _current
    with _guard:
        if _current is None or _current.pid != os.getpid():
            _current = Engine()
        return _current


def ask(what: str, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call the SDK; its errors become `InfraError`, naming ``what`` and the mend."""
    with failures(what):
        return function(*arguments, **named)


@contextlib.contextmanager
def failures(what: str) -> Iterator[None]:
    """Turn the engine's errors into `InfraError` with the command that mends them."""
    import docker
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        text = str(getattr(error, "explanation", None) or error).strip()
        mend = next((m for sign, m in _MENDS if sign in text.lower()), "see: docker info")
        raise InfraError(f"{what} failed: {text[:600]}; {mend}") from error


def _place() -> str:
    """The mark of this user's folder on this machine, made once."""
    path = State.get().path.parent / "place"
    try:
        with path.open("x") as file:
            file.write(secrets.token_hex(8))
    except FileExistsError:
        pass
    return path.read_text()


def _dead(folder: Path) -> bool:
    """Whether the owner with this folder has ended."""
    if folder.parent == folder or not folder.name.startswith("m2gym-"):
        return False
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
