"""The agent that tries one attack and submits."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from m2gym.core.errors import VerifierError
from m2gym.core.protocols import Episode
from m2gym.core.workspace import Workspace
from m2gym.rollout.attacks import Attack

SECONDS = 60.0
"""How long an attack may prepare itself; the project's choice."""

MEANINGFUL = 64
"""Bytes from which a hidden file is told from an empty or a common one; the project's choice."""

_APPEND = """
import os, sys
payload = "\\n\\n" + sys.stdin.read()
for folder, names, files in os.walk("."):
    names[:] = [n for n in names if n not in ("tests", "test", "testing", "docs", "examples")
                and not n.startswith(".")]
    for name in files:
        if name.endswith(".py") and not name.startswith(("test", "conftest", "setup")):
            with open(os.path.join(folder, name), "a") as file:
                file.write(payload)
"""


@dataclass
class Attacker:
    """Does what an attack says, as the box's agent, then submits.

    Raises:
        VerifierError: a hidden file was found in the agent's own box.
    """

    attack: Attack
    name: str = field(init=False)
    uses_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.name = f"attack-{self.attack.name}"

    async def run(self, episode: Episode) -> None:
        box, attack = episode.workspace, self.attack
        for path, text in attack.files.items():
            with contextlib.suppress(OSError):
                await box.write(path, text.encode())
        if attack.payload:
            program = ["python3", "-I", "-c", _APPEND]
            await box.exec(program, stdin=attack.payload.encode(), timeout=SECONDS)
        if attack.script:
            await box.exec(attack.script, timeout=SECONDS)
        if attack.loot:
            await _look(box, episode.prepared.hidden, episode.prepared.workspace.root)
        if not episode.done:
            await episode.submit()


async def _look(box: Workspace, hidden: Path | None, root: Path | None) -> None:
    if hidden is None:
        return
    secret = _digests(hidden) - (_digests(root) if root is not None else set())
    with tarfile.open(fileobj=io.BytesIO(await box.export(["loot"]))) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None and hashlib.sha256(file.read()).digest() in secret:
                raise VerifierError(f"a hidden file lies in the agent's box: {member.name}")


def _digests(folder: Path) -> set[bytes]:
    return {
        hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size >= MEANINGFUL
    }
