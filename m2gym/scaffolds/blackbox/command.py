"""Any program as an agent: a command line, and files to write before it starts.

As ``--agent-cmd 'prog --url {base_url}/v1 {instruction_file}'``, as a YAML file
(``--agent command:FILE``), or in Python:

```python
m2gym.CommandAgent("prog --url {base_url}/v1 --key {key} {instruction_file}")
```

| in the command, `env` and `files` | becomes |
|---|---|
| ``{base_url}`` | the gateway, without a version: OpenAI's clients want ``{base_url}/v1`` |
| ``{key}`` | what to give as the API key |
| ``{model}`` | the model's name |
| ``{instruction}`` | the task's text; in the command quoted for the shell, as all of these |
| ``{instruction_file}`` | a file with the task's text |
| ``{workdir}`` | where the task's files are, which is also where the program starts |
| ``{home}`` | its fresh home folder |
| ``{bin}`` | where the programs of ``install`` are; they are on the PATH too |

Other braces stay as they are; a word in them that is nearly one of these is refused.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from m2gym.core.errors import InputError
from m2gym.core.task import Mount
from m2gym.scaffolds.blackbox.contract import BlackBox, Endpoint, Job, Launch
from m2gym.scaffolds.blackbox.install import AGENT, NODE, NPM_BIN, npm_agent, pip_agent
from m2gym.tasksets.registry.cache import Cache, Progress, silent

_NAMES = "base_url|key|model|instruction|instruction_file|workdir|home|bin"
_HOLE = re.compile(r"\{(" + _NAMES + r")\}")
_WORD = re.compile(r"(?<!\$)\{([A-Za-z_]+)\}")
_INSTRUCTION = ".m2gym-instruction.md"
"""A file in the agent's home."""


