"""Generation: many sequences in one process, admitted and ended one by one.

    generate ─► waiting ──open──► running ── a token a pass ──► ended ─► TokenOutput
                   ▲                │
                   └── preempted ───┘  no memory left, or the weights have changed

Passes run in one worker thread, so the event loop stays free; whoever calls `generate` meanwhile
is admitted before the next pass. Prompts are fed first; then every sequence gets its tokens, pass
after pass, until one ends, is asked to, or another waits. After `update_weights` every running
sequence goes on where it was, its keys and values computed anew: each token's logprob is exactly
that of the weights whose version it carries.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import torch

from m2gym.backends.local.answer import Answer
from m2gym.backends.local.batch import Batch, batches
from m2gym.backends.local.decode import Decoder
from m2gym.backends.local.hooked import HookedModel
from m2gym.backends.local.memory import give_back, keep_freed
from m2gym.backends.local.sampler import Draws, check_sampling, draw
from m2gym.backends.local.spans import Piece, apart
from m2gym.backends.local.step import Step
from m2gym.backends.local.store import Shape, Store
from m2gym.backends.local.threads import Lanes
from m2gym.core.errors import BudgetError, InputError, ModelError
from m2gym.core.protocols import Sampling, TokenOutput

ROWS, PASS_TOKENS, KV_TOKENS = 64, 2048, 262_144
"""Sequences at once, tokens fed in one pass, tokens kept: the project's choice."""

LANE_ROWS = 32
"""Rows from which on another lane decodes; ours, measured with m2-nano."""


_Part = tuple[Batch, Sequence[Answer], Draws]
"""Rows, whose they are, and how their tokens are taken."""


