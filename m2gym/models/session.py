"""A session: all model calls of one episode, recorded whoever makes them.

    request ─► place in the tree ─► model.stream ─► deltas … ─► completion recorded ─► last delta

The completion is recorded before its last delta is given. A call that fails or is cancelled leaves
a `ModelFault` and the tree as it was: the same request can be made again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, fields, replace
from typing import cast

from m2gym.core.errors import (
    BudgetError,
    ContextError,
    InputError,
    M2GymError,
    ModelError,
    SessionEndedError,
)
from m2gym.core.protocols import Delta, Model, ModelRequest, Sampling
from m2gym.core.trajectory import Completion, Usage
from m2gym.core.verdict import Stop
from m2gym.models.budget import Budget
from m2gym.models.lines import Line, lines
from m2gym.models.message_tree import MessageTree, Place
from m2gym.models.messages import canonical
from m2gym.models.redact import Redactor


@dataclass(frozen=True)
class ModelFault:
    """A call that gave no completion. ``cause`` is one word: ``cancelled``, ``rate_limit``,
    ``timeout``, ``network``, ``server``, ``auth``, ``refused``, ``broken``, ``input``, ``ended``,
    or ``tokens``, ``cost``, ``context`` for the budget's."""

    cause: str
    message: str
    parent: int | None = None
    status: int | None = None


@dataclass
class Counts:
    """What happened in a session. ``extended``: prompts that continue a recorded completion;
    ``forks``: prompts that leave a recorded path before its end (rewritten or compacted history,
    sub-agents, samples of one prompt); ``drifted``: prompts whose history was recorded but could
    not be repeated token for token."""

    completions: int = 0
    extended: int = 0
    roots: int = 0
    forks: int = 0
    drifted: int = 0
    drift_tokens: int = 0


