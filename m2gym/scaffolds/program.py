"""White-box scaffolds: a folder of files with a content hash, run in a box of its own.

```
m2gym ── the episode, one JSON line a call ──► main.py (+ m2gym_agent.py), in its own box
  │ session: the model's calls, recorded            no network, none of the task's files
  └ act: the task's box
```

The program has nothing but its pipe: it reaches the model through the session and the task through
`act`. So its files may be anybody's, also its own next version.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from m2gym.core.errors import (
    EpisodeOverError,
    InputError,
    M2GymError,
    SessionEndedError,
)
from m2gym.core.protocols import Episode, ModelRequest, Sampling
from m2gym.core.task import WorkspaceSpec
from m2gym.core.tools import ToolSchema
from m2gym.core.workspace import Process
from m2gym.scaffolds.blackbox.install import agent_cache
from m2gym.tasksets.registry.cache import key_of
from m2gym.tasksets.registry.site import box_environment, boxed, interpreter, interpreter_mounts
from m2gym.workspaces import make_workspace

PROGRAMS = Path(__file__).with_name("programs")
SDK = "m2gym_agent.py"
MAIN = "main.py"
LINE = 64 * 2**20
"""Bytes a program's line may have; the project's choice."""

_NOT_CODE = {"__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


class ScaffoldError(M2GymError):
    """A scaffold's program failed: its own doing, so the episode is graded for what it left."""


def read_files(folder: Path) -> dict[str, bytes]:
    """Relative path → bytes of a scaffold's files.

    Raises:
        InputError: there is no such folder, or no ``main.py`` in it.
    """
    files = {}
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder)
            if path.is_file() and not _NOT_CODE & set(place.parts):
                files[place.as_posix()] = path.read_bytes()
    if MAIN not in files:
        raise InputError(f"a scaffold is a folder with {MAIN}; {str(folder)!r} has none")
    return files


@dataclass
class Program:
    """A scaffold of files.

    Args:
        folder: where they lie, ``main.py`` among them.
        settings: what the program reads as ``episode.settings``.
        kind: the workspace it runs in; empty: a sandbox, unless the episode has none.
    """

    folder: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    name: str = field(default="program", init=False)
    uses_model: ClassVar[bool | None] = None
    shipped: ClassVar[str] = ""

    def __post_init__(self) -> None:
        place = PROGRAMS / self.shipped if self.shipped else Path(self.folder)
        if not self.shipped:
            if not self.folder:
                raise InputError("program: expected the scaffold's folder, --agent program:FOLDER")
            self.name = place.resolve().name
        self._files = {SDK: (PROGRAMS / SDK).read_bytes(), **read_files(place)}

    @classmethod
    def from_argument(cls, argument: str) -> Program:
        """From a folder; with settings in a YAML or JSON file: ``FOLDER,FILE``."""
        folder, _, file = argument.partition(",")
        return cls(folder, settings=settings_from(file) if file else {})

    def content_hash(self) -> str:
        """SHA-256 over its files' paths and bytes, what it has of m2gym included."""
        return key_of({path: data.hex() for path, data in self._files.items()})

    async def run(self, episode: Episode) -> None:
        """Start it and answer what it asks, until it ends.

        Raises:
            ScaffoldError: it crashed, or said what cannot be understood.
            InfraError: a box or the model failed.
        """
        folder = await asyncio.to_thread(self._laid)
        plain = episode.workspace.kind == "process"
        kind = self.kind or ("process" if plain else "auto")
        sandboxed = kind != "process"
        spec = WorkspaceSpec(
            root=folder,
            workdir="/scaffold",
            mounts=interpreter_mounts() if sandboxed else (),
            env={k: v for k, v in box_environment([]).items() if k == "LD_LIBRARY_PATH"},
        )
        python = boxed(interpreter()) if sandboxed else str(interpreter())
        box = make_workspace(spec, kind)
        try:
            await box.start()
            process = await box.spawn([python, "-E", "-s", "-B", MAIN])
            await _Talk(episode, self.settings, process).hold()
        finally:
            await box.stop()

    def _laid(self) -> Path:
        def build(folder: Path) -> None:
            for path, data in self._files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)

        return agent_cache().folder("scaffolds", self.content_hash(), build)


