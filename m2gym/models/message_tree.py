"""The conversations of a session as a tree of messages: what does a request extend?

    tools ─► system ─► user ─► assistant (completion 0) ─► tool ─► assistant (completion 1)
                         │                            └─► user ─► assistant (completion 3: a fork)
                         └─► assistant (completion 2: the same prompt, sampled again)

A request walks down from the root of its tools, adding what is new. A client's form of a recorded
answer (its thinking or its ids dropped, its arguments' JSON written anew) finds the recorded one.
The last few requests are kept as they came: the next one mostly begins with one of them, so that
only what is new in it is looked at; comparing the rest costs microseconds.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.tools import ToolSchema
from m2gym.models.messages import Message, call_ids, canonical, message_key, only_adds

HOT = 8
"""Requests kept as they came; the project's choice: a main line and its sub-agents."""


@dataclass(eq=False, slots=True)
class Node:
    """A message in its place. ``completion`` is the index of the completion that said it, and
    ``last`` the index of the nearest completion at or above it."""

    parent: Node | None
    message: Message
    depth: int
    last: int | None = None
    completion: int | None = None
    children: dict[tuple[Any, ...], list[Node]] = field(default_factory=dict)
    last_depth: int = 0

    def child(self, key: tuple[Any, ...], thinking: str = "") -> Node | None:
        """The child of this key whose thinking is the same, or is all there is to choose from.

        Without ``thinking`` (a client that dropped it) the newest child counts.
        """
        for node in reversed(self.children.get(key, ())):
            if not thinking or thinking == thinking_of(node.message):
                return node
        return None

    @property
    def grown(self) -> int:
        """How many children it has."""
        return sum(map(len, self.children.values()))

    def said_with_less(self, message: Message) -> Node | None:
        """The recorded answer whose calls a client echoes with default arguments added.

        Claude Code adds ``"replace_all": false`` to each edit; ids and names stay.
        """
        for nodes in self.children.values():
            for node in nodes:
                if node.completion is not None and only_adds(node.message, message):
                    return node
        return None

    def add(self, key: tuple[Any, ...], message: Message) -> Node:
        """A new child."""
        node = Node(self, message, self.depth + 1, self.last, None, {}, self.last_depth)
        self.children.setdefault(key, []).append(node)
        return node


@dataclass(slots=True)
class Place:
    """Where a request's messages end: their node, and the messages as recorded."""

    leaf: Node
    messages: list[Message]
    forked: bool
    """Whether it branches off from a path that goes on."""

    @property
    def parent(self) -> int | None:
        """Index of the completion they extend."""
        return self.leaf.last

    @property
    def known(self) -> int:
        """How many of the messages are that completion's prompt and answer."""
        return self.leaf.last_depth


@dataclass(eq=False, slots=True)
class _Hot:
    root: Node
    raw: list[Mapping[str, Any]]
    messages: list[Message]
    leaf: Node
    asked_ids: list[str]
    results: int


class MessageTree:
    """Every message of a session, once."""

    def __init__(self) -> None:
        self._roots: list[tuple[tuple[ToolSchema, ...], str, Node]] = []
        self._hot: deque[_Hot] = deque(maxlen=HOT)

    def place(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[ToolSchema],
        *,
        constant: bool = False,
    ) -> Place:
        """Walk (and grow) the tree along ``messages``, which later stay as they are if constant.

        Raises:
            InputError: there are none, or one is malformed; the tree is as it was.
        """
        if not messages:
            raise InputError("a request needs at least one message, got none")
        asked = list(messages)
        root = self._root(tuple(tools))
        hot = self._longest(root, asked)
        known = len(hot.raw)
        fresh = [(canonical(message), message) for message in asked[known:]]
        walk = _Hot(root, hot.raw, hot.messages, hot.leaf, hot.asked_ids, hot.results)
        if hot.raw:
            # the newest objects: the next request shares them
            walk.raw = asked[:known] if constant else list(hot.raw)
            walk.messages = list(hot.messages)
        before = walk.leaf
        matched = True
        for message, raw in fresh:
            child, is_new = self._step(walk, message)
            if not is_new:
                before = child
            matched = matched and not is_new
            walk.leaf = child
            walk.messages.append(child.message)
            walk.raw.append(raw if constant else _own(raw))
        forked = before.depth > 0 and before.grown > (0 if matched else 1)
        if hot in self._hot:
            self._hot.remove(hot)
        self._hot.append(walk)
        return Place(walk.leaf, list(walk.messages), forked)

    def answer(self, leaf: Node, message: Message, index: int) -> Node:
        """Put the answer of completion ``index`` under its prompt."""
        node = leaf.add(message_key(message), message)
        node.completion = node.last = index
        node.last_depth = node.depth
        return node

    def copy(self) -> MessageTree:
        """The same tree, to grow apart from this one; messages are shared."""
        other = MessageTree()
        for tools, text, root in self._roots:
            other._roots.append((tools, text, _copied(root)))
        return other

    def _root(self, tools: tuple[ToolSchema, ...]) -> Node:
        for known, _, root in self._roots:
            if known is tools or known == tools:
                return root
        text = json.dumps([tool.model_dump() for tool in tools], sort_keys=True)
        root = next((root for _, key, root in self._roots if key == text), None) or Node(
            None, {}, depth=0
        )
        self._roots.append((tools, text, root))
        return root

    def _longest(self, root: Node, asked: list[Mapping[str, Any]]) -> _Hot:
        best = _Hot(root, [], [], root, [], 0)
        for hot in reversed(self._hot):
            n = len(hot.raw)
            if hot.root is root and len(best.raw) < n <= len(asked) and asked[:n] == hot.raw:
                best = hot
        return best

    def _step(self, walk: _Hot, message: Message) -> tuple[Node, bool]:
        """The child for a message, and whether it is new."""
        position = None
        if message["role"] == "assistant":
            walk.asked_ids, walk.results = call_ids(message), 0
        elif message["role"] == "tool":
            id = message["tool_call_id"]
            position = walk.asked_ids.index(id) if id in walk.asked_ids and id else walk.results
            walk.results += 1
            recorded = _recorded_ids(walk.leaf)
            if position < len(recorded):
                message["tool_call_id"] = recorded[position]
        key = message_key(message, position)
        found = walk.leaf.child(key, thinking_of(message))
        if found is None and message.get("tool_calls"):
            found = walk.leaf.said_with_less(message)
        if found is not None:
            return found, False
        return walk.leaf.add(key, message), True


def _copied(root: Node) -> Node:
    top = replace(root, children={})
    todo = [(root, top)]
    while todo:
        old, new = todo.pop()
        for key, nodes in old.children.items():
            made = [replace(node, parent=new, children={}) for node in nodes]
            new.children[key] = made
            todo += zip(nodes, made, strict=True)
    return top


def thinking_of(message: Mapping[str, Any]) -> str:
    """A message's thinking without surrounding space."""
    return str(message.get("reasoning_content") or "").strip()


def _own(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that later changes of the caller's message do not reach."""
    return {
        key: value if isinstance(value, str) else copy.deepcopy(value)
        for key, value in message.items()
    }


def _recorded_ids(node: Node) -> list[str]:
    """Ids of the calls that a tool message under ``node`` answers."""
    at: Node | None = node
    while at is not None and at.message.get("role") == "tool":
        at = at.parent
    return call_ids(at.message) if at is not None else []
