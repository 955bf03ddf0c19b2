"""The environment in real boxes: actions, limits, grading, forks, Gymnasium's contract."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import m2gym
from m2gym.core.errors import EpisodeOverError, InfraError, InputError, UnknownIdError
from m2gym.envs.env import WorkspaceEnv
from tests.envs import tiny
from tests.tasksets.harbor.test_folder import harbor
from tests.tasksets.swe_bench_rows.test_taskset import checkouts_and_row

pytestmark = pytest.mark.usefixtures("bwrap")


@pytest.fixture
def env():
    made = m2gym.make(tiny.register())
    yield made
    made.close()


def test_an_episode_from_reset_to_verdict(env):
    observation, info = env.reset(options={"task": "t1"})
    assert "Write hi into out.txt." in observation
    assert "1800 seconds" in observation
    assert info["task"] == "t1"
    text, reward, terminated, truncated, info = env.step("cat a.txt; exit_me() { return 3; }")
    assert (text, reward, terminated, truncated) == ("1\n", 0.0, False, False)
    assert "[exit code 3]" in env.step("exit_me")[0]
    env.step("cd /tmp")
    assert env.step("pwd")[0] == "/tmp\n"
    env.step("echo hi > /workspace/out.txt")
    *_, reward, terminated, truncated, info = env.submit()
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["verdict"].status == "ok"
    assert info["verdict"].stop == "submitted"
    assert info["verdict"].isolation == "fresh"


def test_a_wrong_answer_scores_nothing(env):
    env.reset(seed=0)
    env.step("echo ho > out.txt")
    assert env.submit()[1] == 0.0


def test_tools_act_in_the_same_box(env):
    env.reset(seed=0)
    assert [tool.name for tool in env.tools] == [
        "bash", "read_file", "write_file", "replace", "submit",
    ]  # fmt: skip
    env.step({"name": "write_file", "arguments": {"path": "sub/x.txt", "content": "one\ntwo\n"}})
    env.step({"name": "replace", "arguments": {"path": "sub/x.txt", "old": "two", "new": "hi"}})
    assert env.step({"name": "bash", "arguments": {"command": "tail -1 sub/x.txt"}})[0] == "hi\n"
    shown = env.step({"name": "read_file", "arguments": {"path": "sub/x.txt", "first": 2}})[0]
    assert shown.split() == ["2", "hi"]
    env.step("mv sub/x.txt out.txt; echo hi > out.txt")
    _, reward, terminated, _, info = env.step({"name": "submit"})
    assert (reward, terminated) == (1.0, True)
    assert info["verdict"].reward == 1.0


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (7, "a shell command"),
        ({"arguments": {}}, "a shell command"),
        ({"name": "bash", "arguments": {}, "id": 1}, "a shell command"),
        ({"name": "bsh", "arguments": {}}, "did you mean 'bash'"),
        ({"name": "bash", "arguments": {"cmd": "ls"}}, "command"),
        ({"name": "read_file", "arguments": {"path": "nowhere"}}, "nowhere"),
        ({"name": "replace", "arguments": {"path": "a.txt", "old": "z", "new": ""}}, "0 times"),
        ("echo \0", "NUL"),
        ("echo \ud800", "Unicode"),
        ({"name": "write_file", "arguments": {"path": "/usr/x", "content": ""}}, "'/usr/x'"),
        ({"name": "write_file", "arguments": {"path": "a.txt/x", "content": ""}}, "'a.txt/x'"),
        ({"name": "write_file", "arguments": {"path": "x", "content": "\ud800"}}, "Unicode"),
        ({"name": "read_file", "arguments": {"path": "x" * 5000}}, "cannot read"),
    ],
)
def test_a_malformed_action_is_refused_and_the_episode_goes_on(env, action, says):
    env.reset(seed=0)
    with pytest.raises(InputError, match=says):
        env.step(action)
    assert env.step("echo on")[0] == "on\n"
    assert len(env.episode.steps) == 1


def test_unknown_names_are_answered_with_the_nearest(env):
    with pytest.raises(UnknownIdError, match="'tiny-hi'"):
        m2gym.make("tiny-hy")
    with pytest.raises(UnknownIdError, match="'t2'"):
        env.reset(options={"task": "t22"})
    with pytest.raises(InputError, match="'task'"):
        env.reset(options={"tsk": "t1"})
    with pytest.raises(InputError, match="'test'"):
        m2gym.make("tiny-hi", split="dev")


def test_an_episode_that_is_over_wants_a_reset(env):
    with pytest.raises(EpisodeOverError, match="reset"):
        env.step("true")
    env.reset(seed=0)
    env.submit()
    with pytest.raises(EpisodeOverError, match="over"):
        env.step("true")
    assert env.reset(seed=0)[1]["valid"] is True


def test_the_step_limit_truncates_and_is_graded():
    env = m2gym.make(tiny.register("tiny-steps", steps=2))
    env.reset(seed=0)
    assert env.step("echo hi > out.txt")[3] is False
    _, reward, terminated, truncated, info = env.step("true")
    assert (reward, terminated, truncated) == (1.0, False, True)
    assert info["verdict"].stop == "steps"
    env.close()


def test_the_deadline_truncates_is_told_and_is_graded():
    env = m2gym.make(tiny.register("tiny-deadline", seconds=1.5))
    observation, _ = env.reset(seed=0)
    assert "1.5 seconds" in observation
    told = int(env.step("echo $M2GYM_DEADLINE; echo hi > out.txt")[0])
    assert abs(told - time.time()) < 5
    text, reward, terminated, truncated, info = env.step("sleep 30")
    assert "killed after" in text
    assert (reward, terminated, truncated) == (1.0, False, True)
    assert info["verdict"].stop == "deadline"
    env.close()


def test_a_command_that_never_ends_costs_only_its_own_time():
    env = m2gym.make(tiny.register("tiny-exec", exec_seconds=0.5))
    env.reset(seed=0)
    assert "killed after 0.5 s" in env.step("sleep 60")[0]
    assert env.step("echo on")[0] == "on\n"
    env.close()


def test_long_output_is_cut_in_the_middle_and_lies_whole_in_the_box():
    env = m2gym.make(tiny.register("tiny-long", observation_chars=500))
    env.reset(seed=0)
    text = env.step("seq 1 5000")[0]
    assert len(text) < 700
    assert text.startswith("1\n2\n")
    assert text.endswith("5000\n")
    path = text.split("the whole is in ")[1].split(" ")[0]
    assert env.step(f"wc -l < {path}")[0].strip() == "5000"
    env.close()


def test_an_agent_that_spoils_the_output_folder_still_sees_its_output():
    env = m2gym.make(tiny.register("tiny-spoilt", observation_chars=500))
    env.reset(seed=0)
    env.step("ln -s /usr /tmp/m2gym-output")
    assert "could not be kept" in env.step("seq 1 5000")[0]
    env.close()


def test_the_output_limit_truncates_and_is_graded():
    env = m2gym.make(tiny.register("tiny-output", total_output_chars=1000))
    env.reset(seed=0)
    assert env.step("echo hi > out.txt; seq 1 100")[3] is False
    _, reward, terminated, truncated, info = env.step("seq 1 300")
    assert (reward, terminated, truncated) == (1.0, False, True)
    assert info["verdict"].stop == "output"
    env.close()


def test_too_much_left_behind_is_the_agents_doing_and_graded():
    env = m2gym.make(tiny.register("tiny-disk", disk_mb=20))
    env.reset(seed=0)
    env.step("for i in 1 2 3; do head -c 9000000 /dev/zero > f$i; done")
    *_, reward, _, _, info = env.submit()
    assert (reward, info["verdict"].status) == (0.0, "agent_error")
    env.close()


def test_wrong_settings_are_named():
    tiny.register()
    with pytest.raises(InputError, match=r"have no setting 'foo'$"):
        m2gym.make("tiny-hi", foo=1)
    m2gym.register("of-rows", tasks="swe-bench")
    with pytest.raises(InputError, match=r"needs the setting 'rows'$"):
        m2gym.make("of-rows")
    with pytest.raises(InputError, match="render_mode"):
        m2gym.make("tiny-hi", render_mode="rgb")
    m2gym.register("nowhere", tasks="/no/such/folder")
    with pytest.raises(InputError, match="neither a folder"):
        m2gym.make("nowhere")


def test_forks_go_their_own_ways(env):
    env.reset(seed=0)
    env.step("echo hi > out.txt")
    left, right = env.fork(2)
    right.step("echo ho > out.txt")
    assert [left.submit()[1], right.submit()[1], env.submit()[1]] == [1.0, 0.0, 1.0]
    assert left.episode.trajectory().parent == env.episode.id
    assert len(right.episode.trajectory().steps) == 2
    left.close()
    right.close()


def test_a_task_of_the_other_split_is_said_to_be_there():
    tasks = [
        m2gym.Task(id=split, instruction="x", metadata={"split": split})
        for split in ("train", "test")
    ]
    m2gym.register("two-splits", tasks=tasks)
    env = m2gym.make("two-splits")
    with pytest.raises(InputError, match=r"'train' of two-splits exists, .*split='train'\)"):
        env.reset(options={"task": "train"})
    with pytest.raises(UnknownIdError, match="did you mean 'test'"):
        env.reset(options={"task": "tes"})
    env.close()


def test_seeds_choose_the_task_and_nothing_else_does(env):
    drawn = [env.reset(seed=seed)[1]["task"] for seed in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert len(set(drawn)) > 1
    assert drawn == [env.reset(seed=seed)[1]["task"] for seed in (1, 2, 3, 4, 5, 6, 7, 8)]


def test_shaping_adds_what_ends_as_the_potential_of_the_start():
    async def potential(box):
        return float((await box.exec("cat out.txt 2>/dev/null")).stdout == b"hi\n") + 0.25

    env = m2gym.make(tiny.register(), shaping=potential)
    env.reset(seed=0)
    rewards = [env.step("true")[1], env.step("echo hi > out.txt")[1], env.submit()[1]]
    assert rewards == [0.0, 1.0, 1.0 - 1.25]
    assert sum(rewards) == 1.0 - 0.25
    env.close()


@pytest.mark.parametrize("id", ["tiny-hi", *m2gym.list_envs()])
def test_gymnasium_finds_nothing_to_complain_about(id, tmp_path):
    tiny.register()
    settings = {}
    if id == "harbor":
        settings["path"] = harbor(tmp_path / "task")
    elif id == "swe-bench":
        settings["checkouts"], row = checkouts_and_row(tmp_path)
        settings["rows"] = [row]
    env = gymnasium.make(f"m2gym/{id}-v0", **settings).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


def test_the_spec_survives_json(env):
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again.unwrapped, WorkspaceEnv)
    assert again.reset(options={"task": "t2"})[1]["task"] == "t2"
    again.close()


def test_render_shows_the_last_step(capsys):
    env = m2gym.make(tiny.register(), render_mode="ansi")
    env.reset(seed=0)
    env.step("echo seen")
    assert env.render() == "$ echo seen\nseen\n"
    env.close()
    human = m2gym.make("tiny-hi", render_mode="human")
    human.reset(seed=0)
    human.step("echo seen")
    assert "$ echo seen\nseen" in capsys.readouterr().out
    human.close()


async def test_it_works_inside_a_running_loop():
    env = m2gym.make(tiny.register())
    env.reset(seed=0)
    assert env.step("echo here")[0] == "here\n"
    env.close()


async def test_the_async_twin_is_the_same_thing():
    twins = [m2gym.make_async(tiny.register()) for _ in range(4)]
    await asyncio.gather(*(twin.reset(options={"task": "t0"}) for twin in twins))
    await asyncio.gather(*(twin.step(f"echo {n} > n") for n, twin in enumerate(twins)))
    seen = await asyncio.gather(*(twin.step("cat n") for twin in twins))
    assert [step[0] for step in seen] == ["0\n", "1\n", "2\n", "3\n"]
    await asyncio.gather(*(twin.close() for twin in twins))


def test_a_single_environment_raises_when_its_box_dies(env):
    env.reset(seed=0)
    m2gym.core.background.run_sync(env.episode.workspace.stop())
    with pytest.raises(InfraError):
        env.step("true")
    assert env.episode.verdict is None


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("autoreset", ["next-step", "same-step"])
def test_a_vector_resets_its_members(mode, autoreset):
    envs = m2gym.make_vec(tiny.register("tiny-vec", steps=2), 2, mode=mode, autoreset=autoreset)
    envs.reset(seed=[0, 1])
    envs.step(("echo hi > out.txt", "true"))
    observations, rewards, _, truncated, infos = envs.step(("true", "echo seen"))
    assert rewards.tolist() == [1.0, 0.0]
    assert truncated.tolist() == [True, True]
    if autoreset == "same-step":
        assert "Write hi" in observations[0]
        assert infos["final_obs"][1] == "seen\n"
    else:
        assert observations[1] == "seen\n"
        assert "Write hi" in envs.step(("true", "true"))[0][0]
    envs.close()


def test_a_member_that_loses_its_box_is_masked_and_the_others_go_on():
    envs = m2gym.make_vec(tiny.register(), 2)
    envs.reset(seed=0)
    m2gym.core.background.run_sync(envs.envs[0].unwrapped.episode.workspace.stop())
    observations, rewards, terminated, truncated, infos = envs.step(("echo a", "echo b"))
    assert math.isnan(rewards[0])
    assert rewards[1] == 0.0
    assert (terminated[0], truncated[0], observations[1]) == (False, True, "b\n")
    assert infos["valid"].tolist() == [False, True]
    assert "Error" in infos["cause"][0]
    assert "Write hi" in envs.step(("true", "true"))[0][0]
    envs.close()


def test_a_malformed_action_is_answered_to_the_member_that_gave_it():
    envs = m2gym.make_vec(tiny.register(), 2)
    envs.reset(seed=0)
    observations, _, _, truncated, infos = envs.step(({"name": "bsh"}, "echo b"))
    assert "did you mean 'bash'" in observations[0]
    assert observations[1] == "b\n"
    assert not truncated.any()
    assert "bash" in infos["error"][0]
    envs.close()


def test_text_cannot_be_asked_into_shared_memory():
    with pytest.raises(InputError, match="shared memory"):
        m2gym.make_vec(tiny.register(), 2, mode="async", shared_memory=True)


def test_importing_m2gym_is_enough_for_gymnasium():
    code = "import gymnasium, json, m2gym; print(json.dumps([i for i in gymnasium.registry]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "m2gym/swe-repo-v0" in json.loads(out.stdout)
