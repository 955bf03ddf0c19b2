"""White-box scaffolds: programs in boxes of their own, over real boxes and a scripted model."""

import json

import pytest

import m2gym
from m2gym.core.errors import InputError
from m2gym.core.protocols import ModelRequest
from m2gym.models.scripted import Call, Fault, ScriptedModel, Turn
from m2gym.scaffolds.agents import describe, parse_agent
from m2gym.scaffolds.program import Program
from m2gym.scaffolds.react import CONTEXTS, Bash, React


@m2gym.reward("says-hello")
def says_hello(artifacts):
    return float("out.txt" in artifacts and artifacts.text("out.txt").strip() == "hello")


@pytest.fixture
def hello(bwrap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limits = m2gym.Limits(seconds=240, steps=12)
    task = m2gym.Task(
        id="t",
        instruction="Write hello into out.txt.",
        files={"a.txt": "x"},
        rewards=[m2gym.RewardSpec(name="says-hello")],
        limits=limits,
    )
    m2gym.register("program-hello", tasks=[task])

    def run(agent, turns, **options):
        model = turns if callable(getattr(turns, "stream", None)) else ScriptedModel(turns)
        [episode] = m2gym.evaluate(
            "program-hello", agent=agent, model=model, progress=False, **options
        )
        return episode

    return run


def bash(command, **more):
    return Turn(calls=(Call(name="bash", arguments={"command": command}),), **more)


SUBMIT = Turn(calls=(Call(name="submit"),))


def test_react_acts_through_tools_and_is_recorded(hello):
    turns = [bash("cat a.txt", thinking="I look."), bash("echo hello > out.txt"), SUBMIT]
    episode = hello(React(), turns)
    assert (episode.verdict.reward, episode.verdict.stop) == (1.0, "submitted")
    assert [c.parent for c in episode.completions] == [None, 0, 1]
    assert episode.completions[0].message["reasoning_content"] == "I look."
    assert episode.completions[1].messages[-1]["content"].strip() == "x"
    assert {tool["function"]["name"] for tool in episode.completions[0].tools} >= {"bash", "submit"}
    assert [step.action["name"] for step in episode.steps] == ["bash", "bash", "submit"]
    assert episode.usage.completion_tokens == sum(
        c.usage.completion_tokens for c in episode.completions
    )


def test_react_gives_thinking_back(hello):
    seen = []

    def answer(request):
        seen.append(list(request.messages))
        return bash("true", thinking="hm") if len(seen) == 1 else SUBMIT

    hello(React(), ScriptedModel(answer))
    assert seen[1][2]["reasoning_content"] == "hm"
    seen.clear()
    hello(React(settings={"thinking": False}), ScriptedModel(answer))
    assert len(seen[1]) == 4


def test_react_survives_malformed_calls_and_unknown_tools(hello):
    turns = [
        Turn(calls=(Call(name="bash", arguments='{"command": "echo hel'),)),
        Turn(calls=(Call(name="frobnicate"),)),
        Turn(calls=(Call(name="bash", arguments={"wrong": 1}),)),
        Turn(text="I am not sure."),
        bash("echo hello > out.txt"),
        SUBMIT,
    ]
    episode = hello(React(), turns)
    assert episode.verdict.reward == 1.0
    told = [c.messages[-1]["content"] for c in episode.completions[1:]]
    assert "not JSON" in told[0]
    assert "unknown tool" in told[1]
    assert "wrong" in told[2]
    assert "You called no tool" in told[3]


def test_react_that_only_talks_is_submitted(hello):
    episode = hello(React(), ScriptedModel(lambda request: Turn(text="Hm.")))
    assert episode.verdict.reward == 0.0
    assert len(episode.completions) == 3


def test_bash_runs_one_block_an_answer(hello):
    turns = [
        "No block here.",
        "Two.\n```bash\nls\n```\n```bash\npwd\n```",
        "Go.\n```bash\nexport W=hello\n```",
        "```bash\necho $W > out.txt\n```",
        "```bash\nsubmit\n```",
    ]
    episode = hello(Bash(), turns)
    assert episode.verdict.reward == 1.0
    assert [step.action for step in episode.steps] == ["export W=hello\n", "echo $W > out.txt\n"]
    assert "found 0" in episode.completions[1].messages[-1]["content"]
    assert "found 2" in episode.completions[2].messages[-1]["content"]


def looping(turns):
    """Acts ``turns`` times, then submits; says what the model was shown each time."""
    shown = []

    def answer(request):
        if request.tool_choice == "none":
            return Turn(text="I made a.txt.")
        shown.append([m["role"] for m in request.messages])
        return bash(f"echo {len(shown)}") if len(shown) < turns else SUBMIT

    return ScriptedModel(answer), shown


def context_steps(episode):
    return [s.action["arguments"] for s in episode.steps if s.action["name"] == "context"]


def test_a_sliding_window_is_a_recorded_action(hello):
    model, shown = looping(9)
    context = {"id": "sliding-window", "most": 4, "keep": 2}
    episode = hello(React(settings={"context": context}), model)
    assert max(map(len, shown)) == 2 + 2 * 4
    assert shown[5] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    [first, second] = context_steps(episode)
    assert first == {"policy": "sliding-window", "dropped_turns": 3, "kept_turns": 2}
    assert second == first
    assert [c.parent for c in episode.completions].count(None) == 3


def test_a_summary_is_the_models_own_and_on_record(hello):
    model, shown = looping(6)
    episode = hello(React(settings={"context": {"id": "summary", "every": 3}}), model)
    assert shown[3] == ["system", "user", "user"]
    assert len(shown[5]) == 3 + 2 * 2
    [what] = context_steps(episode)
    assert (what["summarised_turns"], what["summary"]) == (3, "I made a.txt.")
    asked = [c for c in episode.completions if c.message["content"] == "I made a.txt."]
    assert len(asked) == 1


def test_discarding_drops_all_replies_beyond_the_share(hello):
    model, _ = looping(3)
    held = [
        c.usage.prompt_tokens + c.usage.completion_tokens for c in hello(React(), model).completions
    ]
    model, shown = looping(7)
    context = {"id": "discard", "size": 2 * held[1] - 2, "fraction": 0.5, "note": ""}
    episode = hello(React(settings={"context": context}), model)
    found = context_steps(episode)
    assert found
    for what in found:
        assert what["tokens"] > held[1] - 1
        assert what["discarded_turns"] == 2
    assert shown.count(["system", "user"]) == 1 + len(found)


def test_budgets_end_the_episode_and_it_is_graded(hello):
    turns = [bash("echo hello > out.txt"), *[bash("true", cost_usd=1.0)] * 8]
    episode = hello(React(), turns, budget=m2gym.Budget(cost_usd=2.0))
    assert (episode.verdict.reward, episode.verdict.stop) == (1.0, "cost")
    assert episode.verdict.status == "ok"
    assert episode.usage.cost_usd == 2.0
    assert episode.faults[-1]["cause"] == "cost"
    episode = hello(React(), turns, budget=m2gym.Budget(tokens=30))
    assert episode.verdict.stop == "tokens"


def test_the_limit_of_steps_ends_it(hello):
    episode = hello(React(), ScriptedModel(lambda request: bash("true")))
    assert (episode.verdict.stop, len(episode.steps)) == ("steps", 12)


def test_a_failing_model_is_nobodys_score(hello):
    fault = Fault(status=503, message="overloaded")
    episode = hello(React(), [bash("echo hello > out.txt"), Turn(fault=fault, text="Done.")])
    assert (episode.verdict.reward, episode.verdict.status) == (None, "infra_error")
    assert "overloaded" in episode.error
    assert len(episode.completions) == 1
    assert episode.faults[0]["status"] == 503


def test_a_model_is_asked_for_and_refused_where_there_is_none(hello):
    with pytest.raises(InputError, match="'react' calls a model"):
        m2gym.evaluate("program-hello", agent="react", progress=False)
    with pytest.raises(InputError, match="'noop' calls no model"):
        m2gym.evaluate("program-hello", agent="noop", model=ScriptedModel(["x"]), progress=False)
    with pytest.raises(InputError, match="a model is a specification"):
        m2gym.evaluate("program-hello", agent="react", model=3, progress=False)


OWN = """
from m2gym_agent import connect
import socket
episode = connect()
print("hello from the program")
answer = episode.complete([{"role": "user", "content": episode.instruction}], temperature=0.5)
with open("/scaffold/notes", "w") as notes:
    notes.write("mine")
try:
    socket.create_connection(("127.0.0.1", 80), 1)
    raise SystemExit("there is a network")
except OSError:
    pass
episode.note("thought", {"settings": episode.settings}, "I was told")
episode.act(answer.message["content"])
"""


def test_a_folder_of_ones_own_is_an_agent(hello, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "main.py").write_text(OWN)
    (tmp_path / "s.yaml").write_text("depth: 2\n")
    agent = parse_agent(f"program:{folder},{tmp_path / 's.yaml'}")
    episode = hello(agent, ["echo hello > out.txt"])
    assert (episode.verdict.reward, episode.verdict.stop) == (1.0, "exited")
    assert episode.steps[0].action == {"name": "thought", "arguments": {"settings": {"depth": 2}}}
    assert episode.completions[0].sampling == {"temperature": 0.5}
    before = describe(agent)["hash"]
    (folder / "main.py").write_text(OWN + "\n")
    assert describe(Program(str(folder)))["hash"] != before


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit('gone wrong')", "exit code 1: gone wrong"),
        (
            "episode._asking.write(b'not json\\n'); episode._asking.flush(); input()",
            "expected a line",
        ),
        ("episode._ask('fly')", "expected a line"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit code 137"),
    ],
)
def test_a_program_that_crashes_is_graded_for_what_it_left(hello, tmp_path, code, says):
    folder = tmp_path / "broken"
    folder.mkdir()
    head = "from m2gym_agent import connect\nepisode = connect()\n"
    (folder / "main.py").write_text(f"{head}episode.act('echo hello > out.txt')\n{code}\n")
    episode = hello(Program(str(folder)), ["x"])
    assert (episode.verdict.status, episode.verdict.reward) == ("agent_error", 1.0)
    assert says in episode.error


