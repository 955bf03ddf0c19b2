"""Boxes for the checks, and how a check becomes a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

from m2gym.core.errors import InfraError
from m2gym.core.task import Limits, WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.workspaces import make_workspace

Check = Callable[..., Awaitable[None]]

SLACK = 20.0
"""Seconds that a loaded machine may take over what should be quick; the project's choice."""


class Boxes:
    """Base of the suite's parts: makes started boxes and stops them after each check."""

    kind: ClassVar[str] = "local"
    spec: ClassVar[dict[str, Any]] = {}

    def unstarted(self, **spec: Any) -> Workspace:
        """A box of this kind that is not started."""
        limits = Limits(**spec.pop("limits", {}))
        return make_workspace(WorkspaceSpec(**{"limits": limits, **self.spec, **spec}), self.kind)

    async def box(self, **spec: Any) -> Workspace:
        """A started box, stopped when the check ends."""
        made = self.unstarted(**spec)
        self._made.append(made)
        await made.start()
        return made

    def keep(self, boxes: list[Workspace]) -> list[Workspace]:
        """Boxes from elsewhere (forks), stopped when the check ends."""
        self._made += boxes
        return boxes

    async def leftovers(self, box: Workspace) -> list[str]:
        """What of a stopped box is still there; a kind that can tell overrides this."""
        return []

    _made: list[Workspace]

    async def run_check(self, check: Check) -> None:
        """Run one check and stop its boxes, whatever it did."""
        self._made = []
        try:
            await check(self)
        finally:
            for box in self._made:
                await box.stop()


def checked(check: Check) -> Callable[[Boxes], None]:
    """Make an async check a test that needs no plugin of pytest's."""

    def test(self: Boxes) -> None:
        asyncio.run(self.run_check(check))

    test.__doc__, test.__name__ = check.__doc__, check.__name__
    test.__qualname__ = check.__qualname__
    return test


def needs(*capabilities: str) -> Callable[[Check], Check]:
    """Skip a check where the workspace does not declare what it is about."""

    def wrap(check: Check) -> Check:
        async def run(self: Boxes) -> None:
            missing = sorted(set(capabilities) - self.unstarted().capabilities)
            if missing:
                pytest.skip(f"{self.kind} does not declare {', '.join(missing)}")
            await check(self)

        run.__doc__, run.__name__ = check.__doc__, check.__name__
        run.__qualname__ = check.__qualname__
        return run

    return wrap


async def alive(box: Workspace, word: str) -> int:
    """How many processes that the box sees have a word in their command line."""
    script = f"grep -ls '{word[:-1]}[{word[-1]}]' /proc/[0-9]*/cmdline | wc -l"
    return int((await box.exec(script)).stdout)


async def seen(box: Workspace, word: str) -> None:
    """Wait until a process with that word runs."""
    for _ in range(1000):
        if await alive(box, word):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"no process with {word} came up")


async def gone(box: Workspace, word: str) -> bool:
    """Whether processes with that word end within `SLACK`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SLACK
    while await alive(box, word):
        if loop.time() > end:
            return False
        await asyncio.sleep(0.05)
    return True


@contextlib.contextmanager
def survives_or_is_lost() -> Any:
    """A box under attack either gives a result or says that it was lost."""
    with contextlib.suppress(InfraError):
        yield
