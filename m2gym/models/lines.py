"""Conversations within a session's tree: the main line told from auxiliary calls by their shape.

A line ends in a completion that no other extends. Lines of one root share completions. The main
line is that of the root whose completions act most (calls of tools), then are most, then came
first; titles, commit messages, classifiers and sub-agents have roots of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m2gym.core.trajectory import Completion


@dataclass(frozen=True)
class Line:
    """A path of the tree, root first. ``main`` holds for the main conversation: every root that
    continues it after a rewrite has the same tools."""

    completions: tuple[int, ...]
    main: bool


def root_of(completions: Sequence[Completion]) -> list[int]:
    """Index of the root above each completion."""
    roots: list[int] = []
    for index, completion in enumerate(completions):
        roots.append(index if completion.parent is None else roots[completion.parent])
    return roots


def lines(completions: Sequence[Completion]) -> list[Line]:
    """All lines: the main one's first, then by their first completion.

    Roots with the main root's tools and its system message continue it (the agent compacted or
    rewrote its history); all others are auxiliary.
    """
    if not completions:
        return []
    roots = root_of(completions)
    acts: dict[int, int] = {}
    size: dict[int, int] = {}
    for root, completion in zip(roots, completions, strict=True):
        acts[root] = acts.get(root, 0) + len(completion.message.get("tool_calls") or ())
        size[root] = size.get(root, 0) + 1
    main = max(size, key=lambda root: (acts[root], size[root], -root))
    kin = {root for root in size if _kin(completions[root], completions[main])}
    has_child = {c.parent for c in completions if c.parent is not None}
    found = []
    for leaf in range(len(completions)):
        if leaf not in has_child:
            found.append(Line(_path(completions, leaf), roots[leaf] in kin))
    return sorted(found, key=lambda line: (not line.main, line.completions))


def _path(completions: Sequence[Completion], leaf: int) -> tuple[int, ...]:
    path: list[int] = []
    at: int | None = leaf
    while at is not None:
        path.append(at)
        at = completions[at].parent
    return tuple(reversed(path))


def _kin(root: Completion, main: Completion) -> bool:
    return root.tools == main.tools and _system(root) == _system(main)


def _system(root: Completion) -> list[object]:
    return [m["content"] for m in root.messages if m["role"] == "system"]
