"""Records the shapes of the token trees that released command-line agents leave.

``python -m tests.forge.record_agents OUT.json [AGENT …]``: every agent mends a small repository
GROUP times, each time in its own words and with other looks around, against an engine that says
what it is told to, exact to the token. What is kept is the shape alone: nodes and
lengths, which nodes a sample runs through, and how much of it was generated; no text, since the
agents' prompts are their makers'. Tokens are those of a byte-level BPE of 8,192 trained on this
repository's own Python. Needs bubblewrap, and a network the first time an agent is used.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers

import m2gym
from m2gym.core.registry import SCAFFOLDS
from m2gym.forge.records import PoolTrajectory
from m2gym.forge.tree import Sample, build_tree
from m2gym.models import TokenModel
from m2gym.models.chatml import ChatML
from m2gym.models.scripted_engine import ScriptedEngine
from m2gym.models.tokenizer import HfTokenizer

GROUP, TURNS, VOCABULARY = 4, 8, 8192
MARKS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
         "</tool_response>", "<think>", "</think>")  # fmt: skip
SHELLS = {
    "claude-code": ("Bash", "command"),
    "codex": ("exec_command", "cmd"),
    "mini-swe-agent": ("bash", "command"),
    "gemini-cli": ("run_shell_command", "command"),
    "opencode": ("bash", "command"),
    "qwen-code": ("run_shell_command", "command"),
}
LOOKS = (
    "ls -la", "cat calc.py", "wc -l calc.py", "head -3 calc.py", "python3 -c 'print(1)'",
    "grep -n return calc.py", "pwd", "file calc.py || true", "od -c calc.py | head",
)  # fmt: skip
WORDS = ("look", "file", "operator", "so", "then", "wrong", "I", "next", "check", "test", "sum")
MEND = "sed -i 's/a - b/a + b/' calc.py && cat calc.py"


def tokenizer() -> HfTokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    text = [p.read_text() for p in sorted(Path(m2gym.__file__).parent.rglob("*.py"))[::3]]
    made.train_from_iterator(
        text,
        tokenizers.trainers.BpeTrainer(
            vocab_size=VOCABULARY, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    made.add_special_tokens(list(MARKS[:2]))
    made.add_tokens(list(MARKS[2:]))
    return HfTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=made))


def engine(form: ChatML, agent: str, seed: int) -> ScriptedEngine:
    """Looks around in a random order, mends, says so."""
    rng = random.Random(seed)
    looks = rng.sample(LOOKS, TURNS - 2)
    tool, argument = SHELLS[agent]
    start = form.tokenizer.special("<|im_start|>")
    assistant = form.tokenizer.encode("assistant\n")

    def say(ids: Sequence[int]) -> str:
        at = [n for n, token in enumerate(ids) if token == start]
        said = sum(list(ids[n + 1 : n + 1 + len(assistant)]) == assistant for n in at) - 1
        words = " ".join(rng.choices(WORDS, k=rng.randint(15, 60)))
        if said >= TURNS - 1:
            return f"Done: {words}."
        command = looks[said] if said < len(looks) else MEND
        call = json.dumps({"name": tool, "arguments": {argument: command}})
        return f"{words}.\n<tool_call>\n{call}\n</tool_call>"

    return ScriptedEngine(form, say)


def samples(agent: str) -> list[Sample]:
    form = ChatML(tokenizer())
    found = []
    for seed in range(GROUP):
        model = TokenModel(engine(form, agent, seed), form)
        [episode] = m2gym.evaluate(
            "calc-shapes", agent=SCAFFOLDS.get(agent)(), model=model, progress=False,
            out=tempfile.mkdtemp(),
        )  # fmt: skip
        print(
            agent, seed, len(episode.completions), "completions", episode.verdict.reward, flush=True
        )
        for c in PoolTrajectory.of(episode).completions:
            found.append(Sample.of(c.prompt_ids, c.response_ids, c.logprobs_T))
    return found


def shape(agent: str, found: list[Sample]) -> dict[str, Any]:
    """Nodes (parent and length); each sample's nodes, its length, and how much was generated (an
    earlier turn ends inside a node, which the later ones go on)."""
    tree = build_tree(found)
    starts = tree.layout.start_N.tolist()
    ends = tree.layout.end_N.tolist()
    node_of = np.repeat(np.arange(len(starts)), np.subtract(ends, starts))
    rows = []
    for number, sample in enumerate(found):
        nodes = list(dict.fromkeys(node_of[tree.rows(number)].tolist()))
        rows.append([nodes, len(sample.ids_T), int(sample.trained_T.sum())])
    return {"agent": agent, "parents": tree.layout.parent_N.tolist(),
            "lengths": np.subtract(ends, starts).tolist(), "samples": rows}  # fmt: skip


def mended(artifacts: Any) -> float:
    return float("a + b" in artifacts.text("calc.py"))


def main(out: str, *agents: str) -> None:
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    m2gym.reward("calc-shapes-mended")(
        lambda artifacts: float("a + b" in artifacts.text("calc.py"))
    )
    m2gym.register(
        "calc-shapes",
        tasks=[
            m2gym.Task(
                id="calc", instruction="The function add in calc.py subtracts. Mend it.",
                files={"calc.py": "def add(a, b):\n    return a - b\n"},
                rewards=[m2gym.RewardSpec(name="calc-shapes-mended")],
                limits=m2gym.Limits(seconds=240, steps=40),
            )
        ],
    )  # fmt: skip
    shapes = []
    for agent in agents or SHELLS:
        shapes.append(shape(agent, samples(agent)))
        Path(out).write_text(json.dumps(shapes, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()), *sys.argv[2:])