def test_what_a_program_asks_wrongly_is_refused_to_it(hello, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "main.py").write_text(
        """
from m2gym_agent import Refused, connect
episode = connect()
said = []
for wrong in (
    lambda: episode.complete([]),
    lambda: episode.complete([{"role": "nobody", "content": ""}]),
    lambda: episode.complete([{"role": "user", "content": "x"}], temprature=1),
    lambda: episode.complete([{"role": "user", "content": "x"}], [{"name": "f"}]),
    lambda: episode.act({"no": "name"}),
    lambda: episode.act(7),
):
    try:
        wrong()
        said.append("")
    except Refused as error:
        said.append(str(error))
episode.note("said", {"all": said})
"""
    )
    episode = hello(Program(str(folder)), ["x"])
    said = episode.steps[0].action["arguments"]["all"]
    assert all(said), said
    assert "temprature" in said[2]


def test_a_program_still_running_at_the_deadline_is_ended(hello, tmp_path, monkeypatch):
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "main.py").write_text(
        "import time\nfrom m2gym_agent import connect\nepisode = connect()\n"
        "episode.act('echo hello > out.txt')\ntime.sleep(600)\n"
    )
    task = m2gym.Task(
        id="t",
        instruction="Write hello into out.txt.",
        files={"a.txt": "x"},
        rewards=[m2gym.RewardSpec(name="says-hello")],
        limits=m2gym.Limits(seconds=12),
    )
    m2gym.register("program-slow", tasks=[task])
    [episode] = m2gym.evaluate(
        "program-slow", agent=Program(str(folder)), model=ScriptedModel(["x"]), progress=False
    )
    assert (episode.verdict.reward, episode.verdict.stop) == (1.0, "deadline")


