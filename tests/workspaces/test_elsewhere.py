"""The same tests as an ordinary user and with the supervisor in Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from m2gym.workspaces import seccomp
from m2gym.workspaces.helper import compiled, compiler, python_helper
from m2gym.workspaces.probe import probe

from .conftest import need

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOBODY = 65534


def run_tests(*arguments: str, command: list[str], env: dict[str, str]) -> str:
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts="]
    done = subprocess.run(
        [*command, "-m", "pytest", *options, *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_with_the_supervisor_in_python(needs_local: None) -> None:
    env = {**os.environ, "M2GYM_SUPERVISOR": "python"}
    names = ("test_conformance.py::TestLocal", "test_commands.py", "test_sandbox.py")
    files = [str(HERE / name) for name in names]
    run_tests(*files, "-k", "not process and not many", command=[sys.executable], env=env)


def test_as_an_ordinary_user(needs_local: None, tmp_path: Path) -> None:
    need("root", os.getuid() == 0, "only root can become another user")
    python = reachable_python()
    need("python", python is not None, "no Python that an ordinary user can run")
    home = Path("/tmp") / f"m2gym-test-nobody-{os.getpid()}"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    env = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if "site-packages" in p),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(python)]
    files = [str(HERE / f"test_{name}.py") for name in ("sandbox", "limits", "layers", "shell")]
    try:
        out = run_tests(
            *files, "-k", "not process", "--basetemp", str(home / "t"), command=command, env=env
        )
        assert " passed" in out
    finally:
        shutil.rmtree(home, ignore_errors=True)


def reachable_python() -> Path | None:
    """An interpreter of this version that nobody can run, and that finds our packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (Path(sys.executable), Path("/usr/bin") / version):
        if not candidate.exists():
            continue
        test = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(candidate)]
        path = os.pathsep.join(p for p in sys.path if "site-packages" in p)
        done = subprocess.run(
            [*test, "-c", "import pydantic, pytest, hypothesis, m2gym.core"],
            env={"PYTHONPATH": path},
            cwd=ROOT,
            capture_output=True,
        )
        if done.returncode == 0:
            return candidate
    return None


def test_the_compiled_supervisor_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("cc", compiler() is not None, "no C compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = compiled()
    assert first is not None
    stamp = first.stat().st_mtime_ns
    assert compiled() == first
    assert first.stat().st_mtime_ns == stamp
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("CC", "/bin/false")
    assert compiled() is None


def test_the_python_supervisor_needs_no_package() -> None:
    done = subprocess.run(
        [*python_helper().host, "launch", "--", "/bin/echo", "hello"], env={}, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"hello\n")


def test_both_supervisors_refuse_nonsense_alike() -> None:
    program = compiled()
    need("cc", program is not None, "no C compiler")
    for launcher in ([str(program)], list(python_helper().host)):
        for words in (["--nonsense", "--", "/bin/true"], ["--", "/no/such/program"]):
            done = subprocess.run([*launcher, "launch", *words], env={}, capture_output=True)
            assert done.returncode == 1
            assert words[0 if words[0] != "--" else 1].encode() in done.stderr


def test_probe_names_a_mend_for_every_lack(needs_local: None) -> None:
    findings = probe()
    names = {"local workspace", "second user for graders", "overlay mounts", "limits of a box"}
    assert {f.name for f in findings} >= {*names, "system calls", "supervisor"}
    for finding in findings:
        assert finding.detail
        if finding.state == "missing":
            assert finding.mend


def test_without_bubblewrap_the_error_names_the_command() -> None:
    script = (
        "from m2gym.workspaces import make_workspace\n"
        "from m2gym.core.task import WorkspaceSpec\n"
        "make_workspace(WorkspaceSpec())\n"
    )
    env = {"PATH": "/nonexistent", "PYTHONPATH": str(ROOT), "M2GYM_SUPERVISOR": "python"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "CapabilityError: no local workspace here: bubblewrap is not installed" in done.stderr
    assert "bubblewrap" in done.stderr.rpartition("run: ")[2] or "install" in done.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filters_jumps_stay_inside(machine: str) -> None:
    import struct

    code = seccomp.program(machine)
    assert code is not None
    steps = list(struct.iter_unpack("=HBBI", code))
    for at, (kind, yes, no, _) in enumerate(steps):
        if kind & 7 == 5:
            assert at + 1 + max(yes, no) < len(steps)
    assert steps[-1] == (0x06, 0, 0, 0x7FFF0000)
    assert seccomp.program("riscv64") is None
