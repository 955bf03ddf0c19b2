"""Our tasks as Harbor folders: Harbor's own model takes them, and they run where they are read."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import m2gym
from m2gym.core.errors import InputError
from m2gym.core.task import Limits, RewardSpec, Task
from m2gym.tasksets.harbor.export import export_task
from m2gym.tasksets.harbor.folder import FolderTaskset
from m2gym.tasksets.memory import ListTaskset
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.swe_repo.shipped import SweRepo
from tests.conftest import bwrap_works, require
from tests.tasksets.conftest import QUICK
from tests.tasksets.harbor.folders import write, write_steps
from tests.workspaces.engine import need_engine

NAME = QUICK[0]


@pytest.fixture(scope="module")
def exported(registry: None, real_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of swe-repo as a folder, over the image that the engine of the tests has."""
    folder = tmp_path_factory.mktemp("harbor") / NAME
    taskset = SweRepo(real_cache)
    export_task(taskset.prepare(taskset.task(NAME)), folder, base="m2gym-base")
    return folder


def rewards(folder: Path, kind: str) -> list[float | None]:
    """Of gold and of noop."""
    found = []
    for agent in ("gold", "noop"):
        run = m2gym.evaluate(
            f"harbor:{folder}", agent=agent, workspace=kind, progress=False,
            out=folder.parent / f"{kind}-{agent}",
        )  # fmt: skip
        (episode,) = run
        found.append(episode.verdict.reward)
        assert episode.error is None, episode.error
    return found


def test_a_task_of_ours_is_the_same_when_read_back(exported: Path, real_cache: Cache) -> None:
    ours, back = SweRepo(real_cache).task(NAME), FolderTaskset(exported).task(NAME)
    assert (back.instruction, back.rewards, back.network) == (
        ours.instruction, ours.rewards, ours.network,
    )  # fmt: skip
    assert set(ours.artifacts) < set(back.artifacts)
    assert back.metadata["difficulty"] == {
        key: value for key, value in ours.metadata["difficulty"].items() if value is not None
    }
    prepared = FolderTaskset(exported).prepare(back)
    assert {mount.target for mount in prepared.workspace.mounts} == {
        "/opt/m2gym/site", "/opt/m2gym/dist",
    }  # fmt: skip


def test_it_runs_in_a_local_box(exported: Path) -> None:
    require("bwrap", bwrap_works(), "bubblewrap does not work here")
    assert rewards(exported, "local") == [1.0, 0.0]


def test_it_runs_in_a_container(exported: Path) -> None:
    need_engine()
    assert rewards(exported, "docker") == [1.0, 0.0]


@pytest.mark.heavy
def test_its_own_script_judges_as_harbor_would_run_it(exported: Path, tmp_path: Path) -> None:
    """The file that m2gym reads goes by another name, so that only ``test.sh`` is left."""
    need_engine()
    folder = tmp_path / "scripted"
    shutil.copytree(exported, folder, symlinks=True)
    (folder / "tests/m2gym.json").rename(folder / "tests/told.json")
    judge = folder / "tests/judge.py"
    judge.write_text(judge.read_text().replace('"m2gym.json"', '"told.json"'))
    assert FolderTaskset(folder).task("scripted").rewards[0].name == "test-script"
    assert rewards(folder, "docker") == [1.0, 0.0]


@pytest.mark.heavy
def test_the_command_writes_folders(
    registry: None, real_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "m2gym", "export", "swe-repo", "-f", "harbor", "-o",
               str(tmp_path / "out"), "-t", NAME, "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"written": 1' in done.stdout
    assert FolderTaskset(tmp_path / "out").ids("test") == [NAME]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode != 0
    assert "is there already" in again.stderr


def small(**changed: Any) -> Task:
    return Task(
        **{
            "id": "a/b c",
            "instruction": "Say \"hi\"\n\\o/ 'x'\n",
            "files": {"a.py": "x = 0\n"},
            "rewards": (
                RewardSpec(name="tests-pass", parameters={
                    "fail_to_pass": ["test_a.py::test_a"], "pass_to_pass": []}),
            ),
            "artifacts": ("a.py",),
            "metadata": {
                "note": 'a "quoted" \\ one\n',
                "list": [1, None, {"k v": None, "b": True}],
            },
            **changed,
        }
    )  # fmt: skip


def test_odd_texts_survive_and_no_bound_is_invented(tmp_path: Path, cache: Cache) -> None:
    task = small(limits=Limits(seconds=None, memory_mb=None, disk_mb=None, cpus=1.5))
    prepared = ListTaskset("mine", [small(rewards=())], cache=cache).prepare(task)
    export_task(prepared, tmp_path / "t")
    told = tomllib.loads((tmp_path / "t/task.toml").read_text())
    assert told["metadata"]["note"] == 'a "quoted" \\ one\n'
    assert told["metadata"]["list"] == [1, {"b": True}]
    assert told["task"]["name"] == "m2gym/a-b-c"
    assert told["environment"] == {
        "workdir": "/workspace", "network_mode": "no-network", "cpus": 1.5,
    }  # fmt: skip
    assert told["agent"] == {}
    assert FolderTaskset(tmp_path / "t").task("t").instruction == task.instruction


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"rewards": (RewardSpec(name="answers"),)}, "its reward 'answers' needs m2gym"),
        ({"files": None}, "it has no files of its own"),
    ],
)
def test_what_needs_m2gym_is_refused_by_name(
    tmp_path: Path, cache: Cache, changed: dict[str, Any], why: str
) -> None:
    task = small(**changed)
    plain = small(rewards=(), **({"files": None} if "files" in changed else {}))
    prepared = ListTaskset("mine", [plain], cache=cache).prepare(plain)
    prepared = type(prepared)(task, prepared.workspace)
    with pytest.raises(InputError, match=why):
        export_task(prepared, tmp_path / "t")


