"""Learning from given answers: a supervised cold start, and context distillation.

Neither is ICRL. Both raise the probability of answers under the prompt *without* examples: those of
labelled transcripts, or those that the model itself wrote with examples in its context (and that
were rewarded).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.learner import Graded, Learner
from m2gym.backends.local.worlds import WorldRollouts
from m2gym.core.errors import InputError
from m2gym.core.protocols import Sampling
from m2gym.forge.tree import Sample

OPENING = "use {name}\n</think>\n\n"
"""What the model thinks before a call, as its corpus has it."""


def labelled(
    rollouts: WorldRollouts, tasks: Sequence[str], *, shots: int = 0, thought: bool = True
) -> list[Sample]:
    """The right answer to each task; ``thought``: what is thought before is part of the answer,
    otherwise of the prompt."""
    format = rollouts.format
    found = []
    for task in tasks:
        episode = rollouts.questions.episode(rollouts.world, int(task.rpartition("/")[2]))
        opening = list(format.spell(OPENING.format(name=episode.tool.name)))
        call = [*format.tokenizer.encode(episode.call), format.stop_ids[0]]
        prompt = rollouts.prompt(task, shots)
        if thought:
            call = [*opening, *call]
        else:
            prompt = [*prompt, *opening]
        found.append(Sample.of(np.array(prompt), np.array(call), np.zeros(len(call))))
    return found


async def written(
    engine: LocalEngine, rollouts: WorldRollouts, tasks: Sequence[str], seed: int, tokens: int
) -> list[Sample]:
    """What the model answers with three examples, where that is right, under the prompt without."""

    async def one(n: int, task: str) -> Sample | None:
        sampling = Sampling(temperature=1.0, max_tokens=tokens, seed=seed + n)
        out = await engine.generate(rollouts.prompt(task, 3), sampling, session_id=f"w{n}")
        if rollouts.judged(task, out.ids)[1] < 1:
            return None
        prompt = np.array(rollouts.prompt(task, 0))
        return Sample.of(prompt, np.array(out.ids), np.zeros(len(out.ids)))

    found = await asyncio.gather(*(one(n, task) for n, task in enumerate(tasks)))
    return [sample for sample in found if sample is not None]


def imitate(learner: Learner, samples: Sequence[Sample], lr: float) -> float:
    """One update that raises the answers' probability; their mean surprise before it, in nats (at
    the learner's temperature).

    It is the learner's own objective with advantage 1 and ratio 1, whose gradient is that of the
    mean log-likelihood of a token.

    Raises:
        InputError: no sample.
    """
    if not samples:
        raise InputError("expected at least one answer to imitate, got none")
    targets, scores = learner.scores(samples, learner.temperature)
    now = [part.detach().double().cpu().numpy() for part in targets.split(scores.logprobs_M)]
    known = [replace(s, old_logprobs=own.clip(max=0)) for s, own in zip(samples, now, strict=True)]
    versions = tuple(np.zeros(len(own), np.int32) for own in now)
    learner.update(Graded(tuple(known), np.ones(len(known)), versions, {}), 0, lr)
    return -float(np.mean([own.sum() for own in now]))
