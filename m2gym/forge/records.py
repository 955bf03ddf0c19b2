"""What the data pool stores: completions as arrays, and why one is not fit for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Completion, Trajectory
from m2gym.core.verdict import GRADED, Verdict

Ids = NDArray[np.int32]
MASKED_ISOLATION = "shared"
"""Graded in the agent's own box: kept, flagged, never trained on."""


@dataclass(frozen=True, eq=False)
class PoolCompletion:
    """One (state, action) pair; the last three have one entry a response token.

    ``versions_T``: number of the weights that generated each token (they may change within one).
    """

    prompt_ids: Ids
    response_ids: Ids
    logprobs_T: NDArray[np.float32]
    versions_T: Ids
    process_reward: float = 0.0

    @classmethod
    def of(
        cls,
        completion: Completion,
        process_reward: float = 0.0,
        *,
        prompt: Sequence[int] | None = None,
    ) -> PoolCompletion:
        """From the core's record; weight version 0 where none was recorded.

        ``prompt``: the whole one, where the completion has a parent and holds only what follows.
        """
        n = len(completion.response_ids)
        return cls(
            np.array(completion.prompt_ids if prompt is None else prompt, dtype=np.int32),
            np.array(completion.response_ids, dtype=np.int32),
            np.array(completion.logprobs, dtype=np.float32),
            np.array(completion.weight_versions or (0,) * n, dtype=np.int32),
            process_reward,
        )

    def fault(self, vocabulary: int | None = None, max_tokens: int | None = None) -> str | None:
        """Why it cannot be trained on, or ``None``."""
        n = len(self.response_ids)
        if n == 0 or len(self.prompt_ids) == 0:
            return "empty prompt or response"
        if len(self.logprobs_T) != n or len(self.versions_T) != n:
            return f"{len(self.logprobs_T)} logprobs, {len(self.versions_T)} versions, {n} tokens"
        if not np.isfinite(self.logprobs_T).all():
            return "a logprob is not finite"
        low = min(int(self.prompt_ids.min()), int(self.response_ids.min()))
        high = max(int(self.prompt_ids.max()), int(self.response_ids.max()))
        if low < 0 or (vocabulary is not None and high >= vocabulary):
            return f"token id {low if low < 0 else high} out of range"
        if max_tokens is not None and len(self.prompt_ids) + n > max_tokens:
            return f"{len(self.prompt_ids) + n} tokens, more than {max_tokens}"
        if not np.isfinite(self.process_reward):
            return f"process reward {self.process_reward}"
        return None


@dataclass(frozen=True, eq=False)
class PoolTrajectory:
    """An episode with its verdict. ``key`` is unique: putting it again changes nothing.

    ``group``: episodes of one group are consumed together; ``None`` for an episode on its own.
    """

    key: str
    completions: tuple[PoolCompletion, ...]
    reward: float | None
    status: str = "ok"
    isolation: str = "fresh"
    group: str | None = None
    task: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, trajectory: Trajectory, group: str | None = None) -> PoolTrajectory:
        """From the core's record."""
        return cls(
            trajectory.id,
            tuple(
                PoolCompletion.of(completion, prompt=trajectory.full_prompt(index))
                for index, completion in enumerate(trajectory.completions)
            ),
            trajectory.verdict.reward,
            trajectory.verdict.status,
            trajectory.verdict.isolation,
            group,
            trajectory.task,
        )

    def with_verdict(self, verdict: Verdict) -> PoolTrajectory:
        """The same episode, graded."""
        return PoolTrajectory(
            self.key,
            self.completions,
            verdict.reward,
            verdict.status,
            verdict.isolation,
            self.group,
            self.task,
            self.extra,
        )

    def fault(self, vocabulary: int | None = None, max_tokens: int | None = None) -> str | None:
        """Why the episode is masked, or ``None``."""
        if self.status not in GRADED:
            return self.status
        if self.isolation == MASKED_ISOLATION:
            return "graded in a shared box"
        if self.reward is None or not np.isfinite(self.reward):
            return f"reward {self.reward}"
        if not self.completions:
            return "no completion"
        for completion in self.completions:
            fault = completion.fault(vocabulary, max_tokens)
            if fault is not None:
                return f"invalid: {fault}"
        return None


def pack_runs(values: Ids) -> bytes:
    """Run-length form of weight versions: they change rarely within a response.

    >>> unpack_runs(pack_runs(np.array([3, 3, 4], np.int32))).tolist()
    [3, 3, 4]
    """
    if len(values) == 0:
        return b""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    lengths = np.diff(np.r_[starts, len(values)])
    return np.stack([values[starts], lengths], axis=1).astype("<i4").tobytes()


def unpack_runs(data: bytes) -> Ids:
    """Inverse of `pack_runs`."""
    runs = np.frombuffer(data, dtype="<i4").reshape(-1, 2)
    return np.repeat(runs[:, 0], runs[:, 1]).astype(np.int32)


def to_blobs(completion: PoolCompletion) -> tuple[bytes, bytes, bytes, bytes]:
    """Prompt, response, logprobs, versions as little-endian bytes."""
    return (
        completion.prompt_ids.astype("<i4", copy=False).tobytes(),
        completion.response_ids.astype("<i4", copy=False).tobytes(),
        completion.logprobs_T.astype("<f4", copy=False).tobytes(),
        pack_runs(completion.versions_T),
    )


def from_blobs(blobs: Sequence[bytes], process_reward: float) -> PoolCompletion:
    """Inverse of `to_blobs`."""
    if len(blobs) != 4 or any(len(blob) % 4 for blob in blobs) or len(blobs[3]) % 8:
        raise InputError("not the four blobs of a completion: a half-written record")
    return PoolCompletion(
        np.frombuffer(blobs[0], dtype="<i4"),
        np.frombuffer(blobs[1], dtype="<i4"),
        np.frombuffer(blobs[2], dtype="<f4"),
        unpack_runs(blobs[3]),
        process_reward,
    )
