import re
from collections.abc import Callable
from pathlib import Path

import pytest

import m2gym.rewards  # noqa: F401  (registers the reward functions)
from m2gym.core.errors import CapabilityError, InputError, UnknownIdError, VerifierError
from m2gym.core.task import RewardSpec, WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.envs.catalog import env_entry
from m2gym.tasksets.harbor.folder import FolderTaskset
from m2gym.tasksets.outcomes.measure import verdicts
from m2gym.tasksets.registry.cache import Cache
from m2gym.workspaces import make_workspace
from tests.workspaces.engine import need_engine

MakeBox = Callable[[WorkspaceSpec], Workspace]

TOML = """
schema_version = "1.4"
[task]
name = "org/hello"
[metadata]
difficulty = "easy"
[environment]
memory_mb = 512
network_mode = "no-network"
env = {GREETING = "hello"}
[agent]
timeout_sec = 120.0
[verifier]
timeout_sec = 60.0
env = {WANTED = "hello world"}
[solution]
env = {WHO = "world"}
"""
SCRIPT = """
if [ "$(cat /app/out.txt)" = "$WANTED" ] && [ -f /tests/data/extra ]; then r=1; else r=0; fi
echo "{\\"reward\\": $r, \\"seconds\\": 0.5}" > /logs/verifier/reward.json
"""


def harbor(folder: Path, toml: str = TOML, script: str = SCRIPT, **files: str) -> Path:
    texts = {
        "task.toml": toml,
        "instruction.md": "Write a greeting to out.txt",
        "environment/Dockerfile": "FROM python:3.12-slim\nWORKDIR /app\nCOPY start.txt notes/ ./\n",
        "environment/start.txt": "start",
        "environment/notes/n.txt": "note",
        "tests/test.sh": script,
        "tests/data/extra": "",
        "solution/solve.sh": 'echo "$GREETING $WHO" > out.txt; cat /solution/part >/dev/null',
        "solution/part": "x",
        **files,
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_a_folder_becomes_a_task(tmp_path: Path, cache: Cache) -> None:
    taskset = FolderTaskset(harbor(tmp_path / "hello"), cache=cache)
    assert taskset.name == "hello"
    assert taskset.ids("train") == taskset.ids("test") == ["hello"]
    task = taskset.task("hello")
    assert task.instruction == "Write a greeting to out.txt"
    assert (task.limits.seconds, task.limits.grade_seconds) == (120.0, 60.0)
    assert task.limits.memory_mb == 512
    assert task.network == "none"
    assert task.env == {"GREETING": "hello"}
    assert task.metadata["difficulty"] == "easy"
    prepared = taskset.prepare(task)
    assert prepared.workspace.workdir == "/app"
    root = prepared.workspace.root
    assert root is not None
    assert {p.name: p.read_text() for p in root.rglob("*.txt")} == {
        "start.txt": "start",
        "n.txt": "note",
    }
    assert not list(root.rglob("test.sh"))


async def test_the_solution_earns_1_and_nothing_0(
    tmp_path: Path, cache: Cache, make_box: MakeBox
) -> None:
    taskset = FolderTaskset(harbor(tmp_path / "hello"), cache=cache)
    prepared = taskset.prepare(taskset.task("hello"))
    assert await verdicts(prepared, make_box, gold=True, runs=1) == [1.0]
    assert await verdicts(prepared, make_box, gold=False, runs=1) == [0.0]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 0.25 > /logs/verifier/reward.txt", 0.25),
        ("echo '{\"score\": 0.5}' > /logs/verifier/reward.json; exit 3", 0.5),
    ],
)
async def test_either_file_may_hold_the_reward(
    tmp_path: Path, cache: Cache, make_box: MakeBox, script: str, expected: float
) -> None:
    taskset = FolderTaskset(harbor(tmp_path / "t", script=script), cache=cache)
    prepared = taskset.prepare(taskset.task("t"))
    assert await verdicts(prepared, make_box, gold=False, runs=1) == [expected]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("true", "wrote neither"),
        ("touch /logs/verifier/reward.txt", "must hold finite numbers"),
        ("echo nan > /logs/verifier/reward.txt", "must hold finite numbers"),
        ("echo '{}' > /logs/verifier/reward.json", "must hold finite numbers"),
        ("echo '{\"reward\": NaN}' > /logs/verifier/reward.json", "must hold finite numbers"),
        ("echo '{\"reward\": true}' > /logs/verifier/reward.json", "must hold finite numbers"),
        ('echo \'{"a": 1, "b": 2}\' > /logs/verifier/reward.json', "none is named 'reward'"),
    ],
)
async def test_no_number_is_an_error_and_never_0(
    tmp_path: Path, cache: Cache, make_box: MakeBox, script: str, reason: str
) -> None:
    taskset = FolderTaskset(harbor(tmp_path / "t", script=script), cache=cache)
    prepared = taskset.prepare(taskset.task("t"))
    with pytest.raises(VerifierError, match=reason):
        await verdicts(prepared, make_box, gold=False, runs=1)