class LocalEngine:
    """`m2gym.core.protocols.Engine` over a Hugging Face model.

    Args:
        model: a causal model, or one already hooked.
        stop_ids: ids that end an answer; they are part of it.
        decode: ids → text; needed for stop strings.
        rows: sequences at once. pass_tokens: fed in one pass. kv_tokens: kept in all.
        context: tokens of prompt and answer together; the model's own when left out.
        seed: of sequences whose sampling names none.
        fixed: decode in fixed shapes (`m2gym.backends.local.decode`), captured as CUDA graphs where
            there is a GPU; left out, only there.
    """

    def __init__(
        self,
        model: HookedModel,
        *,
        stop_ids: Sequence[int] = (),
        decode: Callable[[Sequence[int]], str] | None = None,
        rows: int = ROWS,
        pass_tokens: int = PASS_TOKENS,
        kv_tokens: int = KV_TOKENS,
        context: int | None = None,
        seed: int = 0,
        fixed: bool | None = None,
    ) -> None:
        if pass_tokens < 1:
            raise InputError(f"pass_tokens is at least 1, got {pass_tokens}")
        self.model, self.stop_ids, self.decode = model, frozenset(stop_ids), decode
        self.pass_tokens, self.version = pass_tokens, 0
        self.seconds = 0.0
        self.context = context or model.context
        self.store = Store(_shape(model), rows=rows, tokens=kv_tokens)
        on_gpu = self.store.shape.device.type == "cuda"
        self.decoder: Decoder | None = None
        if on_gpu if fixed is None else fixed:
            self.decoder = Decoder(model, self.store, capture=on_gpu)
        self._batches: list[Batch] = []
        if not on_gpu:
            keep_freed()
        self.lanes = Lanes() if model.small else None
        self._seeds = np.random.default_rng(seed)
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []
        self._paused = False
        self._asking = 0
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "m2gym-engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stepping = asyncio.Lock()

    async def generate(
        self, ids: Sequence[int], sampling: Sampling, *, session_id: str
    ) -> TokenOutput:
        """An answer to ``ids``: up to a stop id or string, ``max_tokens`` or the context's end.

        A seed's random numbers differ with the prompt's length, so that one seed serves all turns
        of an episode. ``stop_reason`` is ``stop``, ``length`` or ``abort`` (with what there was).

        Raises:
            InputError: an empty prompt, an id outside the vocabulary, a sampling that makes no
                sense. BudgetError: the prompt fills the context.
            ModelError: the model failed.
        """
        prompt = self._checked(ids, sampling)
        left = None if self.context is None else self.context - len(prompt)
        limits = [n for n in (left, sampling.max_tokens) if n is not None]
        if not limits:
            raise InputError("the model names no context length: give max_tokens")
        seed = sampling.seed
        own = int(self._seeds.integers(2**63)) if seed is None else abs(seed)
        random = np.random.default_rng([own, len(prompt)])
        loop = self._enter()
        sequence = Answer(prompt, sampling, session_id, min(limits), random, loop.create_future())
        self._waiting.append(sequence)
        self._wake()
        try:
            return await sequence.future
        except asyncio.CancelledError:
            sequence.stop = "abort"
            raise

    async def abort(self, session_id: str) -> None:
        """End a session's answers where they are, and forget what is kept for it."""
        for sequence in [*self._waiting, *self._running]:
            if sequence.session == session_id:
                sequence.stop = "abort"
        self._enter()
        async with self._between_passes():
            self._end_stopped()
            self.store.forget(session_id)

    async def pause(self) -> None:
        """Stop between two passes; sequences keep their place. Returns when none is under way."""
        self._enter()
        self._paused = True
        async with self._between_passes():
            pass

    async def update_weights(self, version: int) -> None:
        """The model's weights were changed (paused): tokens from now on carry ``version``."""
        self._enter()
        async with self._between_passes():
            self.version = version
            self.model.refresh()
            for sequence in reversed(self._running):
                sequence.row = None
                self._waiting.appendleft(sequence)
            self._running.clear()
            self._clear()

    async def resume(self) -> None:
        """Go on."""
        self._enter()
        self._paused = False
        self._wake()

    def close(self) -> None:
        """End the worker threads; what was kept of freed memory goes back to the system."""
        self._thread.shutdown(wait=True)
        if self.lanes is not None:
            self.lanes.close()
        if self.model.device.type == "cpu":
            give_back()

    def _checked(self, ids: Sequence[int], sampling: Sampling) -> list[int]:
        check_sampling(sampling)
        prompt = list(ids)
        if not prompt:
            raise InputError("expected a prompt of at least one token, got none")
        if min(prompt) < 0 or max(prompt) >= self.model.vocabulary:
            raise InputError(
                f"token ids lie in 0..{self.model.vocabulary - 1}, got {min(prompt)}..{max(prompt)}"
            )
        if self.context is not None and len(prompt) >= self.context:
            raise BudgetError(
                f"the prompt has {len(prompt)} tokens and the context {self.context}", "context"
            )
        if sampling.stop and self.decode is None:
            raise InputError("stop strings need the engine's decode=…, which turns ids to text")
        return prompt

    def _enter(self) -> asyncio.AbstractEventLoop:
        """The running loop; what another loop left behind when it ended has nobody waiting."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                raise InputError("this engine serves another event loop; close that one first")
            self._loop, self._stepping, self._driver = loop, asyncio.Lock(), None
            if self._running or self._waiting:
                self._running.clear()
                self._waiting.clear()
                self._clear()
        return loop

    @asynccontextmanager
    async def _between_passes(self) -> AsyncIterator[None]:
        """When none is under way, which the driver is asked for."""
        self._asking += 1
        try:
            async with self._stepping:
                yield
        finally:
            self._asking -= 1

    def _wake(self) -> None:
        if not self._paused and (self._driver is None or self._driver.done()):
            self._driver = asyncio.get_running_loop().create_task(self._drive())

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # whoever asks in the same breath is admitted together
        while (self._waiting or self._running) and not self._paused:
            async with self._stepping:
                self._end_stopped()
                try:
                    await loop.run_in_executor(self._thread, self._pass)
                # The one boundary of the thread: whoever waits must hear of it.
                except Exception as error:
                    self._fail(error)
                    raise
                self._end_stopped()

    def _end_stopped(self) -> None:
        for sequence in [s for s in [*self._running, *self._waiting] if s.stop is not None]:
            (self._running if sequence in self._running else self._waiting).remove(sequence)
            if sequence.row is not None:
                self.store.close(sequence.row, keep=sequence.stop != "abort")
            if not sequence.future.done():
                sequence.future.set_result(sequence.output())

    def _fail(self, error: Exception) -> None:
        for sequence in [*self._running, *self._waiting]:
            if not sequence.future.done():
                told = ModelError(f"the engine failed: {error}", cause="broken")
                told.__cause__ = error
                sequence.future.set_exception(told)
        self._running.clear()
        self._waiting.clear()
        self._clear()

    def _clear(self) -> None:
        self.store.clear()
        self._batches = []
        if self.decoder is not None:
            self.decoder.forget()

    # -- in the worker thread -------------------------------------------------------------------

    def _pass(self) -> None:
        begun = time.perf_counter()
        if self.model.base.training:
            self.model.base.eval()
        self._tokens()
        self.seconds += time.perf_counter() - begun

    @torch.no_grad()
    def _tokens(self) -> None:
        """Admit; feed what is behind, or else every sequence a token until something changes."""
        self._admit()
        with self.model.cores():
            pieces = self._pieces()
            if pieces:
                self._feed(pieces)
                return
            decode = self._decoding()
            while True:
                decode()
                if self._changed():
                    return

    def _changed(self) -> bool:
        """Whether decoding cannot just go on."""
        return (
            self._paused
            or self._asking > 0
            or (bool(self._waiting) and not self.store.full)
            or any(sequence.stop is not None for sequence in self._running)
        )

    def _feed(self, pieces: Sequence[Piece]) -> None:
        """A pass over prompts; a token for each that is through."""
        parts = [pieces] if self.lanes is None else apart(pieces, self.lanes.count)
        steps = [Step(self.store, part) for part in parts]
        states = (
            [self._hidden(steps[0])] if self.lanes is None else self.lanes.map(self._hidden, steps)
        )
        last: dict[int, torch.Tensor] = {}
        for step, hidden_T_H in zip(steps, states, strict=True):
            step.done()
            ends = zip(step.order, step.last, strict=True)
            last |= {id(piece.owner): hidden_T_H[at] for piece, at in ends}
        ready = [s for s in self._running if id(s.row) in last and not s.todo()]
        if ready:
            logits = self.model.logits(torch.stack([last[id(s.row)] for s in ready]))
            self._take(ready, *draw(logits, [s.draw() for s in ready]))

    @torch.no_grad()
    def _hidden(self, step: Step) -> torch.Tensor:
        device = self.model.device
        return self.model.hidden(
            torch.tensor(step.ids, device=device),
            torch.tensor(step.positions, device=device),
            step.attend,
        )

    def _decoding(self) -> Callable[[], None]:
        """What gives every running sequence a token, as often as it is called."""
        rows = {id(s.row): s for s in self._running}
        if self.decoder is not None:
            held = [s.row for s in self._running if s.row is not None]
            if self.decoder.fits(held):
                return partial(self._decode, self.decoder)
        held = [s.row for s in self._running if s.row]
        count = 1 if self.lanes is None else min(self.lanes.count, 1 + len(held) // LANE_ROWS)
        self._batches = batches(self.store, held, count, self._batches)
        parts = []
        for batch in self._batches:
            ordered = [rows[id(row)] for row in batch.rows]
            parts.append((batch, ordered, Draws(s.sampling for s in ordered)))
        return partial(self._decode_batches, parts)

    def _decode(self, decoder: Decoder) -> None:
        rows = [s.row for s in self._running if s.row is not None]
        ids = [s.last for s in self._running]
        found = decoder.run(rows, ids, [s.draw() for s in self._running])
        self._take(self._running, *found)

    def _decode_batches(self, parts: Sequence[_Part]) -> None:
        for batch, _, _ in parts:
            batch.reserve()
        if self.lanes is None:
            found = [self._decode_batch(part) for part in parts]
        else:
            found = self.lanes.map(self._decode_batch, parts)
        for (batch, ordered, _), (tokens, logprobs) in zip(parts, found, strict=True):
            batch.done([s.last for s in ordered])
            self._take(ordered, tokens, logprobs)

    @torch.no_grad()
    def _decode_batch(self, part: _Part) -> tuple[list[int], list[float]]:
        batch, ordered, draws = part
        positions_B = batch.begin()
        ids_B = torch.tensor([s.last for s in ordered], device=self.model.device)
        logits_B_V = self.model.logits(self.model.hidden(ids_B, positions_B, batch.attend))
        return draws.of(logits_B_V, [s.random.random() for s in ordered])

    def _admit(self) -> None:
        if not self._waiting or self.store.full:
            return
        waiting = list(self._waiting)  # at one moment: the loop's thread adds to it meanwhile
        whole = deque(np.array([*s.prompt, *s.ids], np.int64) for s in waiting)
        for sequence in waiting:
            if self.store.full:
                break
            self._running.append(self._waiting.popleft())
            sequence.row = self.store.open(whole.popleft(), sequence.session, whole)
        self.store.shrink()

    def _pieces(self) -> list[Piece]:
        """What is behind, as much as a pass takes; what is longer than a pass is cut."""
        pieces: list[Piece] = []
        left, behind = self.pass_tokens, set()
        for node in sorted(self.store.nodes(), key=lambda n: n.start):
            if node.filled < len(node.ids):
                some = node.ids[node.filled : node.filled + self.pass_tokens].tolist()
                fed = len(some) <= left and not any(id(n) in behind for n in node.path())
                if fed:
                    left -= len(some)
                    pieces.append(Piece(node, some))
                if not fed or node.filled + len(some) < len(node.ids):
                    behind.add(id(node))
        for sequence in self._running:
            row, todo = sequence.row, sequence.todo()
            assert row is not None
            some = todo[: self.pass_tokens]
            if (
                len(todo) > 1
                and len(some) <= left
                and not any(id(n) in behind for n in row.prefix())
            ):
                left -= len(some)
                pieces.append(Piece(row, some))
        return pieces

    def _take(
        self, ready: Sequence[Answer], tokens: Sequence[int], logprobs: Sequence[float]
    ) -> None:
        for answer, token, logprob in zip(ready, tokens, logprobs, strict=True):
            answer.take(token, logprob, self.version, self.stop_ids, self.decode)


def _shape(model: HookedModel) -> Shape:
    """Sizes of keys and values, seen from one token's pass."""
    seen: list[tuple[int, int, int]] = []

    def look(
        layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
    ) -> torch.Tensor:
        seen.append((k.shape[0], k.shape[-1], v.shape[-1]))
        return v.repeat_interleave(q.shape[0] // v.shape[0], 0)

    with torch.no_grad():
        zero = torch.zeros(1, dtype=torch.long, device=model.device)
        model.hidden(zero, zero, look)
    if len(set(seen)) != 1:
        raise InputError(f"layers have keys of different shapes: {sorted(set(seen))}")
    heads, key_width, value_width = seen[0]
    return Shape(len(seen), heads, key_width, value_width, model.dtype, model.device)
