"""What the parts of a Harbor folder become: reward, hidden files, reference, artifacts.

A part is a folder with ``instruction.md``, ``tests`` and ``solution``: a task's, or a step's.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from m2gym.core.errors import InputError
from m2gym.core.task import Isolation, Reference, RewardSpec
from m2gym.rewards.script import HIDDEN, PLACE
from m2gym.tasksets.harbor.settings import Judge, Settings
from m2gym.tasksets.memory import copied, copy
from m2gym.tasksets.outcomes.measure import pack
from m2gym.tasksets.registry.cache import Cache, key_of

OWN = "m2gym.json"
"""In ``tests``: the rewards of a task that m2gym wrote as a Harbor folder, and beside it the hidden
files that they need. Harbor itself runs the ``test.sh`` there."""

OWN_HIDDEN = "hidden"

NOT_READ = ("docker-compose.yaml", "docker-compose.yml", "trajectory.json", ".harborignore")
"""Files of Harbor's that change what a task is and are not supported."""

_PARAMETERS = ("fail_to_pass", "pass_to_pass", "command", "test_files", "timeout", "python")
_CANARY = re.compile(r"(<!--.*canary.*-->|#.*canary.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """Folders of a task or step: ``tests`` in the order in which later ones win."""

    folder: Path
    tests: tuple[Path, ...]
    solution: Path
    judge: Judge
    settings: Settings

    @property
    def isolation(self) -> Isolation:
        """Where it is judged: Harbor's ``shared`` only where the task says so."""
        mode = self.judge.mode or self.settings.verifier.mode
        return "shared" if mode == "shared" else "fresh"

    @property
    def separate(self) -> bool:
        """Whether the task says that only its declared artifacts reach the verifier."""
        return (self.judge.mode or self.settings.verifier.mode) == "separate"

    @property
    def bundle(self) -> Path | None:
        """The tests folder that is also an image of the verifier's own, with a Dockerfile."""
        if not self.separate:
            return None
        return next((t for t in reversed(self.tests) if (t / "Dockerfile").is_file()), None)

    @property
    def bundled(self) -> bool:
        """Whether the verifier's image holds ``/tests``, so that nothing is put there."""
        own = self.judge.box or self.settings.verifier.box
        return self.bundle is not None or (own is not None and own.image is not None)

    def instruction(self) -> str:
        """The text, without the marks at its head that tell crawlers to leave it out."""
        path = self.folder / "instruction.md"
        if not path.is_file():
            raise InputError(
                f"{self.folder}: a task folder holds instruction.md, this one lacks it"
            )
        lines = path.read_text(encoding="utf-8").split("\n")
        while lines and _CANARY.fullmatch(lines[0].strip()):
            lines.pop(0)
            while lines and not lines[0].strip():
                lines.pop(0)
        return "\n".join(lines)

    def own(self) -> Path | None:
        """The file with the rewards of a task that m2gym wrote."""
        return next((t / OWN for t in reversed(self.tests) if (t / OWN).is_file()), None)

    def rewards(self) -> tuple[RewardSpec, ...]:
        """What it is judged by.

        Raises:
            InputError: there is neither a script nor a word of tests.
        """
        own, metadata = self.own(), self.settings.metadata
        if own is not None:
            return _own_rewards(own)
        if "fail_to_pass" in metadata:
            named = {key: metadata[key] for key in _PARAMETERS if key in metadata}
            return (RewardSpec(name="tests-pass", parameters={"pass_to_pass": [], **named}),)
        if not self.bundled and not any((t / "test.sh").is_file() for t in self.tests):
            raise InputError(
                f"{self.folder}: expected tests/test.sh, or fail_to_pass in the [metadata] of "
                "task.toml"
            )
        parameters: dict[str, Any] = {
            "env": {**self.settings.verifier.env, **self.judge.env},
            "timeout": self.judge.seconds or self.settings.limits.grade_seconds,
        }
        user = self.judge.user or self.settings.verifier.user
        if user == "agent":
            parameters["user"] = user
        if self.bundled:
            parameters["bundled"] = True
        return (RewardSpec(name="test-script", parameters=parameters),)

    def hidden(self, cache: Cache) -> Path | None:
        """The tests, as they are laid over the grading box's work folder."""
        own = self.own()
        if own is not None:
            place = own.with_name(OWN_HIDDEN)
            return copied(cache, place) if place.is_dir() else None
        if self.bundled:
            return None
        script = any(spec.name == "test-script" for spec in self.rewards())
        inner = f"{HIDDEN}/tests" if script else "tests"
        found = [copied(cache, tests) for tests in self.tests if tests.is_dir()]

        def build(target: Path) -> None:
            (target / inner).parent.mkdir(parents=True, exist_ok=True)
            for tests in found:
                copy(tests, target / inner)

        return cache.folder(
            "files", key_of("hidden", inner, *(t.parent.name for t in found)), build
        )

    def reference(self) -> Reference | None:
        """The solution's script and the files beside it."""
        if not (self.solution / "solve.sh").is_file():
            return None
        packed = base64.b64encode(pack(self.solution)).decode()
        variables = self.settings.solution_env.items()
        lines = [
            "set -e",
            f"rm -rf {PLACE}/solution && mkdir -p {PLACE}/solution",
            f"base64 -d <<'END' | tar -x -C {PLACE}/solution\n{packed}\nEND",
            *(f"export {key}={shlex.quote(value)}" for key, value in variables),
            "bash /solution/solve.sh",
        ]
        return Reference(script="\n".join(["(", *lines, ")"]))

    def artifacts(self, workdir: str, also: Sequence[str] = ()) -> tuple[str, ...]:
        """The paths that reach the verifier: those declared and ``/logs/artifacts``, and, but in
        ``separate`` mode, the whole work folder."""
        declared = [*self.settings.artifacts, *also, "/logs/artifacts"]
        places = [_place(path, workdir) for path in declared]
        if not self.separate:
            places = [".", *(path for path in places if path.startswith("/"))]
        return tuple(dict.fromkeys(places))


def check_files(folder: Path) -> None:
    """Refuse a folder with files of Harbor's that are not supported, by name."""
    for name in NOT_READ:
        for place in (folder, *(folder / part for part in ("environment", "tests", "solution"))):
            if (place / name).exists():
                raise InputError(f"{folder}: the file {place.name}/{name} is not supported")


def _place(path: str, workdir: str) -> str:
    whole = posixpath.normpath(posixpath.join(workdir, path))
    if whole == workdir or whole.startswith(f"{workdir}/"):
        return posixpath.relpath(whole, workdir)
    for name in ("logs", "tests", "solution"):
        if whole == f"/{name}" or whole.startswith(f"/{name}/"):
            return f"{PLACE}{whole}"
    return whole


def _own_rewards(path: Path) -> tuple[RewardSpec, ...]:
    try:
        data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return tuple(RewardSpec.model_validate(entry) for entry in data["rewards"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: expected an object with rewards: {error}") from error
