"""A tree larger than memory, cut so that no prefix is computed twice.

The tree is cut into *parts* of at most a budget of tokens; a part's tokens see those of its
ancestors' parts through their keys and values. Forward goes down; a part's backward runs when all
parts below it have run theirs and left the gradients of its keys and values (Tree Training, arXiv
2511.00413)::

        part 0 ──keys, values──► part 1     forward 0, forward 1, backward 1 ─┐
          │  ▲ gradients of k, v    │                                         │ d(k, v) of part 0
          │  └──────────────────────┘       forward 2, backward 2 ────────────┤
          └────────────────────────► part 2 backward 0  ◄─────────────────────┘

Only the parts on the way from the root to the current one hold activations, so the peak is that of
one root-to-leaf path, whatever the number of branches; nothing is recomputed.

The loss must be a sum over trained tokens. A loss that couples the tokens of a sample (GSPO's
sequence ratio) needs its coefficients from a scoring pass first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from m2gym.core.errors import InputError
from m2gym.forge.layout import Ints
from m2gym.forge.targets import Scores, Targets, score
from m2gym.forge.tree import Tree

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer: keys and values, with the token axis last but one."""

Forward = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, KeysValues], tuple[torch.Tensor, KeysValues]
]
"""(ids_Q, positions_Q, mask_Q_S, past) -> (logits_Q_V, new). ``past`` (empty at a root) holds the
ancestors' keys and values; S is past and new tokens together, ``mask_Q_S`` true where a query may
attend; ``new`` holds the Q new tokens' keys and values, as they would enter a later ``past``."""

TokenLoss = Callable[[Ints, Scores], torch.Tensor]
"""(indices m of trained tokens, their scores) -> the scalar sum of their losses."""


@dataclass(frozen=True, eq=False)
class Part:
    """``row_Q``: row indices of its tokens; ``past_S``: of its ancestors', in other parts."""

    index: int
    parent: int
    row_Q: Ints
    past_S: Ints


def cut(tree: Tree, max_tokens: int) -> list[Part]:
    """Cut into parts of at most ``max_tokens``, parents first, in depth-first order.

    A node longer than the budget becomes a chain of parts; sibling subtrees that fit together share
    a part.
    """
    if max_tokens < 1:
        raise InputError(f"a part holds at least one token, got a budget of {max_tokens}")
    return _Cutter(tree, max_tokens).parts()


class _Cutter:
    def __init__(self, tree: Tree, budget: int) -> None:
        self.layout, self.budget = tree.layout, budget
        self.children: dict[int, list[int]] = {}
        for node, parent in enumerate(tree.layout.parent_N.tolist()):
            self.children.setdefault(parent, []).append(node)
        self.made: list[Part] = []

    def parts(self) -> list[Part]:
        """Walk with an explicit stack: trees of long chains are deep."""
        none = np.empty(0, dtype=np.int64)
        todo: list[tuple[list[int], int, Ints]] = [(self.children.get(-1, []), -1, none)]
        while todo:
            siblings, parent, past_S = todo.pop()
            for index in self._siblings(siblings, parent, past_S, todo):
                self.made.append(index)
        return self._depth_first()

    def _size(self, node: int) -> int:
        return int(self.layout.reach_N[node] - self.layout.start_N[node])

    def _siblings(
        self,
        siblings: list[int],
        parent: int,
        past_S: Ints,
        todo: list[tuple[list[int], int, Ints]],
    ) -> list[Part]:
        made: list[Part] = []
        bins: list[list[int]] = []
        loads: list[int] = []
        for node in siblings:
            size = self._size(node)
            if size > self.budget:
                continue
            if loads and loads[-1] + size <= self.budget:
                bins[-1].append(node)
                loads[-1] += size
            else:
                bins.append([node])
                loads.append(size)
        first = len(self.made)
        for nodes in bins:
            rows = [np.arange(self.layout.start_N[n], self.layout.reach_N[n]) for n in nodes]
            made.append(Part(first + len(made), parent, np.concatenate(rows), past_S))
        for node in siblings:
            if self._size(node) > self.budget:
                own = np.arange(self.layout.start_N[node], self.layout.end_N[node])
                above, past = parent, past_S
                for at in range(0, len(own), self.budget):
                    rows_Q = own[at : at + self.budget]
                    part = Part(first + len(made), above, rows_Q, past)
                    made.append(part)
                    above, past = part.index, np.concatenate([past, rows_Q])
                todo.append((self.children.get(node, []), above, past))
        return made

    def _depth_first(self) -> list[Part]:
        below: dict[int, list[Part]] = {}
        for part in self.made:
            below.setdefault(part.parent, []).append(part)
        ordered: list[Part] = []
        renamed = {-1: -1}
        stack = list(reversed(below.get(-1, [])))
        while stack:
            part = stack.pop()
            renamed[part.index] = len(ordered)
            ordered.append(Part(len(ordered), renamed[part.parent], part.row_Q, part.past_S))
            stack.extend(reversed(below.get(part.index, [])))
        return ordered


