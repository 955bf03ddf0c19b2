"""Any program as an agent: a small client in a real box, over the gateway."""

import json
import subprocess
import sys

import pytest
import yaml

import m2gym
from m2gym.core.errors import InputError
from m2gym.models.scripted import Fault, ScriptedModel, Turn
from m2gym.scaffolds.agents import describe, parse_agent
from m2gym.scaffolds.blackbox.contract import Endpoint, Job
from m2gym.scaffolds.blackbox.running import MODEL, told_name
from m2gym.tasksets.registry.site import boxed, interpreter, interpreter_mounts
from tests.scaffolds.blackbox.scripts import SED

CLIENT = """
import json, os, subprocess, sys, urllib.request
task = open(sys.argv[1]).read()
messages = [{"role": "user", "content": task}]
while True:
    request = urllib.request.Request(
        "{base_url}/v1/chat/completions",
        json.dumps({"model": "{model}", "messages": messages}).encode(),
        {"Authorization": "Bearer {key}", "Content-Type": "application/json"},
    )
    said = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
    if said == "done":
        break
    messages.append({"role": "assistant", "content": said})
    seen = subprocess.run(said, shell=True, capture_output=True, text=True).stdout
    messages.append({"role": "user", "content": seen})
print("finished", os.getcwd(), sys.stdin.read())
sys.exit(7)
"""
TURNS = [SED, "env | cut -d= -f1 | sort", "ls -a ~ /tmp", "done"]


def python(script=CLIENT, **more):
    mounts = {str(mount.source): mount.target for mount in interpreter_mounts()}
    command = f"{boxed(interpreter())} ~/client.py {{instruction_file}}"
    options = {"files": {"~/client.py": script}, "mounts": mounts, "name": "client", **more}
    return m2gym.CommandAgent(command, **options)


@pytest.fixture
def run(calc):
    def run(agent, turns, **options):
        model = turns if hasattr(turns, "stream") else ScriptedModel(turns)
        [episode] = m2gym.evaluate(calc, agent=agent, model=model, progress=False, **options)
        return episode

    return run


def test_a_command_is_an_agent(run):
    episode = run(python(), TURNS)
    assert (episode.verdict.reward, episode.verdict.status) == (1.0, "ok")
    assert [c.parent for c in episode.completions] == [None, 0, 1, 2]
    shown = [c.messages[-1]["content"] for c in episode.completions]
    assert "Mend it." in shown[0]
    assert "The files are in /workspace" in shown[0]
    assert "return a + b" in shown[1]
    [launch] = episode.steps
    assert launch.observation.strip() == "finished /workspace"
    assert launch.info["exit_code"] == 7


def test_it_has_only_the_environment_it_needs_and_a_fresh_home(run):
    episode = run(python(env={"MINE": "{model}"}), TURNS)
    variables = set(episode.completions[2].messages[-1]["content"].split())
    assert "MINE" in variables
    allowed = {"HOME", "LC_CTYPE", "LD_LIBRARY_PATH", "LOGNAME", "M2GYM_DEADLINE", "MINE", "OLDPWD"}
    assert variables <= allowed | {"PATH", "PWD", "SHLVL", "TERM", "USER", "_"}
    home, tmp = episode.completions[3].messages[-1]["content"].split("\n\n")
    assert home.split()[1:] == [".", "..", ".m2gym-instruction.md", "client.py"]
    assert tmp.split()[1:] == [".", ".."]


def test_it_reaches_nothing_but_the_gateway(run):
    script = CLIENT.replace("task = open", NETWORK + "task = open")
    episode = run(python(script), [SED, "cat net", "done"])
    found = json.loads(episode.completions[2].messages[-1]["content"])
    assert found == {"interfaces": ["lo"], "outside": "OSError"}


NETWORK = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), 2)
    outside = "reached"
except OSError:
    outside = "OSError"
