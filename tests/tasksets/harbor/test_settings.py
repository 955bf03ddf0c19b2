"""Harbor folders run as they are: steps, shared and separate verifiers, artifacts, networks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import m2gym
from m2gym.backends.trl_environment import environment_factory
from m2gym.core.errors import InputError
from m2gym.core.trajectory import Trajectory
from m2gym.envs.catalog import env_entry
from m2gym.forge.records import PoolTrajectory
from m2gym.rollout.attacks.battery import judge
from m2gym.rollout.limits import EpisodeLimits
from m2gym.rollout.regrade import regrade
from m2gym.tasksets.harbor.folder import FolderTaskset
from m2gym.workspaces.docker_engine import engine
from tests.conftest import bwrap_works, require
from tests.tasksets.harbor.folders import BASE, COPYING, STEPS, TOML, check, write, write_steps
from tests.workspaces.engine import able, need_engine


@pytest.fixture(params=["local", "docker"])
def either(request: pytest.FixtureRequest) -> str:
    return able(request.param)


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.heavy)])
def kind(request: pytest.FixtureRequest) -> str:
    return able(request.param)


@pytest.fixture
def local() -> str:
    require("bwrap", bwrap_works(), "bubblewrap does not work here")
    return "local"


def episode(folder: Path, agent: object, kind: str) -> Trajectory:
    """One attempt of an agent at the only task of a folder."""
    if kind == "docker":
        dockerfile = folder / "environment/Dockerfile"
        dockerfile.write_text(dockerfile.read_text().replace(COPYING.split("\n")[0], BASE))
    out = folder.parent / f"run-{getattr(agent, 'name', agent)}-{kind}"
    run = m2gym.evaluate(f"harbor:{folder}", agent=agent, workspace=kind, out=out, progress=False)
    (only,) = run
    return only


def commands(*lines: str) -> object:
    """An agent that gives commands and then ends, without submitting."""

    class Commands:
        name = "commands"
        uses_model = False

        async def run(self, episode) -> None:  # type: ignore[no-untyped-def]
            for line in lines:
                if not episode.done:
                    await episode.act(line)

    return Commands()


def test_a_folder_of_somebody_elses_runs_unchanged(tmp_path: Path, either: str) -> None:
    installs = "RUN printf 'echo hello' > /usr/local/bin/say && chmod 755 /usr/local/bin/say\n"
    files = {"environment/Dockerfile": COPYING + installs, "solution/solve.sh": "say > out.txt\n"}
    folder = write(tmp_path / "t", **(files if either == "docker" else {}))
    gold, noop = episode(folder, "gold", either), episode(folder, "noop", either)
    assert (gold.verdict.reward, noop.verdict.reward) == (1.0, 0.0), gold.error
    assert gold.verdict.isolation == "fresh"


def test_steps_are_done_in_turn_in_one_box(tmp_path: Path, either: str) -> None:
    folder = write_steps(tmp_path / "t")
    gold = episode(folder, "gold", either)
    assert gold.verdict.reward == 1.0, (gold.error, gold.verdict)
    assert gold.verdict.evidence["stages"] == {"first": 1.0, "second": 1.0}
    assert set(gold.verdict.scores) == {"first", "second"}


def test_a_missed_threshold_ends_the_steps(tmp_path: Path, local: str) -> None:
    noop = episode(write_steps(tmp_path / "t"), "noop", local)
    assert (noop.verdict.reward, noop.verdict.evidence["stages"]) == (0.0, {"first": 0.0})


def test_the_agent_comes_again_for_each_step(tmp_path: Path, local: str) -> None:
    folder = write_steps(tmp_path / "t")
    half = episode(folder, commands("echo one > a.txt", "ls > seen.txt"), local)
    assert half.verdict.reward == 0.5
    assert half.verdict.evidence["stages"] == {"first": 1.0, "second": 0.0}
    assert len(half.steps) == 4


def test_the_last_steps_reward_may_be_all(tmp_path: Path, local: str) -> None:
    folder = write_steps(tmp_path / "t")
    toml = (folder / "task.toml").read_text()
    (folder / "task.toml").write_text(toml.replace('"mean"', '"final"'))
    assert episode(folder, commands("echo one > a.txt"), local).verdict.reward == 0.0


def test_a_step_that_a_limit_kept_away_counts_0(tmp_path: Path, local: str) -> None:
    folder = write_steps(tmp_path / "t")
    run = m2gym.evaluate(
        f"harbor:{folder}", agent=commands("echo one > a.txt", "true"), workspace=local,
        limits=EpisodeLimits(steps=2), out=tmp_path / "run", progress=False,
    )  # fmt: skip
    (only,) = run
    assert only.verdict.reward == 0.5
    assert only.verdict.evidence == {"stages": {"first": 1.0}, "not_reached": ["second"]}


def test_a_step_out_of_time_is_judged_and_the_next_begins(tmp_path: Path, local: str) -> None:
    class Slow:
        name = "slow"
        uses_model = False

        async def run(self, episode) -> None:  # type: ignore[no-untyped-def]
            if "Write one" in episode.task.instruction:
                await episode.act("echo one > a.txt")
                await asyncio.sleep(3600)
            await episode.act("cat a.txt given.txt > b.txt")

    steps = STEPS.replace("min_reward = 0.5", "min_reward = 0.5\nagent = {timeout_sec = 2.0}")
    toml = TOML.replace("timeout_sec = 120.0", "timeout_sec = 3600.0")
    done = episode(write_steps(tmp_path / "t", toml, steps), Slow(), local)
    assert done.verdict.reward == 1.0, done
    assert [done.verdict.scores[name].evidence["stop"] for name in ("first", "second")] == [
        "deadline", "exited",
    ]  # fmt: skip


def test_a_person_steps_through_the_stages(tmp_path: Path, local: str) -> None:
    env = m2gym.make("harbor", path=write_steps(tmp_path / "t"), workspace=local)
    try:
        seen, _ = env.reset(seed=0)
        assert seen.startswith("Write one to a.txt")
        env.step("echo one > a.txt; sleep 300 & echo $! > pid; ls /tests /logs/verifier")
        seen, reward, terminated, truncated, info = env.submit()
        assert seen.startswith("Put a.txt and given.txt together")
        assert (reward, terminated, truncated, "verdict" in info) == (0.0, False, False, False)
        (child,) = env.fork(1)
        env.step("kill -0 $(cat pid) && cat a.txt given.txt > b.txt; ls /tests /logs/verifier")
        seen, reward, terminated, *_ = env.step({"name": "submit", "arguments": {}})
        assert (reward, terminated) == (1.0, True)
        *_, info = child.submit()
        assert info["verdict"].reward == 0.5
        child.close()
    finally:
        env.close()


OUTSIDE = {
    "tests/test.sh": check('[ "$(cat /home/agent/out)" = hello ] && kill -0 $(cat /tmp/pid)'),
    "solution/solve.sh": "echo hello > ~/out; sleep 300 >/dev/null 2>&1 & echo $! > /tmp/pid\n",
}


def test_a_shared_verifier_is_flagged_and_never_trained_on(tmp_path: Path, kind: str) -> None:
    toml = TOML.replace("[verifier]", '[verifier]\nenvironment_mode = "shared"')
    folder = write(tmp_path / "t", toml, **OUTSIDE)
    gold, noop = episode(folder, "gold", kind), episode(folder, "noop", kind)
    assert (gold.verdict.reward, noop.verdict.reward) == (1.0, 0.0), gold.verdict
    assert gold.verdict.isolation == noop.verdict.isolation == "shared"
    assert PoolTrajectory.of(gold).fault() == "graded in a shared box"


@pytest.mark.parametrize(
    ("mode", "reward"), [("shared", None), ("separate", 1.0)], ids=["shared", "separate"]
)
def test_trls_trainer_leaves_out_what_is_shared(
    tmp_path: Path, local: str, mode: str, reward: float | None
) -> None:
    toml = "artifacts = ['/app/out.txt']\n" + TOML.replace(
        "[verifier]", f'[verifier]\nenvironment_mode = "{mode}"'
    )
    folder = write(tmp_path / "t", toml)
    env = environment_factory("harbor", split="train", workspace=local, path=folder)()
    env.reset("t")
    env.bash("echo hello > out.txt")  # type: ignore[attr-defined]
    assert env.get_reward() == reward
    env._env.close()


def test_trls_trainer_gets_the_reward_of_all_steps(tmp_path: Path, local: str) -> None:
    env = environment_factory("harbor", workspace=local, path=write_steps(tmp_path / "t"))()
    env.reset("t")
    env.bash("echo one > a.txt")  # type: ignore[attr-defined]
    assert "Put a.txt and given.txt together" in env.submit()  # type: ignore[attr-defined]
    assert env.get_reward() == 0.5
    env._env.close()


def test_a_battery_exempts_what_is_shared(tmp_path: Path, local: str) -> None:
    from m2gym.rollout.attacks.battery import attacks

    toml = TOML.replace("[verifier]", '[verifier]\nenvironment_mode = "shared"')
    (attack,) = attacks(["reward_file"])
    gold = episode(write(tmp_path / "t", toml, **OUTSIDE), "gold", local)
    told = judge(attack, gold, {})
    assert told.ok
    assert "isolation: shared (never trained on)" in told.exempt


def test_what_lies_elsewhere_does_not_reach_a_fresh_verifier(tmp_path: Path, local: str) -> None:
    gold = episode(write(tmp_path / "t", **OUTSIDE), "gold", local)
    assert (gold.verdict.reward, gold.verdict.isolation) == (0.0, "fresh")


def test_declared_artifacts_reach_a_separate_verifier_and_nothing_else(
    tmp_path: Path, kind: str
) -> None:
    toml = "artifacts = ['/app/out.txt', {source = '/home/agent/kept'}]\n" + TOML.replace(
        "[verifier]", '[verifier]\nenvironment_mode = "separate"'
    )
    parts = ('[ "$(cat out.txt)" = hello ]', "[ -f start.txt ]", "[ ! -e other.txt ]",
             '[ "$(cat /logs/artifacts/a/b)" = log ]', "[ -f /home/agent/kept/x ]",
             "[ ! -e /home/agent/lost ]", "[ ! -L /logs/artifacts/out ]")  # fmt: skip
    solve = (
        "echo hello > out.txt; rm start.txt; touch other.txt ~/lost; mkdir ~/kept; touch ~/kept/x\n"
        "mkdir /logs/artifacts/a; echo log > /logs/artifacts/a/b; ln -s /etc /logs/artifacts/out\n"
    )
    files = {"tests/test.sh": check(" && ".join(parts)), "solution/solve.sh": solve}
    gold = episode(write(tmp_path / "t", toml, **files), "gold", kind)
    assert gold.verdict.reward == 1.0, gold.verdict
    assert gold.verdict.evidence["artifacts"]["elsewhere"] == 2


def test_a_verifier_may_have_an_image_of_its_own(tmp_path: Path) -> None:
    need_engine()
    toml = "artifacts = ['/app/out.txt']\n" + TOML.replace(
        "[verifier]", '[verifier]\nenvironment_mode = "separate"\nenv = {WANTED = "hello"}'
    )
    files = {
        "tests/Dockerfile": "FROM m2gym-base\nCOPY . /tests\nRUN echo only here > /judge\n",
        "tests/test.sh": check('[ -f /judge ] && [ "$(cat /app/out.txt)" = $WANTED ]'),
        "solution/solve.sh": "[ ! -e /judge ] && echo hello > out.txt\n",
    }
    folder = write(tmp_path / "t", toml, **files)
    assert "image of its own" in FolderTaskset(folder).task("t").metadata["needs_image"]
    assert episode(folder, "gold", "docker").verdict.reward == 1.0
    assert episode(folder, "noop", "docker").verdict.reward == 0.0


def test_an_agent_that_is_to_be_root_is(tmp_path: Path, kind: str) -> None:
    toml = TOML.replace("[agent]", '[agent]\nuser = "root"')
    files = {"tests/test.sh": check('[ "$(cat out.txt)" = "0 root" ]')}
    files["solution/solve.sh"] = 'echo "$(id -u) $USER" > out.txt\n'
    assert episode(write(tmp_path / "t", toml, **files), "gold", kind).verdict.reward == 1.0


def test_a_verifier_that_is_not_root_is_not(tmp_path: Path, local: str) -> None:
    toml = TOML.replace("[verifier]", '[verifier]\nuser = "agent"')
    files = {"tests/test.sh": check('[ "$(id -u)" = 1000 ]')}
    assert episode(write(tmp_path / "t", toml, **files), "noop", local).verdict.reward == 1.0


@pytest.mark.parametrize(
    ("lines", "agent", "verifier"),
    [
        ("", ("public", ()), ("public", ())),
        ("allow_internet = false", ("none", ()), ("none", ())),
        ('network_mode = "no-network"', ("none", ()), ("none", ())),
        ('network_mode = "allowlist"', ("none", ()), ("none", ())),
        (
            'network_mode = "allowlist"\nallowed_hosts = ["*.a.test"]\n'
            '[verifier]\nnetwork_mode = "no-network"',
            ("allowlist", ("*.a.test",)),
            ("none", ()),
        ),
        (
            'network_mode = "no-network"\n[agent]\nnetwork_mode = "allowlist"\n'
            'allowed_hosts = ["b.test"]\n[verifier.environment]\n',
            ("allowlist", ("b.test",)),
            ("public", ()),
        ),
    ],
)
def test_networks_of_both_boxes(
    tmp_path: Path, lines: str, agent: object, verifier: object
) -> None:
    folder = write(tmp_path / "t", f"[environment]\n{lines}\n")
    taskset = FolderTaskset(folder)
    prepared = taskset.prepare(taskset.task("t"))
    assert (prepared.workspace.network, prepared.workspace.allowed_hosts) == agent
    grading = prepared.grading
    assert grading is not None
    assert (grading.network, grading.allowed_hosts) == verifier


def test_an_allowlist_is_kept_and_what_was_asked_for_is_told(tmp_path: Path, local: str) -> None:
    toml = TOML.replace(
        'network_mode = "no-network"',
        'network_mode = "allowlist"\nallowed_hosts = ["files.a.test"]',
    ).replace("[verifier]", '[verifier]\nnetwork_mode = "no-network"')
    fetch = "python3 -c 'import urllib.request as u; u.urlopen(\"http://b.test/x\")'"
    done = episode(write(tmp_path / "t", toml), commands(fetch, "echo hello > out.txt"), local)
    assert "HTTP Error 403" in done.steps[0].observation
    assert done.verdict.evidence["network"] == {"passed": {}, "refused": {"b.test:80": 1}}
    assert done.verdict.reward == 1.0


def test_what_needs_an_image_goes_to_docker_by_itself(tmp_path: Path) -> None:
    need_engine()
    files = {"environment/Dockerfile": f"{BASE}\nWORKDIR /app\nRUN touch /made\n"}
    folder = write(tmp_path / "t", **files)
    run = m2gym.evaluate(f"harbor:{folder}", agent="gold", out=tmp_path / "run", progress=False)
    (only,) = run
    assert (only.workspace, only.verdict.reward) == ("docker", 1.0)
    with pytest.raises(InputError, match="workspace='docker'"):
        episode(folder, "gold", "local")


def test_an_image_that_names_its_work_folder_is_asked(tmp_path: Path) -> None:
    need_engine()
    base = tmp_path / "base"
    base.mkdir()
    (base / "Dockerfile").write_text(f"{BASE}\nWORKDIR /elsewhere\n")
    tag = "m2gym-test-workdir:1"
    for step in engine().api.build(path=str(base), tag=tag, rm=True, decode=True):
        assert "error" not in step, step
    try:
        toml = TOML.replace("[environment]", f'[environment]\ndocker_image = "{tag}"')
        files = {"environment/Dockerfile": "", "environment/start.txt": "",
                 "solution/solve.sh": "[ $PWD = /elsewhere ] && echo hello > out.txt"}  # fmt: skip
        done = episode(write(tmp_path / "t", toml, **files), "gold", "auto")
        assert (done.verdict.reward, done.workspace) == (1.0, "docker"), done.error
    finally:
        engine().api.remove_image(tag, force=True)


@pytest.mark.parametrize("steps", [True, False])
def test_what_a_run_does_not_keep_whole_is_not_graded_again(
    tmp_path: Path, local: str, steps: bool
) -> None:
    toml = TOML.replace("[verifier]", '[verifier]\nenvironment_mode = "shared"')
    folder = write_steps(tmp_path / "t") if steps else write(tmp_path / "t", toml)
    episode(folder, "gold", local)
    with pytest.raises(InputError, match=r"in stages|in the agent's own box"):
        regrade(tmp_path / "run-gold-local")


def test_marks_for_crawlers_are_not_shown(tmp_path: Path) -> None:
    text = "<!-- benchmark canary GUID 1 -->\n# canary 2\n\nDo it.\n# canary in the text\n"
    folder = write(tmp_path / "t", **{"instruction.md": text})
    assert FolderTaskset(folder).task("t").instruction == "Do it.\n# canary in the text\n"


@pytest.mark.parametrize(
    "name", ["environment/docker-compose.yaml", "trajectory.json", ".harborignore"]
)
def test_files_that_are_not_supported_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "t", **{name: "x"})
    with pytest.raises(InputError, match=name.rpartition("/")[2]):
        env_entry(f"harbor:{folder}").taskset()


def test_a_step_without_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder steps/lost"):
        FolderTaskset(write(tmp_path / "t", TOML + "[[steps]]\nname = 'lost'\n"))