def part_mask(tree: Tree, part: Part) -> torch.Tensor:
    """Q x (S + Q), true where a token of the part may attend."""
    key = np.concatenate([part.past_S, part.row_Q])
    reach = tree.layout.reach_T[key]
    allowed = (key[None, :] <= part.row_Q[:, None]) & (part.row_Q[:, None] < reach[None, :])
    return torch.from_numpy(allowed)


@dataclass
class _Open:
    """A part whose backward waits for those below it."""

    part: Part
    new: KeysValues
    grads: KeysValues
    past: KeysValues
    loss: torch.Tensor | None


def backward_in_parts(
    tree: Tree,
    targets: Targets,
    parts: list[Part],
    forward: Forward,
    loss: TokenLoss,
    *,
    device: torch.device | str = "cpu",
    temperature: float = 1.0,
) -> float:
    """Loss of the whole tree, its gradients accumulated in the model's parameters.

    Every part is computed once. The result equals ``loss(all).backward()`` over the whole row.
    """
    tokens = _tokens_by_part(tree, targets, parts)
    total = 0.0
    path: list[_Open] = []
    for part in parts:
        while path and path[-1].part.index != part.parent:
            _close(path)
        past = _gather_past(part, path)
        logits_Q_V, new = forward(
            torch.as_tensor(tree.ids_T[part.row_Q], device=device),
            torch.as_tensor(tree.layout.position_T[part.row_Q], device=device),
            part_mask(tree, part).to(device),
            past,
        )
        value = None
        if len(tokens[part.index]):
            own = _restrict(targets, tokens[part.index], part)
            value = loss(tokens[part.index], score(logits_Q_V, own, temperature=temperature))
            total += float(value.detach())
        grads = [(torch.zeros_like(k), torch.zeros_like(v)) for k, v in new]
        path.append(_Open(part, new, grads, past, value))
    while path:
        _close(path)
    return total


def _tokens_by_part(tree: Tree, targets: Targets, parts: list[Part]) -> list[Ints]:
    part_T = np.full(tree.tokens, -1)
    for part in parts:
        part_T[part.row_Q] = part.index
    if (part_T < 0).any():
        raise InputError("the parts do not cover the tree; cut this very tree with `cut`")
    part_M = part_T[targets.position_P[targets.pair_M]]
    return [np.flatnonzero(part_M == part.index) for part in parts]


def _restrict(targets: Targets, tokens_m: Ints, part: Part) -> Targets:
    pairs, pair_m = np.unique(targets.pair_M[tokens_m], return_inverse=True)
    return Targets(
        position_P=np.searchsorted(part.row_Q, targets.position_P[pairs]),
        target_P=targets.target_P[pairs],
        pair_M=pair_m,
        sample_M=targets.sample_M[tokens_m],
        old_logprobs_M=targets.old_logprobs_M[tokens_m],
    )


def _owners(part: Part, path: list[_Open]) -> list[tuple[_Open, Ints, Ints]]:
    """For each open part that owns some of ``past_S``: where in past_S, and where in its rows."""
    found = []
    for above in path:
        at = np.flatnonzero(np.isin(part.past_S, above.part.row_Q))
        if len(at):
            found.append((above, at, np.searchsorted(above.part.row_Q, part.past_S[at])))
    return found


def _gather_past(part: Part, path: list[_Open]) -> KeysValues:
    owners = _owners(part, path)
    if not owners:
        return []
    order = np.argsort(np.concatenate([at for _, at, _ in owners]))
    past: KeysValues = []
    for layer in range(len(owners[0][0].new)):
        both = []
        for side in (0, 1):
            device = owners[0][0].new[layer][side].device
            taken = [
                above.new[layer][side]
                .detach()
                .index_select(-2, torch.as_tensor(rows, device=device))
                for above, _, rows in owners
            ]
            joined = torch.cat(taken, dim=-2)
            joined = joined.index_select(-2, torch.as_tensor(order, device=device))
            both.append(joined.requires_grad_())
        past.append((both[0], both[1]))
    return past


def _close(path: list[_Open]) -> None:
    """Backward of the last open part; its past's gradients go to the parts that own it."""
    last = path.pop()
    roots = [t for kv in last.new for t in kv] + ([] if last.loss is None else [last.loss])
    seeds: list[torch.Tensor | None] = [g for kv in last.grads for g in kv]
    seeds += [] if last.loss is None else [None]
    torch.autograd.backward(roots, seeds)
    for above, at, rows in _owners(last.part, path):
        for layer, kv in enumerate(last.past):
            for side, leaf in enumerate(kv):
                if leaf.grad is None:
                    continue
                index = torch.as_tensor(at, device=leaf.device)
                into = torch.as_tensor(rows, device=leaf.device)
                above.grads[layer][side].index_add_(-2, into, leaf.grad.index_select(-2, index))
