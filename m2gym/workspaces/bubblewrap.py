"""Starting a box: what bubblewrap is told, and which kind of box this machine allows."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from m2gym.core.errors import CapabilityError, InfraError, InputError, WorkspaceLostError
from m2gym.core.registry import WORKSPACES
from m2gym.core.task import WorkspaceSpec
from m2gym.workspaces import seccomp
from m2gym.workspaces.helper import INSIDE, helper
from m2gym.workspaces.layers import Owners, overlay_options
from m2gym.workspaces.state import State

FIRST_ID = 0x6D320000
"""Host id of a box's user 0 when root starts boxes; ids up to 65,535 above it are the box's."""

AGENT, GRADER = 1000, 1001
HOMES = {"agent": "/home/agent", "grader": "/home/grader", "root": "/root"}
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("ld.so.cache", "ld.so.conf", "localtime", "mime.types", "protocols", "services", "inputrc")
_ETC_FOLDERS = ("alternatives", "ssl", "ca-certificates", "pki", "fonts", "terminfo")
_CAPABILITIES = ("SETUID", "SETGID", "KILL", "CHOWN", "FOWNER", "DAC_OVERRIDE", "SYS_PTRACE")


@dataclass(frozen=True)
class Ability:
    """What kind of box this machine allows: several users, overlay mounts, or why none."""

    bwrap: str | None
    users: bool = False
    overlay: bool = False
    reason: str = ""

    @property
    def works(self) -> bool:
        return self.bwrap is not None and not self.reason

    @property
    def owners(self) -> Owners:
        if not self.users:
            return Owners()
        ids = [(FIRST_ID + user, FIRST_ID + user) for user in (0, AGENT, GRADER)]
        return Owners(*ids)


def elsewhere() -> str:
    """Where to run what cannot run in a local box."""
    return "use workspace='docker'" if "docker" in WORKSPACES else "use a Linux (virtual) machine"


def install_command() -> str:
    """The command that installs bubblewrap here."""
    for tool, command in (
        ("apt-get", "apt-get install -y bubblewrap"),
        ("dnf", "dnf install -y bubblewrap"),
        ("pacman", "pacman -S bubblewrap"),
        ("apk", "apk add bubblewrap"),
        ("zypper", "zypper install bubblewrap"),
    ):
        if shutil.which(tool):
            return ("" if os.getuid() == 0 else "sudo ") + command
    return "install the package 'bubblewrap'"


@functools.cache
def ability() -> Ability:
    """Tried once per process by starting the smallest box of each kind."""
    program = shutil.which("bwrap")
    if os.uname().sysname != "Linux":
        return Ability(None, reason=f"bubblewrap needs Linux; {elsewhere()}")
    if program is None:
        return Ability(None, reason=f"bubblewrap is not installed; run: {install_command()}")
    shown = ["--ro-bind", "/usr", "/usr", *_links(), "--proc", "/proc", "--dev", "/dev"]
    inner = [program, "--unshare-pid", "--unshare-net", *shown, "--", "/usr/bin/env", "true"]
    errors = []
    if os.getuid() == 0:
        failure = _attempt(["--map", str(FIRST_ID)], inner)
        if not failure:
            return Ability(program, users=True, overlay=_overlay_works(["--private"]))
        errors.append(failure)
    inner[1:1] = ["--unshare-user", "--uid", str(AGENT), "--gid", str(AGENT)]
    failure = _attempt([], inner)
    if not failure:
        return Ability(program, overlay=_overlay_works(["--self"]))
    return Ability(program, reason=f"{failure or errors[0]}; {mend()}")


def mend() -> str:
    """The one command that lets bubblewrap make boxes here."""
    knob = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if knob.exists() and knob.read_text().strip() == "1":
        return "run: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    knob = Path("/proc/sys/kernel/unprivileged_userns_clone")
    if knob.exists() and knob.read_text().strip() == "0":
        return "run: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    knob = Path("/proc/sys/user/max_user_namespaces")
    if knob.exists() and knob.read_text().strip() == "0":
        return "run: sudo sysctl -w user.max_user_namespaces=15000"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return (
            "start this container with: docker run --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined "
            f"--cap-add SYS_ADMIN …, or {elsewhere()}"
        )
    return f"{elsewhere()} or, without a sandbox, workspace='process'"


def _attempt(launch: list[str], inner: list[str]) -> str:
    command = [*helper().host, "launch", *launch, "--", *inner]
    try:
        done = subprocess.run(command, env={}, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    text = done.stderr.decode("utf-8", "replace").strip()
    return "" if done.returncode == 0 else text or f"bubblewrap ended with {done.returncode}"


def _overlay_works(launch: list[str]) -> bool:
    with tempfile.TemporaryDirectory(dir=State.get().path) as name:
        folder = Path(name)
        folder.chmod(0o711)
        for part in ("l", "u", "w", "m"):
            (folder / part).mkdir()
        (folder / "l" / "seen").touch()
        options = overlay_options(f"{folder}/l", f"{folder}/u", f"{folder}/w")
        mount = [*launch, "--overlay", options, str(folder / "m")]
        works = not _attempt(mount, ["/usr/bin/env", "rm", str(folder / "m" / "seen")])
        with contextlib.suppress(OSError):
            (folder / "w" / "work").chmod(0o700)
        return works


def require() -> Ability:
    """The ability, or `CapabilityError` with the mend."""
    able = ability()
    if not able.works:
        raise CapabilityError(f"no local workspace here: {able.reason}")
    return able


@functools.cache
def _links() -> tuple[str, ...]:
    arguments: list[str] = []
    for name in _TOP:
        path = Path("/") / name
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return tuple(arguments)


@functools.cache
def _system(etc: Path) -> tuple[str, ...]:
    """The host's programs, and a box's ``/etc``."""
    arguments = ["--ro-bind", "/usr", "/usr", *_links(), "--ro-bind", str(etc), "/etc"]
    for name in _ETC_FOLDERS:
        if (etc / name).is_dir():
            arguments += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return tuple(arguments)


def _etc(users: bool, network: str) -> Path:
    """A minimal ``/etc``, made once per process and kind."""
    state = State.get()
    folder = state.path / f"etc-{network}"
    if folder.exists():
        return folder
    made = Path(tempfile.mkdtemp(dir=state.path))
    made.chmod(0o755)
    people = [("root", 0)] if users else []
    people += [("agent", AGENT), *([("grader", GRADER)] if users else []), ("nobody", 65534)]
    homes = {**HOMES, "nobody": "/"}
    texts = {
        "passwd": "".join(f"{n}:x:{i}:{i}::{homes[n]}:/bin/bash\n" for n, i in people),
        "group": "".join(f"{n}:x:{i}:\n" for n, i in people),
        "hosts": "127.0.0.1 localhost box\n::1 localhost\n",
        "hostname": "box\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    for name, text in texts.items():
        (made / name).write_text(text)
    for name in (*_ETC, *(["resolv.conf"] if network == "public" else [])):
        source = Path("/etc") / name
        if source.is_file():
            (made / name).write_bytes(source.read_bytes())
    for name in _ETC_FOLDERS:
        if (Path("/etc") / name).is_dir():
            (made / name).mkdir()
    try:
        made.rename(folder)
    except OSError:
        shutil.rmtree(made)
    return folder


@dataclass
class Launched:
    """A started bubblewrap and the file its complaints go to."""

    process: subprocess.Popen[bytes]
    errors: Path

    def complaint(self) -> str:
        with contextlib.suppress(OSError):
            return self.errors.read_text("utf-8", "replace").strip()[-2000:]
        return ""


def launch(
    spec: WorkspaceSpec,
    able: Ability,
    folder: Path,
    overlay: str | None,
    groups: Sequence[str],
    limits: Sequence[int],
    channel: int,
) -> Launched:
    """Start a box whose writable folders lie in ``folder/m``, with its supervisor on a socket."""
    state = State.get()
    before: list[str] = []
    for group in groups:
        before += ["--cgroup", group]
    if overlay is not None or able.users:
        before += ["--private"] if able.users else ["--self"]
    if overlay is not None:
        before += ["--overlay", overlay, str(folder / "m")]
    shown = list(_mounts(spec))
    if able.users:
        shown = _stage(folder, shown, before)
        before += ["--map", str(FIRST_ID)]
    with _seccomp_fd() as filter_fd:
        inner = _arguments(spec, able, folder / "m", shown, filter_fd)
        command = [
            *helper().host,
            "launch",
            *before,
            "--",
            *inner,
            "--",
            *helper().box,
            "serve",
            str(channel),
            *map(str, limits),
        ]
        errors = folder / "errors"
        try:
            with errors.open("ab") as log:
                process = subprocess.Popen(
                    command,
                    env={},
                    cwd=state.path,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[channel, *([filter_fd] if filter_fd >= 0 else [])],
                    start_new_session=True,
                )
        except OSError as error:
            raise WorkspaceLostError(f"the box could not be started: {error}") from error
    return Launched(process, errors)


def _mounts(spec: WorkspaceSpec) -> Iterator[tuple[str, str]]:
    for source, target in helper().mounts:
        yield os.path.realpath(source), target
    for mount in spec.mounts:
        if not mount.source.exists():
            raise InputError(f"expected mounts to exist on the host; {mount.source} does not")
        if not mount.target.startswith("/") or ".." in mount.target.split("/"):
            raise InputError(f"a mount's target is an absolute path, got {mount.target!r}")
        yield os.path.realpath(mount.source), mount.target


def _stage(folder: Path, shown: list[tuple[str, str]], before: list[str]) -> list[tuple[str, str]]:
    """Bind sources into the box's folder, because the box's root may not reach them on the host."""
    staged = []
    place = folder / "s"
    place.mkdir(mode=0o711, exist_ok=True)
    place.chmod(0o711)
    for number, (source, target) in enumerate(shown):
        point = place / str(number)
        if Path(source).is_dir():
            point.mkdir(exist_ok=True)
        else:
            point.touch()
        before += ["--rbind", source, str(point)]
        staged.append((str(point), target))
    return staged


@contextlib.contextmanager
def _seccomp_fd() -> Iterator[int]:
    code = seccomp.program()
    if code is None:
        yield -1
        return
    fd = os.memfd_create("seccomp")
    try:
        os.write(fd, code)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


@functools.cache
def version() -> tuple[int, ...]:
    """Bubblewrap's version."""
    text = subprocess.run(
        [require().bwrap or "bwrap", "--version"], capture_output=True, text=True, check=False
    ).stdout
    numbers = re.findall(r"\d+", text)
    if not numbers:
        raise InfraError(f"expected a version from bwrap --version, got {text!r}")
    return tuple(map(int, numbers))