@dataclass(init=False)
class CommandAgent(BlackBox):
    """A program that is started by a shell command in the task's folder.

    Args:
        command: a line of bash; see the module for what is filled in.
        install: what it needs, all ``pip:NAME==VERSION`` or all ``npm:NAME@VERSION``.
        python: for pip: the Python version it needs, if not the one that runs m2gym.
        mounts: folders or files of this machine, and where the box shows them, read-only.
        env: variables beside the box's own.
        files: path (``~/…`` is its home) → text, written before it starts.
        label: names it in tables.
    """

    command: str = ""
    install_from: tuple[str, ...] = ()
    python: str = ""
    mounts: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    label: str = ""

    def __init__(
        self,
        command: str,
        *,
        install: Sequence[str] = (),
        python: str = "",
        mounts: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        model_name: str = "",
        name: str = "",
    ) -> None:
        super().__init__(model_name=model_name)
        if not isinstance(command, str) or not command.strip():
            raise InputError(f"a command agent needs a command line, got {command!r}")
        self.command, self.python = command, str(python)
        self.install_from = tuple(install)
        self.mounts, self.env, self.files = dict(mounts or {}), dict(env or {}), dict(files or {})
        for text in (command, *self.env.values(), *self.files.values()):
            _check_holes(text)
        self.label = self.name = name or _word(command)
        kinds = {kind for kind, _ in map(_split, self.install_from)}
        if len(kinds) > 1:
            raise InputError(f"install: all of pip or all of npm, got {', '.join(sorted(kinds))}")
        self._kind = kinds.pop() if kinds else ""

    @classmethod
    def from_argument(cls, argument: str) -> CommandAgent:
        """From a YAML or JSON file with the arguments of the class."""
        try:
            data: Any = yaml.safe_load(Path(argument).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"command: cannot read {argument!r}: {error}") from error
        return cls.from_settings(data, argument)

    @classmethod
    def from_settings(cls, data: Any, where: str = "command") -> CommandAgent:
        """From a mapping of the arguments; `InputError` names a wrong one."""
        known = {"command", "install", "python", "mounts", "env", "files", "model_name", "name"}
        if not isinstance(data, dict) or "command" not in data:
            raise InputError(f"{where}: expected `command:` and, as needed, {sorted(known)}")
        if unknown := set(data) - known:
            raise InputError(f"{where}: unknown {sorted(unknown)}; known: {sorted(known)}")
        for key in ("mounts", "env", "files"):
            if not isinstance(data.get(key, {}), dict):
                raise InputError(f"{where}: {key} is a mapping, got {data[key]!r}")
        install = data.get("install", ())
        if isinstance(install, str):
            install = (install,)
        text: dict[str, Any] = {
            key: str(data[key]) for key in ("python", "model_name", "name") if key in data
        }
        for key in ("mounts", "env", "files"):
            text[key] = {str(name): str(value) for name, value in data.get(key, {}).items()}
        return cls(data["command"], install=install, **text)

    def settings(self) -> dict[str, Any]:
        """What `from_settings` takes."""
        renamed = {"install_from": "install", "label": "name"}
        kept = (
            "command",
            "install_from",
            "python",
            "mounts",
            "env",
            "files",
            "model_name",
            "label",
        )
        found = {renamed.get(k, k): getattr(self, k) for k in kept}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items() if v}

    @property
    def uses_model(self) -> bool:
        """Whether it is told where a model is."""
        texts = [self.command, *self.env.values(), *self.files.values()]
        return any("{base_url}" in text for text in texts)

    @property
    def asks_model(self) -> bool:
        """A program that is told of a model is taken to need it."""
        return self.uses_model

    def install(self, cache: Cache | None = None, progress: Progress = silent) -> tuple[Mount, ...]:
        """What it needs of pip or npm, and its own mounts."""
        own = tuple(
            Mount(source=Path(host).absolute(), target=at) for host, at in self.mounts.items()
        )
        wanted = [what for _, what in map(_split, self.install_from)]
        if self._kind == "npm":
            return (*npm_agent(wanted, cache=cache, progress=progress), *own)
        if self._kind == "pip":
            return (*pip_agent(wanted, python=self.python, cache=cache, progress=progress), *own)
        return own

    def launch(self, endpoint: Endpoint, job: Job) -> Launch:
        """The command line, filled in."""
        instruction = f"{job.home}/{_INSTRUCTION}"
        programs = NPM_BIN if self._kind == "npm" else f"{AGENT}/bin"
        values = {
            "base_url": endpoint.base_url,
            "key": endpoint.key,
            "model": endpoint.model,
            "instruction": job.instruction,
            "instruction_file": instruction,
            "workdir": job.workdir,
            "home": job.home,
            "bin": programs,
        }

        def fill(text: str) -> str:
            return _HOLE.sub(lambda hole: values[hole[1]], text)

        line = _HOLE.sub(lambda hole: shlex.quote(values[hole[1]]), self.command)
        path = f'export PATH="$PATH:{programs}:{NODE}/bin"\n' if self._kind else ""
        return Launch(
            ("bash", "-c", path + line),
            {key: fill(value) for key, value in self.env.items()},
            {
                instruction: job.instruction + "\n",
                **{fill(place): fill(text) for place, text in self.files.items()},
            },
        )


def _check_holes(text: str) -> None:
    """`InputError` where a word in braces is nearly the name of what is filled in."""
    names = _NAMES.split("|")
    for word in _WORD.findall(text):
        near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.75)
        if word not in names and near:
            known = ", ".join(f"{{{name}}}" for name in names)
            raise InputError(
                f"{{{word}}} is not filled in: did you mean {{{near[0]}}}? Known: {known}"
            )


def _split(entry: str) -> tuple[str, str]:
    kind, colon, what = str(entry).partition(":")
    if kind not in ("pip", "npm") or not colon or not what:
        raise InputError(f"install: pip:NAME==VERSION or npm:NAME@VERSION, got {entry!r}")
    return kind, what


def _word(command: str) -> str:
    """The program's name: the first word that is not a variable's assignment."""
    for word in command.split():
        name = word.rpartition("/")[2]
        if "=" not in word and re.fullmatch(r"[\w.+-]+", name):
            return name
    return "command"
