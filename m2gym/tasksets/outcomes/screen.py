"""Sifting: many changed versions of one release, each answered by a forked, warm pytest.

    box ── python with pytest loaded ──┬─ fork: file changed, its tests run ─ outcomes
                                       ├─ fork …
                                       └─ …

Starting pytest, and compiling its tests, is paid once; of a change only those tests run that run
the changed function (known from one traced run of all tests). This only chooses what is worth
measuring: what a task says is measured by the verifier in fresh boxes (`measure`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2gym.core.errors import VerifierError, WorkspaceLostError
from m2gym.core.task import PreparedTask
from m2gym.core.workspace import Process, Workspace
from m2gym.tasksets.outcomes.measure import TEST_SECONDS, MakeBox, apply_reference, pack
from m2gym.tasksets.registry.sdist import EPOCH

BUDGET = 120.0
"""Seconds that one question may take; the project's choice."""

EXPLAINERS = ("explain_names", "explain_failure")
"""Modules sent to the box, the first ones imported by the later ones."""

Files = Mapping[str, bytes | None]

_PASSED = ("passed", "xfailed", "xpassed")


@dataclass(frozen=True)
class Answer:
    """What one forked run of tests showed."""

    outcomes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    exit: int | None = None
    late: bool = False
    died: bool = False
    seconds: float = 0.0
    functions: Sequence[tuple[str, int]] = ()
    ran: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether the run came to its end."""
        return not self.late and not self.died


class Screen:
    """One box with a loaded pytest over a task's *fixed* tree and hidden tests.

    Use as ``async with Screen(prepared, make_box) as screen``; one question at a time.
    """

    def __init__(
        self, prepared: PreparedTask, make_box: MakeBox, command: Sequence[str] = ()
    ) -> None:
        self._prepared, self._make_box, self._command = prepared, make_box, list(command)
        self._box: Workspace | None = None
        self._process: Process | None = None
        self._lines: AsyncIterator[dict[str, Any]] | None = None

    async def __aenter__(self) -> Screen:
        await self._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        prepared = self._prepared
        box = self._box = self._make_box(prepared.workspace)
        await box.start()
        await apply_reference(prepared, box)
        if prepared.hidden is not None:
            await box.unpack(pack(prepared.hidden))
        text = _script("screen_server.py")
        self._process = await box.spawn(["python3", "-c", text])
        self._lines = _lines(self._process.stdout())
        sources = list(prepared.task.artifacts)
        setup = {
            "modules": {name: _script(f"{name}.py") for name in EXPLAINERS},
            "sources": sources,
            "packages": [path.rpartition("/")[2].removesuffix(".py") for path in sources],
            "stamp": EPOCH,
        }
        if (await self._say(setup)) is None:
            raise VerifierError(
                f"{prepared.task.id}: pytest could not be loaded in the box; "
                f"it said: {await _rest(self._process)}"
            )

    async def _stop(self) -> None:
        box, self._box = self._box, None
        if box is not None:
            await box.stop()

    async def _say(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        assert self._process is not None
        assert self._lines is not None
        try:
            await self._process.write(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionError, WorkspaceLostError):
            return None
        return await anext(self._lines, None)

    async def ask(
        self,
        files: Files,
        tests: Sequence[str],
        *,
        only: Sequence[str] | None = None,
        trace: bool = False,
        explain: bool = False,
        write: bool = False,
        most: int | None = None,
        budget: float = BUDGET,
        timeout: float = TEST_SECONDS,
    ) -> Answer:
        """Run test files with these files changed (`None` removes one); ``only`` names the tests.

        With more than ``most`` failing test functions the run stops: the rest is missing.
        A process or box that dies is answered (``died``) and replaced.

        Raises:
            InfraError: a new box cannot be made.
        """
        if self._box is None:
            await self._start()
        order = {
            "files": {
                path: None if data is None else base64.b64encode(data).decode()
                for path, data in files.items()
            },
            "tests": list(tests),
            "only": None if only is None else list(only),
            "command": self._command,
            "timeout": timeout,
            "budget": budget,
            "trace": trace,
            "explain": explain,
            "write": write,
            "most": most,
        }
        answer = await self._say(order)
        if answer is None:
            await self._stop()
            return Answer(died=True)
        answer.pop("status", None)
        return Answer(**answer)

    async def passes(
        self,
        files: Files,
        fail_to_pass: Sequence[str],
        kept: Sequence[str],
        budget: float = BUDGET,
    ) -> bool:
        """Whether no judged test fails with these files; those that show a fault are asked first.

        A test that shows a fault must run; one that must go on passing may also be skipped.

        Raises:
            InfraError: a new box cannot be made.
        """
        for ids, fine in ((fail_to_pass, _PASSED), (kept, (*_PASSED, "skipped"))):
            if not ids:
                continue
            tests = sorted({test.partition("::")[0] for test in ids})
            answer = await self.ask(files, tests, only=ids, budget=budget)
            if not answer.whole or any(answer.outcomes.get(t, "missing") not in fine for t in ids):
                return False
        return True


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        while (end := rest.find(b"\n")) >= 0:
            line = bytes(rest[:end])
            del rest[: end + 1]
            yield json.loads(line)


async def _rest(process: Process) -> str:
    said = bytearray()
    async for chunk in process.stderr():
        said += chunk
    return said.decode("utf-8", "replace")[-600:]


def _script(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