def _arguments(
    spec: WorkspaceSpec, able: Ability, merged: Path, shown: list[tuple[str, str]], filter_fd: int
) -> list[str]:
    arguments = [able.bwrap or "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--as-pid-1", "--hostname", "box"]
    if spec.network != "public":
        arguments += ["--unshare-net"]
    if able.users:
        arguments += ["--cap-drop", "ALL"]
        for name in _CAPABILITIES:
            arguments += ["--cap-add", f"CAP_{name}"]
    else:
        arguments += ["--unshare-user", "--uid", str(AGENT), "--gid", str(AGENT)]
    if filter_fd >= 0:
        arguments += ["--seccomp", str(filter_fd)]
    arguments += _system(_etc(able.users, spec.network))
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    size = (spec.limits.memory_mb or 1024) << 19
    sized = ["--size", str(size)] if version() >= (0, 7) else []
    arguments += ["--perms", "1777", *sized, "--tmpfs", "/dev/shm", "--dir", INSIDE]
    targets = [HOMES["agent"], spec.workdir, *(target for _, target in shown)]
    for folder in dict.fromkeys(
        str(parent) for target in targets for parent in reversed(PurePosixPath(target).parents)
    ):
        if folder.count("/") and folder.split("/")[1] not in ("", "usr", "etc", "tmp", *_TOP):
            arguments += ["--perms", "0755", "--dir", folder]
    arguments += ["--bind", f"{merged}/tmp", "/tmp", "--bind", f"{merged}/home", HOMES["agent"]]
    if able.users:
        arguments += ["--bind", f"{merged}/grader", HOMES["grader"]]
        arguments += ["--bind", f"{merged}/root", HOMES["root"]]
    arguments += ["--bind", f"{merged}/work", spec.workdir]
    for source, target in shown:
        arguments += ["--ro-bind", source, target]
    for path, target in spec.links.items():
        arguments += ["--symlink", target, path]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/"]
