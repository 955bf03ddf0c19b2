"""Which tests show a fix, measured in the workspace, and whether the verdict is right.

Nothing is taken from hearsay: the tests run ``runs`` times with the fix and ``runs`` times without
it, each time in a fresh box. A test whose outcome changes between equal runs is flaky and left out.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.errors import VerifierError
from m2gym.core.task import PreparedTask, WorkspaceSpec
from m2gym.core.verdict import Verdict
from m2gym.core.workspace import Workspace
from m2gym.rewards.verifier import grade

MakeBox = Callable[[WorkspaceSpec], Workspace]

RUNS = 3
"""Runs of each side; the project's choice."""
TEST_SECONDS = 20.0
"""Bound of one test while measuring; the project's choice."""


@dataclass(frozen=True)
class Outcomes:
    """One run of the tests: outcome of each id, messages of the failed ones, wall seconds."""

    tests: Mapping[str, str]
    messages: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What the runs agree on. ``green`` holds ``fail_to_pass`` and ``not_kept``."""

    green: tuple[str, ...]
    fail_to_pass: tuple[str, ...]
    not_kept: tuple[str, ...]
    flaky: tuple[str, ...]
    seconds: float
    messages: Mapping[str, str]

    @property
    def pass_to_pass(self) -> int:
        """How many tests pass with and without the fix."""
        return len(self.green) - len(self.fail_to_pass) - len(self.not_kept)


async def run_once(
    prepared: PreparedTask,
    tests: Sequence[str],
    command: Sequence[str],
    make_box: MakeBox,
    *,
    fixed: bool,
    timeout: float = TEST_SECONDS,
) -> Outcomes:
    """Run ``tests`` (files or folders) in a fresh box with or without the reference change.

    Raises:
        InfraError: the box failed.
        VerifierError: pytest gave no outcomes at all.
    """
    box = make_box(prepared.workspace)
    try:
        await box.start()
        if fixed:
            await apply_reference(prepared, box)
        if prepared.hidden is not None:
            await box.unpack(pack(prepared.hidden))
        arguments = [
            "-q",
            "-o",
            "cache_dir=/tmp/pytest-cache",
            "--continue-on-collection-errors",
            "--tb=short",
        ]
        job = {"arguments": [*arguments, *command, *tests], "timeout": timeout}
        started = time.monotonic()
        result = await box.exec(
            ["python3", "-c", Path(__file__).with_name("collect.py").read_text()],
            stdin=json.dumps(job).encode(),
            timeout=prepared.workspace.limits.grade_seconds,
        )
        seconds = time.monotonic() - started
    finally:
        await box.stop()
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        raise VerifierError(
            f"{prepared.task.id}: pytest gave no outcomes (exit code {result.exit_code}): "
            f"{result.output[-600:]!r}"
        ) from None
    messages = answer["messages"]
    if not answer["outcomes"] and not messages:
        messages = {"": f"pytest ended with exit code {answer['exit']}: {_end(result.stderr)}"}
    return Outcomes(answer["outcomes"], messages, seconds)


def _end(said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[-400:] or "nothing was collected"


async def measure(
    prepared: PreparedTask,
    tests: Sequence[str],
    command: Sequence[str],
    make_box: MakeBox,
    *,
    runs: int = RUNS,
    check: Callable[[Measured], None] | None = None,
) -> Measured:
    """Fail-to-pass and pass-to-pass, from ``runs`` runs of each side, two boxes at once.

    ``check`` sees what the first run of each side shows, and may raise to spare the others.

    Raises:
        InfraError: a box failed.
        VerifierError: pytest gave no outcomes at all.
    """
    good: list[Outcomes] = []
    bad: list[Outcomes] = []
    for number in range(runs):
        one, other = await asyncio.gather(
            run_once(prepared, tests, command, make_box, fixed=True),
            run_once(prepared, tests, command, make_box, fixed=False),
        )
        good.append(one)
        bad.append(other)
        if number == 0 and check is not None:
            check(agreed(good, bad))
    return agreed(good, bad)


def agreed(good: Sequence[Outcomes], bad: Sequence[Outcomes]) -> Measured:
    """What runs with the fix (``good``) and without it (``bad``) agree on."""
    flaky = _unstable(good)
    green = [test for test, outcome in good[0].tests.items() if outcome == "passed"]
    green = [test for test in green if test not in flaky]
    flaky |= _unstable(bad)
    outcomes = bad[0].tests
    failing = [t for t in green if outcomes.get(t, "missing") in ("failed", "missing")]
    kept = {t for t in green if outcomes.get(t) == "passed"} - flaky
    fail_to_pass = tuple(t for t in failing if t not in flaky)
    seconds = sorted(run.seconds for run in (*good, *bad))
    return Measured(
        green=tuple(green),
        fail_to_pass=fail_to_pass,
        not_kept=tuple(t for t in green if t not in kept and t not in fail_to_pass),
        flaky=tuple(sorted(flaky)),
        seconds=round(seconds[len(seconds) // 2], 2),
        messages=bad[0].messages,
    )


async def verdicts(
    prepared: PreparedTask, make_box: MakeBox, *, gold: bool, runs: int = RUNS
) -> list[float | None]:
    """The rewards the verifier gives the reference change (or no change), ``runs`` times."""
    return [verdict.reward for verdict in await judged(prepared, make_box, gold=gold, runs=runs)]


async def judged(
    prepared: PreparedTask,
    make_box: MakeBox,
    *,
    gold: bool = False,
    files: Mapping[str, bytes | None] | None = None,
    runs: int = RUNS,
) -> list[Verdict]:
    """Verdicts on the reference change, on ``files`` written by an agent, or on no change.

    Each is given in a fresh box; the agent's box, in which nothing runs, is one.

    Raises:
        InfraError, VerifierError: a box or the grading failed.
    """
    box = make_box(prepared.workspace)
    try:
        await box.start()
        if gold:
            await apply_reference(prepared, box)
        if files:
            await apply_files(files, box)
        return [
            await grade(prepared, box, stop="submitted", make_box=make_box) for _ in range(runs)
        ]
    finally:
        await box.stop()


def failed(verdict: Verdict) -> dict[str, str]:
    """Test id → outcome of the tests a verdict saw fail (the first fifty)."""
    found: dict[str, str] = {}
    for score in verdict.scores.values():
        found |= score.evidence.get("failed", {})
    return found


async def apply_reference(prepared: PreparedTask, box: Workspace) -> None:
    """Make the reference change in a box."""
    if prepared.reference is None:
        return
    await apply_files(prepared.reference.files, box)
    if prepared.reference.script is not None:
        await box.exec(prepared.reference.script)


async def apply_files(files: Mapping[str, bytes | None], box: Workspace) -> None:
    """Write files in a box; `None` removes one."""
    for path, data in files.items():
        if data is None:
            await box.exec(["rm", "-f", "--", path])
        else:
            await box.write(path, data)


def pack(folder: Path) -> bytes:
    """A tar of a folder's files, names relative to it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = tarfile.TarInfo(path.relative_to(folder).as_posix())
                info.size, info.mode = path.stat().st_size, path.stat().st_mode & 0o777
                tar.addfile(info, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def _unstable(runs: Sequence[Outcomes]) -> set[str]:
    names = {name for run in runs for name in run.tests}
    return {n for n in names if len({run.tests.get(n, "missing") for run in runs}) > 1}
