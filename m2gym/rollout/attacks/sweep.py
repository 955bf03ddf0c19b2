"""The battery over every registered environment, and the table of what came of it.

``python -m m2gym.rollout.attacks.sweep OUT`` tries every attack on every job that `JOBS` (or
``--job``) names, goes on where it was stopped, and keeps each outcome in ``OUT/outcomes.jsonl``;
``--page docs/security.md`` then writes the table between the page's marks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from m2gym.core.errors import InputError
from m2gym.core.task import Split, Task
from m2gym.envs.catalog import env_entry
from m2gym.rollout.attacks import Attack, attacks
from m2gym.rollout.attacks.battery import run_battery

JOBS = ("tool-use@local", "tool-worlds@local", "swe-repo@docker:3", "swe-repo@local")
MOST = 1000
"""Tasks of a split that are looked at; the project's choice."""

BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"


@dataclass(frozen=True)
class Job:
    """An environment in a workspace, and how many of its tasks (``None``: one a package, or 3)."""

    env: str
    workspace: str
    tasks: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``ENV@WORKSPACE[:TASKS]``."""
        env, at, rest = text.rpartition("@")
        workspace, _, count = rest.partition(":")
        if not at or not env or (count and not count.isdigit()):
            raise InputError(f"expected ENV@WORKSPACE[:TASKS], got {text!r}")
        return cls(env, workspace, int(count) if count else None)

    @property
    def name(self) -> str:
        return f"{self.env.partition(':')[0]} in {self.workspace}"

    def sample(self) -> dict[Split, list[str]]:
        """Tasks by split: of each package the one that is graded fastest, else the first ones."""
        source = env_entry(self.env).taskset()
        splits: tuple[Split, ...] = ("train", "test")
        known = [(s, source.task(i)) for s in splits for i in source.ids(s)[:MOST]]
        known.sort(key=lambda pair: float(pair[1].metadata.get("grade_seconds", 0)))
        first: dict[str, tuple[Split, Task]] = {}
        for pair in known:
            first.setdefault(str(pair[1].metadata.get("package", pair[1].id)), pair)
        grouped = any("package" in task.metadata for _, task in known)
        count = self.tasks if self.tasks is not None else (None if grouped else 3)
        chosen: dict[Split, list[str]] = {}
        for split, task in itertools.islice(first.values(), count):
            chosen.setdefault(split, []).append(task.id)
        return chosen


def sweep(out: Path, jobs: Iterable[Job], tried: Iterable[Attack], concurrency: int) -> None:
    """Try each attack on each job that ``out`` does not tell of yet."""
    out.mkdir(parents=True, exist_ok=True)
    done = {(row["job"], row["task"], row["attack"]) for row in outcomes(out)}
    for job in jobs:
        sample = job.sample()
        for attack in tried:
            for split, ids in sample.items():
                left = [i for i in ids if (job.name, i, attack.name) not in done]
                if not left:
                    continue
                prefix = f"{job.name.replace(' ', '-')}-{split}-{attack.name}-"
                place = Path(tempfile.mkdtemp(dir=out, prefix=prefix))
                found = run_battery(
                    job.env, place, names=[attack.name], split=split, tasks=left,
                    concurrency=concurrency, workspace=job.workspace, progress=False,
                )  # fmt: skip
                with (out / "outcomes.jsonl").open("a") as file:
                    for outcome in found:
                        row = {"job": job.name, **asdict(outcome), "ok": outcome.ok}
                        file.write(json.dumps(row) + "\n")


def outcomes(out: Path) -> Iterator[dict[str, Any]]:
    """What was found so far."""
    path = out / "outcomes.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Attack × environment: how many tasks withstood of how many, and what became of the rest."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["attack"], row["job"]), []).append(row)
    jobs = list(dict.fromkeys(job for _, job in cells))
    total = {job: [r for (_, j), found in cells.items() if j == job for r in found] for job in jobs}
    lines = [f"| attack | {' | '.join(jobs)} |", "|---" * (len(jobs) + 1) + "|"]
    for attack in sorted({attack for attack, _ in cells}):
        told = [_cell(cells.get((attack, job), [])) for job in jobs]
        lines.append(f"| {attack} | {' | '.join(told)} |")
    lines.append(f"| **all** | {' | '.join(_cell(total[job]) for job in jobs)} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "–"
    text = f"{sum(row['ok'] for row in rows)}/{len(rows)}"
    kinds = Counter(row["status"] for row in rows if row["status"] not in ("ok", "agent_error"))
    return ", ".join([text, *(f"{n} {kind}" for kind, n in sorted(kinds.items()))])


def write_page(page: Path, text: str) -> None:
    """Put the table between the page's marks."""
    whole = page.read_text()
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"expected the marks {BEGIN} and {END} in {page}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--job", action="append", help="ENV@WORKSPACE[:TASKS]; may be repeated")
    parser.add_argument("--attack", action="append", help="only these; may be repeated")
    parser.add_argument("--concurrency", "-j", type=int, default=2)
    parser.add_argument("--page", type=Path, help="write the table there, try nothing")
    asked = parser.parse_args()
    if asked.page is None:
        jobs = [Job.parse(text) for text in asked.job or JOBS]
        sweep(asked.out, jobs, attacks(asked.attack), asked.concurrency)
    else:
        write_page(asked.page, table(outcomes(asked.out)))
    print(table(outcomes(asked.out)).splitlines()[-1])


if __name__ == "__main__":
    main()
