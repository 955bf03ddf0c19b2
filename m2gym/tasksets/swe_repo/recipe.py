"""The facts a real-repository task is made from: versions, hashes, test ids, places.

Nothing of the package itself is in a recipe. Lists of green tests are kept once for each release,
since every task over it shares them.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

from pydantic import Field, ValidationError

from m2gym.core.errors import InputError
from m2gym.core.task import Frozen, Limits, RewardSpec, Split, Task
from m2gym.tasksets.registry.fetch import RegistryFile

Kind = Literal["version-diff", "injected-bug"]

GRADE_SECONDS = 300.0
"""Bound of one grading; the project's choice, far above the seconds measured."""


class MutationSpec(Frozen):
    """One injected bug: which operator, at which of its places in which file, with which seed."""

    operator: str
    path: str
    place: int = Field(ge=0, description="index among the operator's places in the file")
    seed: int = 0


class ChangeSpec(Frozen):
    """A piece of the step between two releases: a source file, or some of its hunks."""

    path: str
    hunks: tuple[int, ...] = Field(
        (), description="indices among the file's hunks (`changes.hunks`); empty: the whole file"
    )


class Recipe(Frozen):
    """All that is needed to build and judge one task, given a package registry."""

    id: str
    kind: Kind
    split: Split
    package: str
    source: RegistryFile = Field(description="the release the agent starts from")
    fixed: RegistryFile | None = Field(None, description="version-diff: the release that fixes it")
    part: tuple[ChangeSpec, ...] = Field(
        (), description="version-diff: what of the step the reference change takes; empty: all"
    )
    mutations: tuple[MutationSpec, ...] = Field((), description="injected-bug: what was injected")
    statement: str
    fail_to_pass: tuple[str, ...] = Field(min_length=1)
    not_kept: tuple[str, ...] = Field((), description="green ids that are not pass-to-pass")
    green: str = Field(description="name of the list of tests that pass with the fix")
    requires: tuple[str | RegistryFile, ...] = Field(
        (), description="what the tests import: names in the table of pinned files, or files"
    )
    command: tuple[str, ...] = Field((), description="extra pytest arguments")
    artifacts: tuple[str, ...] = Field(min_length=1, description="the package's own paths")
    changed: int = Field(ge=1, description="source files the reference change touches")
    seconds: float = Field(gt=0, description="seconds one run of the tests took, measured")
    distance: int | None = Field(
        None, ge=0, description="the package's calls between a failing test and the fault, fewest"
    )

    def rewards(self, green: tuple[str, ...]) -> tuple[RewardSpec, ...]:
        """``tests-pass`` over the measured ids."""
        out = {*self.fail_to_pass, *self.not_kept}
        parameters: dict[str, Any] = {
            "fail_to_pass": list(self.fail_to_pass),
            "pass_to_pass": [test for test in green if test not in out],
        }
        if self.command:
            parameters["command"] = list(self.command)
        return (RewardSpec(name="tests-pass", parameters=parameters),)

    @property
    def shown_by(self) -> tuple[str, ...]:
        """The test files that show the fault."""
        return tuple(sorted({test.partition("::")[0] for test in self.fail_to_pass}))

    def task(self, green: tuple[str, ...]) -> Task:
        """The task as agents and environments see it."""
        return Task(
            id=self.id,
            instruction=f"{self.statement.strip()}\n\n{_RULES.format(package=self.package)}",
            rewards=self.rewards(green),
            artifacts=self.artifacts,
            limits=Limits(grade_seconds=GRADE_SECONDS),
            metadata={
                "package": self.package,
                "kind": self.kind,
                "split": self.split,
                "version": self.source.version,
                "difficulty": {
                    "files": self.changed,
                    "fail_to_pass": len(self.fail_to_pass),
                    "distance": self.distance,
                },
                "grade_seconds": self.seconds,
            },
        )


_RULES = (
    "The work folder is a source tree of {package}. Change the package's own code so that it "
    "behaves as described and everything else stays as it was; tests you cannot see decide. "
    "Only the package's code is taken, changes to tests or configuration are not. `pytest` runs "
    "the tests that are here; there is no network."
)


def data() -> Traversable:
    """The folder with the recipes shipped with m2gym."""
    return files("m2gym.tasksets") / "data" / "swe_repo"


@functools.cache
def green_tests(name: str) -> tuple[str, ...]:
    """The tests of one release that pass in every measured run, in order."""
    text = (data() / "green" / f"{name}.json").read_text(encoding="utf-8")
    return tuple(f"{path}::{rest}" for path, ids in json.loads(text).items() for rest in ids)


def group_by_file(ids: tuple[str, ...]) -> dict[str, list[str]]:
    """Test ids by file, as lists of green tests are stored; the inverse of `green_tests`."""
    grouped: dict[str, list[str]] = {}
    for test in ids:
        path, _, rest = test.partition("::")
        grouped.setdefault(path, []).append(rest)
    return grouped


def load(text: str, where: str) -> Recipe:
    """Parse a recipe.

    Raises:
        InputError: a field is missing, wrong or unknown; the message names it and ``where``.
    """
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {field}: {first['msg']}") from error