async def test_a_script_that_takes_too_long_is_an_error(
    tmp_path: Path, cache: Cache, make_box: MakeBox
) -> None:
    toml = TOML.replace("timeout_sec = 60.0", "timeout_sec = 1.5")
    taskset = FolderTaskset(harbor(tmp_path / "t", toml, "sleep 60"), cache=cache)
    with pytest.raises(VerifierError, match="took longer"):
        await verdicts(taskset.prepare(taskset.task("t")), make_box, gold=False, runs=1)


def _environment(line: str) -> str:
    return TOML.replace("memory_mb = 512", line)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (_environment("gpus = 1"), r"\[environment\] the field 'gpus' = 1 is not supported"),
        (_environment('allowed_hosts = ["a.example"]'), r"the field 'allowed_hosts'"),
        (_environment("healthcheck = {command = 'x'}"), r"the field 'healthcheck'"),
        (TOML.replace('"no-network"', '"some"'), r"'network_mode' = 'some' is not supported"),
        (
            TOML + "\n[[steps]]\nname='one'\nhealthcheck={command='x'}\n",
            r"\[steps 1\] .*'healthcheck'",
        ),
        (TOML + "\n[[steps]]\nname='a/b'\n", r"the field 'name' = 'a/b' is no name of a folder"),
        (TOML + "\n[[steps]]\nname='a'\n[[steps]]\nname='A'\n", r"two steps of one name"),
        (TOML.replace("timeout_sec = 60.0", "collect = [{command='x'}]"), r"the field 'collect'"),
        (
            "artifacts = [{source='/a', service='db'}]\n" + TOML,
            r"\[artifacts 1\] the field 'service'",
        ),
        ("artifacts = ['/a/../b']\n" + TOML, r"'artifacts' .* without '\.\.'"),
        (_environment("memory_bm = 1"), r"no field 'memory_bm'; did you mean 'memory_mb'"),
        (TOML + "\n[verifyer]\n", r"no field 'verifyer'; did you mean 'verifier'"),
        (_environment("memory_mb = 'lots'"), r"memory_mb is a whole number, got 'lots'"),
        (_environment("memory = 'lots'"), r"memory is a size such as '4G'"),
        (_environment("memory_mb = 1"), r"memory_mb"),
        (TOML.replace('"1.4"', '"9.9"'), r"schema_version is one of 1\.0"),
        (TOML.replace("timeout_sec = 120.0", "user = 'bob'"), r"\[agent\] the field 'user'"),
        (TOML.replace('"hello world"', '"${KEY}"'), r"env\.WANTED.*variable of the host"),
        (TOML.replace("difficulty", "split"), r"split is train or test, got 'easy'"),
        ("[task", r"is not TOML"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_file(
    tmp_path: Path, toml: str, message: str
) -> None:
    folder = harbor(tmp_path / "t", toml)
    with pytest.raises(InputError, match=message) as caught:
        FolderTaskset(tmp_path)
    assert str(folder / "task.toml") in str(caught.value)


@pytest.mark.parametrize("value", ["gpus = 0", "allowed_hosts = []", "cpus = 2"])
def test_a_field_without_effect_is_accepted(tmp_path: Path, value: str) -> None:
    harbor(tmp_path / "t", _environment(value))
    assert FolderTaskset(tmp_path).ids("test") == ["t"]


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("FROM x\nWORKDIR /app\nCOPY ../task.toml .\n", r"outside the environment folder"),
        ("FROM x\nWORKDIR /app\nCOPY absent .\n", r"there is no such file"),
    ],
)
def test_a_dockerfile_that_is_wrong_is_refused_by_line(
    tmp_path: Path, dockerfile: str, message: str
) -> None:
    harbor(tmp_path / "t", **{"environment/Dockerfile": dockerfile})
    with pytest.raises(InputError, match=message):
        FolderTaskset(tmp_path)


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("FROM x\nWORKDIR /app\nRUN apt-get update\n", r"line 3: RUN needs a container image"),
        ("FROM x\n# note\nADD a /app/\n", r"line 3: ADD needs a container image"),
        ("FROM x\nWORKDIR /app\nCOPY start.txt /etc/\n", r"outside the work folder '/app'"),
        ("FROM x\nWORKDIR /app\nCOPY --from=y a .\n", r"--from=y needs a container image"),
    ],
)
def test_what_needs_an_image_is_said_and_refused_by_boxes_without(
    tmp_path: Path, cache: Cache, dockerfile: str, message: str
) -> None:
    folder = harbor(tmp_path / "t", **{"environment/Dockerfile": dockerfile})
    taskset = FolderTaskset(tmp_path, cache=cache)
    assert re.search(message, taskset.task("t").metadata["needs_image"])
    spec = taskset.prepare(taskset.task("t")).workspace
    assert (spec.build, spec.workdir, spec.root) == (folder / "environment", "/app", None)
    with pytest.raises(CapabilityError, match="image"):
        make_workspace(spec, "process")