HARBOR = ("harbor==0.25.0", "toml==0.10.2")


@pytest.fixture(scope="module")
def harbor_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Harbor's own ``TaskConfig``, from a folder (``M2GYM_HARBOR``) or fetched by pip.

    Harbor wants Python 3.12 as a whole, this model does not: it is loaded alone.
    """
    folder = Path(os.environ.get("M2GYM_HARBOR") or tmp_path_factory.mktemp("wheel"))
    if "M2GYM_HARBOR" not in os.environ:
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        done = subprocess.run([*fetch, "--ignore-requires-python", *HARBOR], capture_output=True)
        require("registry", done.returncode == 0, f"cannot fetch {HARBOR}")
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    for name in ("harbor", "harbor.models", "harbor.models.task", "harbor.models.trial",
                 "harbor.utils"):  # fmt: skip
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    yield importlib.import_module("harbor.models.task.config").TaskConfig
    sys.path.remove(str(folder))
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("harbor", "toml"):
            del sys.modules[name]


@pytest.mark.heavy
def test_harbors_own_model_takes_what_we_write(harbor_config: Any, exported: Path) -> None:
    config = harbor_config.model_validate_toml((exported / "task.toml").read_text())
    assert config.task.name == f"m2gym/{NAME}"
    assert config.verifier.environment_mode == "separate"
    assert config.artifacts == ["/workspace/pathspec"]
    assert config.environment.network_mode == "no-network"
    assert config.environment.workdir == "/workspace"
    again = harbor_config.model_validate_toml(config.model_dump_toml())
    assert again == config


ACCEPTED = [
    "",
    'version = "1.0"\n[environment]\nmemory = "4G"\nstorage = "10G"\nallow_internet = false\n',
    'schema_version = "1.2"\n[environment]\ncpus = 2\nbuild_timeout_sec = 900.0\n',
    '[environment]\nnetwork_mode = "allowlist"\nallowed_hosts = ["*.a.test", "10.0.0.0/8"]\n',
    'artifacts = ["/logs/x", {source = "/a", destination = "b"}]\n',
    '[verifier]\nenvironment_mode = "separate"\n[verifier.environment]\ndocker_image = "x:1"\n',
    '[[steps]]\nname = "one"\nmin_reward = 0.5\n[[steps]]\nname = "two"\nmin_reward = {a = 1.0}\n',
]
REFUSED = [
    'artifacts = ["/a/../b"]\n',
    '[environment]\nallowed_hosts = ["a.test"]\n',
    '[environment]\nnetwork_mode = "allowlist"\nallowed_hosts = ["http://a.test"]\n',
    '[environment]\nnetwork_mode = "allowlist"\nallowed_hosts = ["a.test:80"]\n',
    '[environment]\nnetwork_mode = "sometimes"\n',
    '[environment]\nmemory = "lots"\n',
    '[verifier]\nenvironment_mode = "shared"\n[verifier.environment]\ndocker_image = "x"\n',
    '[[steps]]\nname = "one"\n[[steps]]\nname = "ONE"\n',
    '[[steps]]\nname = "a/b"\n',
    'multi_step_reward_strategy = "best"\n',
]


@pytest.mark.heavy
@pytest.mark.parametrize("toml", [*ACCEPTED, *REFUSED])
def test_we_read_what_harbors_model_reads(harbor_config: Any, tmp_path: Path, toml: str) -> None:
    folder = (write_steps if "[[steps]]" in toml else write)(tmp_path / "t")
    (folder / "task.toml").write_text(toml)
    for name in ("one", "two"):
        shutil.copytree(folder / "tests", folder / "steps" / name / "tests")
        (folder / "steps" / name / "instruction.md").write_text("x")
        (folder / "steps" / name / "tests/test.sh").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if toml in REFUSED:
            with pytest.raises(ValueError, match=r".+"):
                harbor_config.model_validate_toml(toml)
            with pytest.raises(InputError):
                FolderTaskset(folder)
            return
        config = harbor_config.model_validate_toml(toml)
    task = FolderTaskset(folder).task("t")
    modes = {"public": "public", "none": "no-network", "allowlist": "allowlist"}
    assert config.environment.network_mode == modes[task.network]
    assert (config.environment.allowed_hosts or []) == list(task.allowed_hosts)
    if config.environment.memory_mb:
        assert (config.environment.memory_mb, config.environment.storage_mb) == (
            task.limits.memory_mb, task.limits.disk_mb,
        )  # fmt: skip
    assert [s.name for s in config.steps or []] == [
        s["name"] for s in task.metadata.get("steps", [])
    ]
