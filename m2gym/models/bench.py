"""``m2gym bench recorder``: what recording a turn costs, at a session's start and at its end."""

from __future__ import annotations

import asyncio
import importlib
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

from m2gym.core.protocols import Model, ModelRequest, Sampling, TokenOutput
from m2gym.models.chat_format import TurnFormat
from m2gym.models.chatml import MARKS, ChatML
from m2gym.models.formats import byte_format
from m2gym.models.messages import Message
from m2gym.models.scripted import BYTES_A_TOKEN, ScriptedModel, Turn
from m2gym.models.session import RecordedSession
from m2gym.models.token_model import TokenModel
from m2gym.models.tokenizer import HfTokenizer

TURNS, TOKENS = 200, 100_000
"""The session of the issue: so many turns over so many tokens."""

WINDOW = 20
"""Turns whose median is shown."""

SESSIONS = 5

HISTORIES = ("kept as they are", "own objects", "parsed anew")
"""Whose messages come: those of a caller who never changes one (the gateway, our scaffolds), those
of one who may, and messages that were read from JSON anew each turn."""
SAID = 100
"""Tokens of an answer."""

WORDS = "abc def ghi "
"""What is said: three tokens of the tokenizer made here."""


class _Echo:
    """An engine without a latency: the same ids each time."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._output = TokenOutput(tuple(ids), (-0.5,) * len(ids), (0,) * len(ids), "stop")

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, session_id: str
    ) -> TokenOutput:
        return self._output

    async def abort(self, session_id: str) -> None:
        """Nothing runs."""

    async def pause(self) -> None:
        """Nothing runs."""

    async def update_weights(self, version: int) -> None:
        """There are none."""

    async def resume(self) -> None:
        """Nothing was stopped."""


def run() -> list[dict[str, Any]]:
    """Median CPU milliseconds a turn, first and last `WINDOW` turns of `SESSIONS` sessions each."""
    scripted = ScriptedModel(lambda request: Turn(text="abc " * SAID))
    models: list[tuple[str, Model, int]] = [
        ("messages", scripted, BYTES_A_TOKEN),
        ("ids of bytes", _echo(byte_format("chatml")), 1),
    ]
    if (bpe := _bpe()) is not None:
        models.append(("ids of a BPE tokenizer", _echo(ChatML(bpe)), BYTES_A_TOKEN))
    return [
        asyncio.run(_case(name, model, size, history))
        for name, model, size in models
        for history in HISTORIES
    ]


def _echo(form: TurnFormat) -> TokenModel:
    return TokenModel(_Echo([*form.ids(["abc " * SAID])[: SAID - 1], form.end_id]), form)


def _bpe() -> HfTokenizer | None:
    """A byte-level BPE tokenizer made here: ``None`` without the library."""
    try:
        tokenizers: Any = importlib.import_module("tokenizers")
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError:
        return None
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["abc def ghi user assistant"] * 50, trainer)
    made.add_special_tokens([str(mark) for mark in MARKS])
    return HfTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=made))


async def _case(name: str, model: Model, size: int, history: str) -> dict[str, Any]:
    spans, tokens = [], 0
    for _ in range(SESSIONS):
        session = RecordedSession(model)
        spans.append(await _session(session, size, history))
        tokens = session.completions[-1].usage.prompt_tokens
    return row(name, history, tokens, spans)


def row(record: str, history: str, tokens: int, sessions: list[list[float]]) -> dict[str, Any]:
    """Medians over the first and the last turns of all sessions, given as seconds a turn."""
    first = statistics.median(s for spans in sessions for s in spans[1 : WINDOW + 1]) * 1e3
    last = statistics.median(s for spans in sessions for s in spans[-WINDOW:]) * 1e3
    return {
        "record": record,
        "history": history,
        "turns": TURNS,
        "tokens": tokens,
        "first ms": first,
        "last ms": last,
        "ratio": last / first,
    }


def heard(turn: int, size: int) -> str:
    """What a user says in a turn; a token has ``size`` bytes."""
    return f"{turn} " + WORDS * ((TOKENS // TURNS - SAID) * size // len(WORDS))


async def _session(session: RecordedSession, size: int, history: str) -> list[float]:
    """CPU seconds of each turn; parsing what a client sends is not counted."""
    messages: list[Message] = [{"role": "system", "content": "You are measured."}]
    spans = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": heard(turn, size)})
        asked = json.loads(json.dumps(messages)) if history == "parsed anew" else messages
        request = ModelRequest(asked, constant=history == "kept as they are")
        begun = time.thread_time()
        completion = await session.complete(request)
        spans.append(time.thread_time() - begun)
        messages.append({"role": "assistant", "content": completion.message["content"]})
    return spans
