"""Questions whose answer is one short text: arithmetic, grade-school mathematics, multi-hop.

- ``reasoning-gym``: the package of that name, endless by seed (``families``, ``size``, ``seed``).
- ``gsm8k``: rows ``{"question", "answer": "… #### N"}``, a JSON line each (``train``, ``test``).
- ``hotpotqa``: rows ``{"_id", "question", "answer"}`` (``train``, ``test``) and passages
  ``{title: [sentence, …]}`` (``corpus``), of which a search shows ``passages`` and ``words``.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import Limits, RewardSpec, Task
from m2gym.rewards.answers import FORMAT_PENALTIES
from m2gym.tasksets.memory import ListTaskset

RESPONSE = "response.txt"
"""The artifact: what the agent answered, whole, and nothing of what it was asked."""

FAMILIES = ("chain_sum", "basic_arithmetic", "products", "gcd", "lcm", "count_bits")
"""Families of reasoning-gym that are taken unless others are named; the project's choice."""

ONE_NUMBER = ("chain_sum", "products", "decimal_chain_sum")
"""Families with a judge of their own whose right answer still is one number."""

PASSAGES, WORDS = 3, 375
"""Of a search's result: ICRL's top 3 and 500 tokens, at 0.75 words a token."""

LIMITS = Limits(steps=16, seconds=300, exec_seconds=10, memory_mb=512, disk_mb=64)


def tool_use(
    *,
    taskset: str = "reasoning-gym",
    accuracy: float = 1.0,
    format: float = 0.0,
    penalties: Mapping[str, float] | None = None,
    **settings: Any,
) -> ListTaskset:
    """Questions of one source.

    Args:
        taskset: the source, see the module; ``settings`` are its own.
        accuracy, format: weights of the rewards ``answer`` and ``icrl-format``. ICRL's are 0.8 and
            0.2, for agents that write its tags.
        penalties: what each lack takes from the format's 1, by the names of
            `m2gym.rewards.answers.FORMAT_PENALTIES`; published ones where left out.

    Raises:
        InputError: a setting that the source lacks, a file that does not hold its rows, a family
            without a single right answer.
    """
    sources: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
        "reasoning-gym": _reasoning_gym,
        "gsm8k": _gsm8k,
        "hotpotqa": _hotpotqa,
    }
    if taskset not in sources:
        raise UnknownIdError("taskset of tool-use", taskset, sources)
    own = dict(penalties or {})
    for name in {*own} - {*FORMAT_PENALTIES}:
        raise UnknownIdError("penalty of icrl-format", name, FORMAT_PENALTIES)
    try:
        rows = list(sources[taskset](**settings))
    except TypeError as error:
        known = inspect.signature(sources[taskset]).parameters
        for name in settings:
            if name not in known:
                raise UnknownIdError(f"setting of taskset {taskset}", name, known) from error
        raise InputError(f"taskset {taskset!r}: {error}") from error
    return ListTaskset("tool-use", [_task(row, accuracy, format, own) for row in rows])


def _task(row: dict[str, Any], accuracy: float, format: float, penalties: dict[str, float]) -> Task:
    expected: dict[str, Any] = {"expected": row.pop("answer")}
    weights: list[tuple[str, float, dict[str, Any]]] = [
        ("answer", accuracy, expected),
        ("icrl-format", format, {"penalties": penalties} if penalties else {}),
    ]
    return Task(
        id=row.pop("id"),
        instruction=row.pop("question"),
        artifacts=(RESPONSE,),
        rewards=tuple(
            RewardSpec(name=name, weight=weight, parameters=dict(own))
            for name, weight, own in weights
            if weight
        ),
        limits=LIMITS,
        metadata=row,
    )


def _reasoning_gym(
    *,
    families: Sequence[str] | Mapping[str, Mapping[str, Any]] = FAMILIES,
    size: int = 200,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """``size`` questions a family and split; none of the test questions is a training one.

    A mapping of families gives each its own settings, such as ``{"products": {"max_digits": 3}}``.
    """
    try:
        package: Any = importlib.import_module("reasoning_gym")
        known = importlib.import_module("reasoning_gym.factory").DATASETS
        plain = importlib.import_module("reasoning_gym.dataset").ProceduralDataset.score_answer
    except ModuleNotFoundError as error:
        raise InputError("these tasks need reasoning-gym: pip install 'm2gym[tasks]'") from error
    for family in families:
        if family not in known:
            raise UnknownIdError("family of reasoning-gym", family, known)
        if family not in ONE_NUMBER and known[family][0].score_answer is not plain:
            raise InputError(
                f"{family!r} has many right answers or partial credit, which reward 'answer' "
                f"cannot judge; families it can: {', '.join(FAMILIES)}"
            )
        own = families[family] if isinstance(families, Mapping) else {}
        made = _made(package, family, {**(own or {}), "size": 2 * size, "seed": seed})
        seen = {made[n]["question"] for n in range(size)}
        for n in range(2 * size):
            row = made[n]
            if n >= size and row["question"] in seen:
                continue
            yield {
                "id": f"{family}/{n}",
                "question": row["question"],
                "answer": str(row["answer"]),
                "split": "train" if n < size else "test",
            }


def _made(package: Any, family: str, settings: dict[str, Any]) -> Any:
    try:
        return package.create_dataset(family, **settings)
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(f"family {family!r} cannot be made with {settings}: {error}") from error


def _gsm8k(*, train: str | None = None, test: str | None = None) -> Iterator[dict[str, Any]]:
    for split, path in _given(train=train, test=test):
        for n, line in enumerate(_text(path).splitlines()):
            row = _parsed(path, line)
            _, found, answer = _field(path, row, "answer").rpartition("####")
            if not found:
                raise InputError(f"{path}: row {n} has no '#### N' at the end of its answer")
            yield {
                "id": f"gsm8k-{split}/{n}",
                "question": _field(path, row, "question"),
                "answer": answer.strip().replace(",", ""),
                "split": split,
            }


def _hotpotqa(
    *,
    corpus: str,
    train: str | None = None,
    test: str | None = None,
    passages: int = PASSAGES,
    words: int = WORDS,
) -> Iterator[dict[str, Any]]:
    if passages < 1 or words < 1:
        raise InputError(f"a search shows at least 1 passage and word, got {passages} and {words}")
    if not Path(corpus).is_file():
        raise InputError(f"corpus={corpus!r} is no file of passages")
    for split, path in _given(train=train, test=test):
        rows = _parsed(path, _text(path))
        for row in rows:
            yield {
                "id": f"hotpotqa/{_field(path, row, '_id')}",
                "question": _field(path, row, "question"),
                "answer": _field(path, row, "answer"),
                "split": split,
                "corpus": str(Path(corpus).resolve()),
                "passages": passages,
                "words": words,
            }


def _given(**paths: str | None) -> list[tuple[str, str]]:
    given = [(split, path) for split, path in paths.items() if path is not None]
    if not given:
        raise InputError("this taskset needs a file of rows: train=… or test=…")
    return given


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path!r}: {error.strerror}") from error


def _parsed(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def _field(path: str, row: Any, name: str) -> str:
    if not isinstance(row, dict) or name not in row:
        raise InputError(f"{path}: a row has no {name!r}: {str(row)[:80]}")
    return str(row[name])
