"""Installing agents: into one folder, by pip, offline afterwards; each runs isolated in its box."""

import base64
import hashlib
import sys
import zipfile

import pytest

import m2gym
from m2gym.core.errors import CapabilityError, DownloadError
from m2gym.models.scripted import ScriptedModel
from m2gym.scaffolds.blackbox import install
from m2gym.scaffolds.blackbox.install import AGENT, INTERPRETER, megabytes, pip_agent
from m2gym.scaffolds.blackbox.interpreters import find_python
from m2gym.tasksets.registry.cache import Cache
from tests.scaffolds.blackbox.scripts import SED

MODULE = """
import os, subprocess, sys, urllib.request, json
def main():
    body = {"model": "m", "messages": [{"role": "user", "content": " ".join(sys.path)}]}
    request = urllib.request.Request(
        sys.argv[1] + "/v1/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    said = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
    subprocess.run(said, shell=True)
    subprocess.run('echo "$PYTHONPATH" > path', shell=True)
    print(sys.prefix)
"""


@pytest.fixture
def wheel(tmp_path):
    """A wheel of an agent with a command of its own."""
    path = tmp_path / "ninth_agent-1.0-py3-none-any.whl"
    info = "ninth_agent-1.0.dist-info"
    files = {
        "ninth_agent.py": MODULE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: ninth-agent\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nninth-agent = ninth_agent:main\n",
    }
    record = "".join(
        f"{name},sha256={digest(text)},{len(text.encode())}\n" for name, text in files.items()
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return path


def digest(text):
    raw = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_pip_agent_is_installed_once_and_runs_isolated(calc, wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("M2GYM_CACHE", str(tmp_path / "cache"))
    agent = m2gym.CommandAgent(
        "ninth-agent {base_url}",
        install=[f"pip:{wheel}"],
        env={"PYTHONPATH": "/workspace", "PYTHONHOME": ""},
    )
    seen = []
    mounts = agent.install(None, lambda what, done, total: seen.append(what))
    assert any("installing" in what for what in seen)
    assert mounts[0].target == AGENT
    wheel.unlink()
    assert agent.install() == mounts
    [episode] = m2gym.evaluate(
        calc, agent=agent, model=ScriptedModel([SED]), progress=False, out=tmp_path / "run"
    )
    assert episode.verdict.reward == 1.0, episode
    shown = episode.completions[0].messages[-1]["content"]
    assert f"{AGENT}/lib/python" in shown
    assert "/workspace" not in shown
    assert episode.steps[0].observation.splitlines()[-1] == AGENT


def test_a_damaged_installation_is_noticed(wheel, tmp_path):
    cache = Cache(tmp_path / "cache")
    [folder, *_] = pip_agent([str(wheel)], cache=cache)
    script = folder.source / "bin" / "ninth-agent"
    assert script.read_text().startswith(f"#!{AGENT}/bin/python -I\n")
    assert str(tmp_path) not in (folder.source / "pyvenv.cfg").read_text()
    script.write_text("#!/bin/sh\necho mine\n")
    with pytest.raises(m2gym.core.errors.InfraError, match="damaged"):
        pip_agent([str(wheel)], cache=Cache(tmp_path / "cache"))


def test_what_cannot_be_installed_says_why(tmp_path):
    cache = Cache(tmp_path / "cache")
    with pytest.raises(DownloadError, match=r"could not be installed .*nowhere.whl"):
        pip_agent([str(tmp_path / "nowhere.whl")], cache=cache)
    assert not list((tmp_path / "cache" / "agents").glob("*"))
    with pytest.raises(CapabilityError, match=r"needs Python 3\.99.*uv python install 3\.99"):
        pip_agent(["x"], python="3.99", cache=cache)


def test_no_room_is_said_before_anything_is_fetched(tmp_path):
    with pytest.raises(CapabilityError, match="MB free; installing needs about"):
        pip_agent(["x"], size_mb=10**9, cache=Cache(tmp_path / "cache"))


def test_an_interpreter_is_found_by_version():
    running = find_python()
    assert running.version == ".".join(map(str, sys.version_info[:3]))
    assert find_python(".".join(map(str, sys.version_info[:2]))) == running
    assert running.in_usr == running.prefix.is_relative_to("/usr")


def test_an_interpreter_outside_usr_is_shown_in_the_box(wheel, tmp_path):
    mounts = pip_agent([str(wheel)], cache=Cache(tmp_path / "cache"))
    python = find_python()
    link = (mounts[0].source / "bin" / "python").readlink()
    if python.in_usr:
        assert (len(mounts), link) == (1, python.path)
    else:
        assert (mounts[1].source, mounts[1].target) == (python.prefix, INTERPRETER)
        assert str(link).startswith(INTERPRETER)


def test_hard_links_are_counted_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert megabytes(tmp_path) == 3
    assert install.NODE_VERSION.startswith("22.")
