"""ICRL with m2-nano on held-out tool formats: the grid of docs/m2-nano.md.

    python examples/icrl_m2_nano.py OUT --arms 3-2-0 zero --nats 8 10 12 14 16 --seeds 10 --jobs 2

A line a finished run in OUT/runs.jsonl (the progress of running ones beside it); runs that stand
there are not done again. Worlds are chosen by how guessable their calls are without examples.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from m2gym.backends.local import nano_icrl, nano_report
from m2gym.backends.local.nano_arms import ARMS
from m2gym.tasksets.tool_worlds.taskset import tool_worlds

QUESTIONS = 512


def settings(number: int, tools: int = 1) -> dict[str, Any]:
    return {"world": number, "novelty": "combination", "tools": tools, "questions": QUESTIONS}


def guess(number: int, tools: int = 1, model: Path | None = None) -> tuple[int, float, float]:
    """A world's surprise without examples and with three."""
    torch.set_num_threads(1)
    hooked, format = nano_icrl.start(model)
    rollouts = nano_icrl.rollouts_of(tool_worlds(**settings(number, tools)), format, [0])
    return number, nano_icrl.nats(hooked, rollouts, 0, 6), nano_icrl.nats(hooked, rollouts, 3, 6)


def job(
    out: Path, until: float | None, model: Path | None, what: tuple[str, int, int, int]
) -> None:
    """One run, written down when it is done; its updates as they come."""
    if until is not None and time.time() > until:
        return
    torch.set_num_threads(1)
    arm, number, seed, tools = what
    name = f"{arm}-{number}-{seed}-{tools}"
    with (out / f"{name}.rows").open("w", encoding="utf-8") as file:

        def told(row: dict[str, Any]) -> None:
            kept = ("step", "stage", "reward", "accuracy", "nll0", "held_out", "seconds")
            file.write(json.dumps({k: row[k] for k in kept if k in row}) + "\n")
            file.flush()

        found = nano_icrl.run(arm, settings(number, tools), seed, model=model, told=told)
    with (out / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    print(name, found["before"], found["after"], round(found["seconds"], 1), flush=True)


def report(out: Path) -> None:
    """The table, and curves of the world with most runs in ``curves.png``."""
    runs = [json.loads(line) for line in (out / "runs.jsonl").read_text("utf-8").splitlines()]
    print(nano_report.table(runs))
    worlds = [run["world"] for run in runs]
    nano_report.plot(runs, max(set(worlds), key=worlds.count), out / "curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--nats", nargs="+", type=float, default=[8, 9, 10, 11, 12])
    parser.add_argument("--worlds", nargs="+", type=int, help="instead of --nats")
    parser.add_argument("--among", type=int, default=96, help="worlds looked through")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tools", type=int, default=1)
    parser.add_argument("--model", type=Path, help="other weights of this shape or the dense one")
    parser.add_argument("--until", type=float, help="seconds after which no further run begins")
    parser.add_argument("--report", action="store_true", help="table and curves of what is there")
    options = parser.parse_args()
    path = options.out / "runs.jsonl"
    if options.report:
        if not path.is_file():
            parser.error(f"no finished run: there is no {path}; run it without --report first")
        report(options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    until = None if options.until is None else time.time() + options.until
    done = {
        (row["arm"], row["world"], row["seed"], row["tools"])
        for row in map(json.loads, path.read_text("utf-8").splitlines() if path.exists() else [])
    }
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs) as pool:
        worlds = options.worlds
        if worlds is None:
            numbers = range(options.among)
            found = pool.map(
                partial(guess, tools=options.tools, model=options.model), numbers, chunksize=1
            )
            fit = [(n, zero) for n, zero, three in found if three < 0.1]
            worlds = [min(fit, key=lambda w: abs(w[1] - aim))[0] for aim in options.nats]
            print("worlds", [w for w in fit if w[0] in worlds], flush=True)
        jobs = [
            (arm, world, seed, options.tools)
            for seed in range(options.first_seed, options.first_seed + options.seeds)
            for world in dict.fromkeys(worlds)
            for arm in options.arms
        ]
        left = [j for j in jobs if j not in done]
        for _ in pool.imap_unordered(partial(job, options.out, until, options.model), left):
            pass


if __name__ == "__main__":
    main()