names = [name for _, name in socket.if_nameindex()]
open("net", "w").write(json.dumps({"interfaces": names, "outside": outside}))
"""


def test_without_a_sandbox_its_key_is_a_secret(run):
    command = f"{interpreter()} ~/client.py {{instruction_file}} {{key}} {{base_url}}"
    script = CLIENT.replace("print(", "print(sys.argv[2:], ")
    agent = m2gym.CommandAgent(command, files={"~/client.py": script})
    episode = run(agent, [SED, "done"], workspace="process")
    assert (episode.verdict.reward, len(episode.completions)) == (1.0, 2)
    assert "['[key]', 'http://127.0.0.1:" in episode.steps[0].observation
    assert "sk-m2gym" not in episode.model_dump_json()


def test_a_budget_ends_it(run):
    episode = run(python(), TURNS, budget=m2gym.Budget(tokens=20))
    assert (episode.verdict.reward, episode.verdict.stop) == (1.0, "tokens")
    assert episode.faults[-1]["cause"] == "tokens"


def test_each_answer_is_a_step(run):
    episode = run(python(), ScriptedModel(lambda request: Turn(text="true")))
    assert (episode.verdict.stop, len(episode.completions)) == ("steps", 20)


def test_a_model_that_fails_is_nobodys_score(run):
    turns = [SED, Turn(fault=(Fault(status=503),) * 3, text="done")]
    episode = run(python(), turns)
    assert (episode.verdict.reward, episode.verdict.status) == (None, "infra_error")
    assert "the model failed client (server): scripted fault" in episode.error


def test_a_program_that_never_asked_did_not_run(run):
    episode = run(python("print('no', '{base_url}')"), ["x"])
    assert episode.verdict.status == "infra_error"
    assert "exit code 0 and asked no model; it said: no http://127.0.0.1:" in episode.error


def test_a_program_that_is_missing_says_so(run):
    episode = run(m2gym.CommandAgent("no-such-program {base_url}"), ["x"])
    assert episode.verdict.status == "infra_error"
    assert "exit code 127" in episode.error
    assert "no-such-program" in episode.error


def test_a_program_that_never_got_an_answer_did_not_run(run):
    script = CLIENT.replace('"messages": messages', '"messages": 3')
    episode = run(python(script), ["x"])
    assert episode.verdict.status == "infra_error"
    assert "got no answer in 1 calls" in episode.error


def test_a_program_without_a_model(calc):
    agent = m2gym.CommandAgent(f"{SED}; cat {{instruction_file}} >/dev/null")
    [episode] = m2gym.evaluate(calc, agent=agent, progress=False)
    assert (episode.verdict.reward, episode.completions) == (1.0, ())
    with pytest.raises(InputError, match="calls no model"):
        m2gym.evaluate(calc, agent=agent, model=ScriptedModel(["x"]), progress=False)
    with pytest.raises(InputError, match="'client' calls a model"):
        m2gym.evaluate(calc, agent=python(), progress=False)


def test_a_program_that_goes_on_after_its_session_is_ended(run, monkeypatch):
    from m2gym.scaffolds.blackbox import running

    monkeypatch.setattr(running, "GRACE", 1.0)
    stay = "import sys, time\nsys.excepthook = lambda *error: time.sleep(600)\n"
    script = stay + CLIENT
    episode = run(python(script), TURNS, budget=m2gym.Budget(tokens=20))
    assert episode.verdict.stop == "tokens"
    assert "after its session had ended" in episode.steps[0].info["killed"]


def test_what_is_filled_in():
    agent = m2gym.CommandAgent(
        "X={key} prog --url {base_url}/v1 --json '{\"a\": {workdir}}' {instruction} {bin}",
        env={"URL": "{base_url}"},
        files={"{home}/c": "{model} {other}"},
        install=["npm:prog@1.0"],
    )
    launch = agent.launch(Endpoint("http://h:1", "k", "m"), Job("it's\nhere", "/w", "/home/a"))
    assert launch.command[:2] == ("bash", "-c")
    assert launch.command[2].endswith(
        "X=k prog --url http://h:1/v1 --json '{\"a\": /w}' 'it'\"'\"'s\nhere' "
        "/opt/m2gym/agent/node_modules/.bin"
    )
    assert launch.env == {"URL": "http://h:1"}
    assert launch.files["/home/a/c"] == "m {other}"
    assert agent.name == "prog"


def test_settings_make_the_same_agent_again(tmp_path):
    agent = python(env={"A": "1"})
    assert m2gym.CommandAgent.from_settings(agent.settings()) == agent
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(agent.settings()))
    assert parse_agent(f"command:{file}") == agent
    described = describe(agent)
    assert described["name"] == "client"
    assert described["hash"] != describe(python(env={"A": "2"}))["hash"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "expected `command:`"),
        ({"command": " "}, "needs a command line"),
        ({"command": "a", "comand": "b"}, "unknown ['comand']"),
        ({"command": "a", "install": "brew:x"}, "pip:NAME==VERSION"),
        ({"command": "a", "install": ["pip:x==1", "npm:y@1"]}, "all of pip or all of npm"),
        ({"command": "a", "env": ["x"]}, "env is a mapping"),
    ],
)
def test_what_cannot_be_used_says_why(settings, says):
    with pytest.raises(InputError) as error:
        m2gym.CommandAgent.from_settings(settings)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("scripted:a/b.yaml", MODEL),
        ("replay:runs/x", MODEL),
        (None, MODEL),
        ("openai/gpt-5.2", "gpt-5.2"),
        ("claude-opus-4-5", "claude-opus-4-5"),
        ("openai-compatible:http://h:1/v1#MiniMax-M2", "MiniMax-M2"),
    ],
)
def test_the_name_an_agent_is_told(model, told):
    class Episode:
        pass

    episode = Episode()
    episode.model = model
    assert told_name(m2gym.CommandAgent("x"), episode) == told
    assert told_name(m2gym.CommandAgent("x", model_name="my-model"), episode) == "my-model"


def test_the_command_line(bwrap, tmp_path):
    """`m2gym eval --agent-cmd` over a real task, and the same run gone on with."""
    (tmp_path / "client.py").write_text(CLIENT)
    (tmp_path / "model.yaml").write_text("turns: [{text: git status --short}, {text: done}]\n")

    def m2gym_eval(*arguments):
        command = [sys.executable, "-m", "m2gym", "eval", *arguments, "--out", "run", "--json"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    begun = m2gym_eval(
        "swe-repo", "--limit", "1", "--model", "scripted:model.yaml", "--tokens", "1000",
        "--agent-cmd", "python3 ~/client.py {instruction_file}",
        "--agent-file", "~/client.py=client.py",
    )  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    said = json.loads(begun.stdout)
    assert (said["episodes"], said["complete"]) == (1, True)
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["agent"], config["budget"]["tokens"]) == ("python3", 1000)
    again = m2gym_eval("--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["episodes"] == 1
    [episode] = m2gym.load_run(tmp_path / "run")
    assert (episode.verdict.reward, len(episode.completions)) == (0.0, 2)
    assert m2gym_eval("swe-repo", "--agent-file", "a=b").returncode == 1