def settings_from(file: str) -> dict[str, Any]:
    """Settings from a YAML or JSON file."""
    try:
        data: Any = yaml.safe_load(Path(file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the settings {file!r}: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file!r}: settings are a mapping, got {type(data).__name__}")
    return data


class _Talk:
    """What goes between a program and its episode."""

    def __init__(self, episode: Episode, settings: Mapping[str, Any], process: Process) -> None:
        self._episode, self._settings, self._process = episode, settings, process
        self._messages: list[dict[str, Any]] = []
        self._tools: tuple[list[Any], tuple[ToolSchema, ...]] = ([], ())
        self._said = bytearray()

    async def hold(self) -> None:
        """Answer every line until the program ends."""
        complaints = asyncio.create_task(self._complaints())
        episode = self._episode
        try:
            await self._send(
                {
                    "id": episode.id,
                    "instruction": episode.task.instruction,
                    "first_observation": episode.first_observation,
                    "workdir": episode.prepared.workspace.workdir,
                    "deadline": episode.deadline,
                    "tools": [tool.openai() for tool in episode.tools],
                    "settings": self._settings,
                }
            )
            async for line in _lines(self._process.stdout()):
                await self._send(await self._answer(line))
            code = await self._process.wait()
            await asyncio.wait({complaints}, timeout=1.0)
        finally:
            complaints.cancel()
            await asyncio.gather(complaints, return_exceptions=True)
        if code != 0:
            said = self._said.decode("utf-8", "replace").strip()
            raise ScaffoldError(f"the scaffold's program ended with exit code {code}: {said}")

    async def _complaints(self) -> None:
        async for chunk in self._process.stderr():
            self._said += chunk
            del self._said[:-4000]

    async def _send(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            await self._process.write(line + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended; its exit code says how

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            do = asked["do"]
            answer = {
                "complete": self._complete,
                "act": self._act,
                "submit": self._submit,
                "note": self._note,
            }[do]
        except (ValueError, KeyError, TypeError) as error:
            raise ScaffoldError(
                f'expected a line {{"do": "complete" …}}, got {line[:200]!r}'
            ) from error
        try:
            return await answer(asked)
        except (EpisodeOverError, SessionEndedError) as error:
            return {"ended": str(error)}
        except InputError as error:
            return {"refused": str(error)}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return {"refused": f"{do}: {type(error).__name__}: {error}"}

    async def _complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        session = self._episode.session
        if session is None:
            raise InputError("this episode has no model: name one with --model (model=…)")
        self._messages = [*self._messages[: asked["keep"]], *asked["messages"]]
        if asked["tools"] != self._tools[0]:
            schemas = tuple(ToolSchema(**tool["function"]) for tool in asked["tools"])
            self._tools = asked["tools"], schemas
        request = ModelRequest(
            messages=self._messages,
            tools=self._tools[1],
            tool_choice=asked["tool_choice"],
            sampling=Sampling(**asked["sampling"]),
            constant=True,
        )
        said = await session.complete(request)
        return {
            "message": said.message,
            "finish_reason": said.finish_reason,
            "prompt_tokens": said.usage.prompt_tokens,
            "completion_tokens": said.usage.completion_tokens,
        }

    async def _act(self, asked: dict[str, Any]) -> dict[str, Any]:
        seen = await self._episode.act(asked["action"])
        return {"text": seen.text, "done": seen.done}

    async def _submit(self, asked: dict[str, Any]) -> dict[str, Any]:
        await self._episode.submit()
        return {}

    async def _note(self, asked: dict[str, Any]) -> dict[str, Any]:
        note = getattr(self._episode, "note", None)
        if note is not None:
            note(asked["action"], str(asked["text"]), {})
        return {}


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in whole:
                yield line
        if len(rest) > LINE:
            raise ScaffoldError(f"a line of the scaffold's program is longer than {LINE} bytes")