def test_settings_are_checked_and_hashed(tmp_path):
    assert set(CONTEXTS) == {"none", "sliding-window", "summary", "discard"}
    assert parse_agent("react:discard").settings == {"context": {"id": "discard"}}
    with pytest.raises(InputError, match="one of none"):
        React(settings={"context": {"id": "forget"}})
    with pytest.raises(InputError, match="a folder with main"):
        Program(str(tmp_path))
    with pytest.raises(InputError, match="cannot read the settings"):
        parse_agent("bash:nothing.yaml")
    (tmp_path / "s.yaml").write_text("turns: 3\n")
    agent = parse_agent(f"bash:{tmp_path / 's.yaml'}")
    described = json.loads(json.dumps(describe(agent)))
    assert described["settings"]["settings"] == {"turns": 3}
    assert described["hash"] == Bash().content_hash() != React().content_hash()


def test_a_fork_takes_the_session_along(hello):
    class Forks:
        name = "forks"
        leaves = ()

        async def run(self, episode):
            request = ModelRequest([{"role": "user", "content": "Where?"}])
            said = await episode.session.complete(request)
            self.leaves = await episode.fork(2)
            for leaf, word in zip(self.leaves, ("hello", "bye"), strict=True):
                more = {"role": "user", "content": word}
                request = ModelRequest([*request.messages[:1], said.message, more])
                await leaf.session.complete(request)
                await leaf.act(f"echo {word} > {said.message['content']}")
                await leaf.submit()
                await leaf.close()

    agent = Forks()
    episode = hello(agent, ["out.txt", "Good."])
    records = [leaf.trajectory() for leaf in agent.leaves]
    assert [record.verdict.reward for record in records] == [1.0, 0.0]
    assert [record.parent for record in records] == [episode.id] * 2
    assert [[c.parent for c in record.completions] for record in records] == [[None, 0]] * 2
    assert len(episode.completions) == 1
    assert records[0].usage.completion_tokens > episode.usage.completion_tokens


def test_without_a_sandbox_the_program_has_none_either(hello):
    turns = [bash("echo hello > out.txt"), SUBMIT]
    assert hello(React(), turns, workspace="process").verdict.reward == 1.0
