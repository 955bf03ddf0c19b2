"""A recorded run as a model: the same requests get the same answers, to the byte, offline.

A session follows one recorded episode: that of its own id (``TASK/ATTEMPT`` or the episode's id)
where the run has it, else the first that no other session follows and whose first prompt is the
same. Every answer must be asked for with the messages it was recorded with; where the environment
said something else, the error shows the first difference.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from m2gym.core.errors import InputError
from m2gym.core.protocols import Delta, ModelRequest, Session
from m2gym.core.trajectory import Trajectory
from m2gym.models.messages import Message, text_of
from m2gym.models.redact import Redactor
from m2gym.models.scripted import pieces
from m2gym.models.session import offered

SHOWN = 120
"""Characters of a difference that an error shows."""


@dataclass(eq=False)
class _Follower:
    """A session's way through an episode: its completions' recorded twins, and those used."""

    episode: Trajectory
    twins: dict[int, int] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)


class ReplayModel:
    """Answers from recorded episodes."""

    def __init__(self, episodes: Iterable[Trajectory]) -> None:
        self.episodes = [episode for episode in episodes if episode.completions]
        if not self.episodes:
            raise InputError("there is nothing to replay: no episode has a recorded completion")
        self._taken: set[str] = set()
        self._redact = Redactor()
        self._followers: weakref.WeakKeyDictionary[Session, _Follower] = weakref.WeakKeyDictionary()

    @classmethod
    def load(cls, path: str | Path) -> ReplayModel:
        """From a run folder; of several records of a task and attempt the last counts."""
        file = Path(path)
        if file.is_dir():
            file /= "trajectories.jsonl"
        last: dict[tuple[str, int], Trajectory] = {}
        for number, line in enumerate(_lines(file), 1):
            try:
                episode = Trajectory.model_validate(line)
            except ValidationError as error:
                raise InputError(f"{file}, line {number}: {error.errors()[0]['msg']}") from None
            last[episode.task, episode.attempt] = episode
        return cls(last.values())

    async def stream(self, request: ModelRequest, session: Session) -> AsyncIterator[Delta]:
        """The recorded answer.

        Raises:
            InputError: no recorded completion has this prompt.
        """
        asked = [self._redact.message(m) for m in request.messages[request.known :]]
        follower = self._followers.get(session) or self._follow(session, request, asked)
        index = self._find(follower, request, asked)
        follower.used.add(index)
        follower.twins[len(session.completions)] = index
        said = follower.episode.completions[index]
        for delta in pieces(said.message):
            yield delta
        parent = request.parent if said.parent is not None else None
        yield Delta(completion=said.model_copy(update={"parent": parent}))

    def _follow(self, session: Session, request: ModelRequest, asked: list[Message]) -> _Follower:
        named = [e for e in self.episodes if session.id in (e.id, f"{e.task}/{e.attempt}")]
        free = [e for e in self.episodes if e.id not in self._taken]
        for episode in named or free or self.episodes:
            found = _Follower(episode)
            if named or self._matches(found, request, asked):
                self._taken.add(episode.id)
                self._followers[session] = found
                return found
        raise InputError(
            f"none of the {len(self.episodes)} recorded episodes begins with this prompt: "
            f"{_shown(asked[-1])}"
        )

    def _matches(
        self, follower: _Follower, request: ModelRequest, asked: list[Message]
    ) -> list[int]:
        """Unused completions with this prompt under the parent's twin, or else as roots."""
        completions = follower.episode.completions
        twin = None if request.parent is None else follower.twins.get(request.parent)
        tools = tuple(self._redact.message(tool) for tool in offered(request))
        found = []
        for index, said in enumerate(completions):
            if index in follower.used:
                continue
            if twin is not None and said.parent == twin and _same(said.messages, asked):
                found.append(index)
            elif said.parent is None and said.tools == tools:
                whole = asked
                if request.known:
                    whole = [self._redact.message(m) for m in request.messages]
                if _same(said.messages, whole):
                    found.append(index)
        return found

    def _find(self, follower: _Follower, request: ModelRequest, asked: list[Message]) -> int:
        found = self._matches(follower, request, asked)
        if found:
            return found[0]
        completions = follower.episode.completions
        twin = None if request.parent is None else follower.twins.get(request.parent)
        near = [c for n, c in enumerate(completions) if n not in follower.used and c.parent == twin]
        what = "no answer to this prompt is left"
        if near:
            what = _difference(near[0].messages, asked)
        raise InputError(
            f"episode {follower.episode.id} of task {follower.episode.task!r} was recorded "
            f"otherwise: {what}"
        )


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise InputError(f"{file}, line {number} is not JSON: {error}") from None
                value.pop("sha256", None)
                yield value
    except OSError as error:
        raise InputError(f"cannot read the run {file}: {error.strerror}") from error


def _same(recorded: Sequence[Message], asked: Sequence[Message]) -> bool:
    return len(recorded) == len(asked) and all(map(_equal, recorded, asked))


def _equal(one: Message, other: Message) -> bool:
    return one["role"] == other["role"] and one == other


def _difference(recorded: Sequence[Message], asked: Sequence[Message]) -> str:
    for n, (old, new) in enumerate(zip(recorded, asked, strict=False)):
        if not _equal(old, new):
            was, now = text_of(old), text_of(new)
            at = next(
                (i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b),
                min(len(was), len(now)),
            )
            at = max(0, at - 20)
            return (
                f"message {n} was {old['role']} …{was[at : at + SHOWN]!r}, "
                f"now it is {new['role']} …{now[at : at + SHOWN]!r}"
            )
    return f"{len(recorded)} new messages were recorded, {len(asked)} came"


def _shown(message: Message) -> str:
    return repr(text_of(message)[:SHOWN])
