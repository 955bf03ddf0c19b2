"""An engine and a chat format as a model whose record is exact to the token.

A prompt that extends a recorded completion reuses its ids, as they were generated; only the new
messages are turned into tokens. So a turn costs what is new in it, and what is trained on later is
what was sampled.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from m2gym.core.errors import ContextError, ModelError
from m2gym.core.protocols import Delta, Engine, ModelRequest, Sampling, Session, TokenOutput
from m2gym.core.trajectory import Completion, Usage
from m2gym.models.chat_format import TurnFormat
from m2gym.models.messages import Message
from m2gym.models.scripted import pieces
from m2gym.models.tokens import common_prefix, held

KEPT = 8
"""Histories of a session kept as lists of ids; the project's choice. Others are put together."""

FINISH = {"length": "length", "max_tokens": "length", "content_filter": "content_filter"}


@dataclass(eq=False, slots=True)
class _History:
    """Ids up to the end of an answer, known by the answer's tuple itself."""

    answer: tuple[int, ...]
    ids: list[int]


class TokenModel:
    """Messages → completion by token ids.

    Args:
        engine: generates. It may not keep the list of ids that it is given.
        format: messages ↔ ids.
        name: for the record.
        context: tokens a prompt and its answer may have together.
    """

    def __init__(
        self, engine: Engine, format: TurnFormat, *, name: str = "model", context: int | None = None
    ) -> None:
        self.engine, self.format, self.name, self.context = engine, format, name, context
        self._histories: weakref.WeakKeyDictionary[Session, deque[_History]] = (
            weakref.WeakKeyDictionary()
        )

    async def stream(self, request: ModelRequest, session: Session) -> AsyncIterator[Delta]:
        """Generate the answer; given in pieces when it is whole.

        Raises:
            ContextError: the prompt fills the context.
            ModelError: the request wants tools that a provider runs: there is none.
            InfraError: the engine failed.
        """
        refuse_hosted(request, self.name)
        ids, fresh, parent, drift = self._prompt(request, session)
        known = len(ids) - len(fresh)
        sampling = self._within(request.sampling, len(ids))
        output = await self.engine.generate(ids, sampling, session_id=session.id)
        completion = self._completion(request, session, fresh, parent, drift, known, output)
        ids += completion.response_ids
        self._keep(session, completion.response_ids, ids)
        for delta in pieces(completion.message):
            yield delta
        yield Delta(completion=completion)

    def count(self, request: ModelRequest) -> int:
        """Tokens of the request's whole prompt."""
        return len(self.format.render(request.messages, request.tools))

    def _prompt(
        self, request: ModelRequest, session: Session
    ) -> tuple[list[int], list[int], int | None, int]:
        """All ids, the new ones, the completion they extend, and lost tokens of it."""
        parent, drift = request.parent, 0
        before: list[int] = []
        if parent is not None and session.completions[parent].response_ids:
            before = self._take(session, parent)
            new = self.format.extend(before, request.messages[request.known :])
            if new is not None:
                before += new
                return before, new, parent, 0
        ids = self.format.render(request.messages, request.tools)
        if before:
            drift = len(before) - common_prefix(before, ids)
        return ids, list(ids), None, drift

    def _within(self, sampling: Sampling, prompt: int) -> Sampling:
        if self.context is None:
            return sampling
        left = self.context - prompt
        if left <= 0:
            raise ContextError(f"the prompt has {prompt} tokens and the context {self.context}")
        asked = sampling.max_tokens
        return replace(sampling, max_tokens=left if asked is None else min(asked, left))

    def _completion(
        self,
        request: ModelRequest,
        session: Session,
        fresh: Sequence[int],
        parent: int | None,
        drift: int,
        known: int,
        output: TokenOutput,
    ) -> Completion:
        if not output.ids or len(output.logprobs) not in (0, len(output.ids)):
            raise ModelError(
                f"the engine gave {len(output.ids)} ids and {len(output.logprobs)} logprobs",
                cause="broken",
            )
        message = self.format.parse(output.ids, request.tools)
        renumber(message, len(session.completions))
        finish = FINISH.get(output.stop_reason) or (
            "tool_calls" if message.get("tool_calls") else "stop"
        )
        return Completion(
            prompt_ids=tuple(fresh),
            response_ids=tuple(output.ids),
            logprobs=tuple(output.logprobs),
            weight_versions=tuple(output.weight_versions),
            parent=parent,
            message=message,
            drift=drift,
            finish_reason=finish,
            model=self.name,
            usage=Usage(prompt_tokens=known + len(fresh), completion_tokens=len(output.ids)),
        )

    def _take(self, session: Session, index: int) -> list[int]:
        """Ids up to the end of a completion; the caller owns the list."""
        answer = session.completions[index].response_ids
        kept = self._histories.get(session, deque())
        for history in kept:
            if history.answer is answer:
                kept.remove(history)
                return history.ids
        return held(session.completions, index)

    def _keep(self, session: Session, answer: tuple[int, ...], ids: list[int]) -> None:
        kept = self._histories.setdefault(session, deque(maxlen=KEPT))
        kept.append(_History(answer, ids))


def refuse_hosted(request: ModelRequest, name: str) -> None:
    """For models that no provider stands behind.

    Raises:
        ModelError: the request has hosted tools.
    """
    if request.hosted:
        names = ", ".join(tool.name for tool in request.hosted)
        raise ModelError(
            f"{name} runs no provider-hosted tools ({names}): do not grant them to its sessions",
            cause="refused",
        )


def renumber(message: Message, turn: int) -> None:
    """Give a message's calls ids that no other answer of its session has."""
    for n, call in enumerate(message.get("tool_calls", ())):
        call["id"] = f"call_{turn}_{n}"
