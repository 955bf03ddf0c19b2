"""Shapes of token trees recorded from released command-line agents, and samples of such a shape.

`agent_shapes.json` beside this module holds, for each agent, four runs that mend one small
repository (`tests/forge/record_agents.py` made it): nodes with parent and length, and for every
completion the nodes it runs through, its length (an earlier turn ends inside a node, which later
ones go on) and how many of its last tokens were generated. No text: the prompts are their makers'.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from m2gym.core.errors import UnknownIdError
from m2gym.forge.tree import Sample


@dataclass(frozen=True)
class Shape:
    """``parents_N``, ``lengths_N``: the tree's nodes, depth first. ``samples``: for each, its nodes
    from the root, its tokens, and how many of them, at the end, were generated."""

    agent: str
    parents_N: tuple[int, ...]
    lengths_N: tuple[int, ...]
    samples: tuple[tuple[tuple[int, ...], int, int], ...]

    def tokens(self, vocabulary: int, seed: int = 0) -> list[Sample]:
        """Samples of this shape with random ids; the first token of siblings differs."""
        rng = np.random.default_rng(seed)
        spelled = [rng.integers(0, vocabulary, n) for n in self.lengths_N]
        taken: dict[int, set[int]] = {}
        for node, parent in enumerate(self.parents_N):
            used = taken.setdefault(parent, set())
            while int(spelled[node][0]) in used:
                spelled[node][0] = rng.integers(0, vocabulary)
            used.add(int(spelled[node][0]))
        found = []
        for nodes, length, generated in self.samples:
            ids = np.concatenate([spelled[node] for node in nodes])[:length]
            found.append(
                Sample.of(
                    ids[:-generated], ids[-generated:], np.full(generated, -np.log(vocabulary))
                )
            )
        return found


def recorded() -> dict[str, Shape]:
    """The shapes that ship, by agent."""
    text = files("m2gym.forge").joinpath("agent_shapes.json").read_text(encoding="utf-8")
    return {
        entry["agent"]: Shape(
            entry["agent"], tuple(entry["parents"]), tuple(entry["lengths"]),
            tuple((tuple(nodes), *lengths) for nodes, *lengths in entry["samples"]),
        )
        for entry in json.loads(text)
    }  # fmt: skip


def shape(agent: str) -> Shape:
    """One of `recorded`.

    Raises:
        UnknownIdError: no such agent was recorded.
    """
    found = recorded()
    if agent not in found:
        raise UnknownIdError("recorded agent", agent, sorted(found))
    return found[agent]