class RecordedSession:
    """A session over ``model``.

    Args:
        model: what answers.
        id: names the session; random when left out.
        sampling: replaces what an agent asks for, but for its ``stop`` and the smaller
            ``max_tokens``.
        budget: ends the session when it is used up.
        record: called with each completion at once, before its last delta is given.
        secrets: values never to be recorded, beside those that look like keys.
    """

    def __init__(
        self,
        model: Model,
        *,
        id: str | None = None,
        sampling: Sampling | None = None,
        budget: Budget | None = None,
        record: Callable[[Completion], None] | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.model, self.sampling, self.budget = model, sampling, budget
        self.id = id or uuid.uuid4().hex
        self.usage = Usage()
        self.faults: list[ModelFault] = []
        self.ended: str | None = None
        self.stop: Stop | None = None
        """Set when the budget ended the session, or a prompt did not fit the model's context (until
        a shorter one is answered)."""
        self.counts = Counts()
        self._completions: list[Completion] = []
        self._tree = MessageTree()
        self._record = record
        self._redact = Redactor(secrets)

    @property
    def completions(self) -> Sequence[Completion]:
        """The record, parents before children; keys are redacted in it."""
        return self._completions

    def lines(self) -> list[Line]:
        """Conversations of the tree, the main one first."""
        return lines(self._completions)

    def fork(self, id: str) -> RecordedSession:
        """A session that goes on from this one's record: what is used counts, faults do not."""
        child = RecordedSession(
            self.model, id=id, sampling=self.sampling, budget=self.budget, record=self._record
        )
        child._redact = self._redact
        child._completions, child._tree = list(self._completions), self._tree.copy()
        child.usage, child.counts = self.usage, replace(self.counts)
        child.ended, child.stop = self.ended, self.stop
        return child

    def end(self, reason: str) -> None:
        """Refuse every later call; the first reason stays."""
        if self.ended is None:
            self.ended = reason

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Delta, None]:
        """Call the model; see `m2gym.core.protocols.Session`.

        Raises:
            SessionEndedError: the session has ended (`BudgetError`: its budget has).
            InputError: the request is malformed.
            ModelError: the model did not answer.
        """
        place: Place | None = None
        try:
            self._admit()
            place = self._tree.place(request.messages, request.tools, constant=request.constant)
            asked = self._asked(request, place)
            pieces = cast("AsyncGenerator[Delta, None]", self.model.stream(asked, self))
            async with aclosing(pieces):
                async for delta in pieces:
                    if delta.completion is not None:
                        said, kept = delta, self._keep(delta.completion, asked, place)
                        break
                    yield delta
                else:
                    raise ModelError("the model's stream had no completion", cause="broken")
        except (GeneratorExit, asyncio.CancelledError):
            self._fault(ModelFault("cancelled", "the caller went away", _parent(place)))
            raise
        except (M2GymError, OSError) as error:
            self._fault(self._fault_of(error, place))
            raise
        yield replace(said, completion=kept)

    async def complete(self, request: ModelRequest) -> Completion:
        """`stream` drained."""
        async with aclosing(self.stream(request)) as deltas:
            async for delta in deltas:
                if delta.completion is not None:
                    return delta.completion
        raise ModelError("the model's stream had no completion", cause="broken")

    def _admit(self) -> None:
        if self.ended is not None:
            if self.stop is not None:
                raise BudgetError(self.ended, self.stop)
            raise SessionEndedError(f"the session has ended: {self.ended}")

    def _asked(self, request: ModelRequest, place: Place) -> ModelRequest:
        sampling = override(request.sampling, self.sampling)
        if self.budget is not None:
            parent = None if place.parent is None else self._completions[place.parent]
            sampling = self.budget.admit(self.usage, parent, sampling)
        return replace(
            request,
            messages=place.messages,
            sampling=sampling,
            parent=place.parent,
            known=place.known,
        )

    def _keep(self, said: Completion, asked: ModelRequest, place: Place) -> Completion:
        parent = said.parent if said.prompt_ids else asked.parent
        message = canonical(said.message)
        fresh = asked.messages[asked.known if parent is not None else 0 :]
        kept = said.model_copy(
            update={
                "parent": parent,
                "messages": tuple(self._redact.message(m) for m in fresh),
                "message": self._redact.message(message),
                "tools": () if parent is not None else self._offered(asked),
                "sampling": recorded_sampling(asked.sampling),
            }
        )
        if self.ended is None:
            self.stop = None
        index = len(self._completions)
        self._tree.answer(place.leaf, message, index)
        self._completions.append(kept)
        self._count(kept, place)
        if self._record is not None:
            self._record(kept)
        return said.model_copy(update={"parent": parent, "message": message})

    def _offered(self, asked: ModelRequest) -> tuple[dict[str, object], ...]:
        return tuple(self._redact.message(tool) for tool in offered(asked))

    def _count(self, kept: Completion, place: Place) -> None:
        used, total, counts = kept.usage, self.usage, self.counts
        self.usage = Usage(
            prompt_tokens=total.prompt_tokens + used.prompt_tokens,
            completion_tokens=total.completion_tokens + used.completion_tokens,
            cost_usd=total.cost_usd + used.cost_usd,
        )
        counts.completions += 1
        counts.extended += kept.parent is not None
        counts.roots += kept.parent is None
        counts.forks += place.forked
        counts.drifted += kept.drift > 0
        counts.drift_tokens += kept.drift

    def _fault_of(self, error: M2GymError | OSError, place: Place | None) -> ModelFault:
        status = None
        if isinstance(error, BudgetError):
            cause: str = error.stop
            self.stop = error.stop
            if not isinstance(error, ContextError):
                self.end(str(error))
        elif isinstance(error, SessionEndedError):
            cause = "ended"
        elif isinstance(error, ModelError):
            cause, status = error.cause, error.status
        elif isinstance(error, InputError):
            cause = "input"
        else:
            cause = "timeout" if isinstance(error, TimeoutError) else "network"
        return ModelFault(cause, self._redact.text(str(error)), _parent(place), status)

    def _fault(self, fault: ModelFault) -> None:
        self.faults.append(fault)


def _parent(place: Place | None) -> int | None:
    return None if place is None else place.parent


def offered(request: ModelRequest) -> tuple[dict[str, object], ...]:
    """A request's tools, functions and hosted ones, as they are recorded."""
    functions = tuple(tool.openai() for tool in request.tools)
    return functions + tuple(tool.openai() for tool in request.hosted)


def override(asked: Sampling, forced: Sampling | None) -> Sampling:
    """What is sampled with when a trainer's ``forced`` replaces what an agent asked for.

    >>> override(Sampling(temperature=0, max_tokens=10), Sampling(max_tokens=50)).max_tokens
    10
    """
    if forced is None:
        return asked
    limits = [n for n in (asked.max_tokens, forced.max_tokens) if n is not None]
    return replace(
        forced, stop=asked.stop or forced.stop, max_tokens=min(limits) if limits else None
    )


def recorded_sampling(sampling: Sampling) -> dict[str, object]:
    """The fields that are not the default."""
    values = asdict(sampling)
    plain = {spec.name: spec.default for spec in fields(Sampling)}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value != plain[key]
    }