def test_a_ready_image_goes_before_the_dockerfile(tmp_path: Path, cache: Cache) -> None:
    harbor(tmp_path / "t", _environment('docker_image = "x:1"'))
    taskset = FolderTaskset(tmp_path, cache=cache)
    spec = taskset.prepare(taskset.task("t")).workspace
    assert (spec.image, spec.build, spec.needs_image) == ("x:1", None, True)


def test_the_environment_takes_a_path(tmp_path: Path) -> None:
    harbor(tmp_path / "tasks" / "hello")
    assert env_entry("harbor").taskset(path=tmp_path).ids("test") == ["tasks/hello"]
    assert env_entry(f"harbor:{tmp_path}").taskset().ids("test") == ["tasks/hello"]
    with pytest.raises(InputError, match="path=FOLDER"):
        env_entry("harbor").taskset()


INSTALLS = """FROM m2gym-base
WORKDIR /app
COPY start.txt notes/ ./
RUN printf '#!/bin/sh\\necho from the image\\n' > /usr/local/bin/tool
RUN chmod 755 /usr/local/bin/tool
"""


async def test_a_task_that_installs_something_runs_in_docker(tmp_path: Path, cache: Cache) -> None:
    need_engine()
    script = 'if [ "$(cat out.txt)" = "$(tool)" ]; then r=1; else r=0; fi\n' + (
        "echo $r > /logs/verifier/reward.txt"
    )
    files = {"environment/Dockerfile": INSTALLS, "solution/solve.sh": "tool > out.txt; rm n.txt"}
    taskset = FolderTaskset(harbor(tmp_path / "t", script=script, **files), cache=cache)
    prepared = taskset.prepare(taskset.task("t"))

    def docker_box(spec: WorkspaceSpec) -> Workspace:
        return make_workspace(spec, "docker")

    assert await verdicts(prepared, docker_box, gold=True, runs=1) == [1.0]
    assert await verdicts(prepared, docker_box, gold=False, runs=1) == [0.0]


def test_older_spellings_are_read(tmp_path: Path) -> None:
    toml = (
        'version = "1.0"\n[environment]\nmemory = "4G"\nstorage = "10G"\nallow_internet = false\n'
    )
    harbor(tmp_path / "t", toml)
    task = FolderTaskset(tmp_path).task("t")
    assert (task.limits.memory_mb, task.limits.disk_mb) == (4096, 10240)
    assert task.network == "none"


def test_a_tree_of_tasks_with_splits(tmp_path: Path) -> None:
    harbor(tmp_path / "b" / "one", TOML.replace('difficulty = "easy"', 'split = "train"'))
    harbor(tmp_path / "a", TOML.replace('difficulty = "easy"', 'split = "test"'))
    taskset = FolderTaskset(tmp_path, "mine")
    assert taskset.name == "mine"
    assert taskset.ids("train") == ["b/one"]
    assert taskset.ids("test") == ["a"]
    with pytest.raises(UnknownIdError, match="'b/one'"):
        taskset.task("b/on")


@pytest.mark.parametrize("lacking", ["instruction.md", "tests/test.sh"])
def test_a_folder_that_lacks_a_part_is_named(tmp_path: Path, lacking: str) -> None:
    (harbor(tmp_path / "t") / lacking).unlink()
    with pytest.raises(InputError, match=lacking):
        FolderTaskset(tmp_path)


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no task\.toml"):
        FolderTaskset(tmp_path)
    with pytest.raises(InputError, match="expected a folder"):
        FolderTaskset(tmp_path / "absent")


async def test_tests_named_in_the_metadata_are_the_reward(
    registry: None, real_cache: Cache, tmp_path: Path, make_box: MakeBox
) -> None:
    metadata = 'fail_to_pass = ["tests/test_a.py::test_a"]'
    folder = harbor(
        tmp_path / "t",
        TOML.replace('difficulty = "easy"', metadata),
        **{
            "tests/test_a.py": "def test_a(): assert open('out.txt').read() == 'hello world\\n'\n",
        },
    )
    (folder / "tests/test.sh").unlink()
    taskset = FolderTaskset(folder, cache=real_cache)
    task = taskset.task("t")
    assert task.rewards == (
        RewardSpec(
            name="tests-pass",
            parameters={"fail_to_pass": ["tests/test_a.py::test_a"], "pass_to_pass": []},
        ),
    )
    prepared = taskset.prepare(task)
    assert await verdicts(prepared, make_box, gold=True, runs=1) == [1.0]
    assert await verdicts(prepared, make_box, gold=False, runs=1) == [0.0]
