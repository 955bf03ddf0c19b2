"""Our workspaces as sandboxes of Inspect (``inspect_ai``, which must be installed).

```python
Task(..., sandbox="m2gym")                                # local where bubblewrap works
Task(..., sandbox=("m2gym", "docker"))
Task(..., sandbox=SandboxEnvironmentSpec("m2gym", M2GymSandbox(kind="docker", image="m2gym-base")))
```

Inspect finds it by the package's entry point. A box's users are fixed (agent, grader, root): a user
that a task adds is refused by `SandboxUserUnsupportedError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from inspect_ai.util._sandbox.environment import SandboxUnavailableError
from pydantic import BaseModel, ConfigDict, Field

from m2gym.core.errors import CapabilityError, InfraError
from m2gym.core.task import Limits, WorkspaceSpec
from m2gym.core.workspace import ExecResult as Result
from m2gym.core.workspace import User, Workspace
from m2gym.workspaces import make_workspace
from m2gym.workspaces.channel import MAX_ARGUMENTS

USERS: dict[str, User] = {"agent": "agent", "grader": "grader", "root": "root"}
_MANY = 'mapfile -d "" -t words <"$0"; rm -f -- "$0"; exec "${words[@]}"'


class M2GymSandbox(BaseModel):
    """What boxes of a task are made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field("auto", description="a registered workspace")
    image: str | None = None
    build: Path | None = None
    workdir: str = "/workspace"
    network: Literal["none", "public"] = "none"
    memory_mb: int | None = 2048
    disk_mb: int | None = 2048


@sandboxenv(name="m2gym")
class M2GymSandboxEnvironment(SandboxEnvironment):
    """One box of ours for one sample."""

    def __init__(self, box: Workspace) -> None:
        super().__init__()
        self.box = box

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Start a box. ``config`` is a `M2GymSandbox`, or the kind alone."""
        plain = M2GymSandbox(kind=str(config or "auto"))
        given = config if isinstance(config, M2GymSandbox) else plain
        limits = Limits(memory_mb=given.memory_mb, disk_mb=given.disk_mb)
        spec = WorkspaceSpec(
            image=given.image, build=given.build, workdir=given.workdir,
            network=given.network, limits=limits,
        )  # fmt: skip
        box = make_workspace(spec, given.kind)
        await box.start()
        return {"default": cls(box)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Stop the boxes."""
        for environment in environments.values():
            await environment.as_type(cls).box.stop()

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """A configuration from a log."""
        return M2GymSandbox(**config)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command; see Inspect's own class. A time-out is not tried again: it killed all."""
        result = await self._run(cmd, input, cwd, env, user, timeout)
        if result.timed_out:
            raise TimeoutError(f"{cmd[0]} took longer than {timeout} s")
        out, err = (part.decode("utf-8", "replace") for part in (result.stdout, result.stderr))
        if result.truncated:
            limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
            raise OutputLimitExceededError(limit, out)
        if result.exit_code == 126 and "Permission denied" in err:
            raise PermissionError(err.strip())
        return ExecResult(result.ok, result.exit_code, out, err)

    async def _run(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
    ) -> Result:
        if user is not None and user not in USERS:
            raise SandboxUserUnsupportedError(f"expected one of {', '.join(USERS)}, got {user!r}")
        data = input.encode() if isinstance(input, str) else input
        try:
            return await self.box.exec(
                await self._short(cmd),
                stdin=data,
                cwd=cwd,
                env=env,
                user=USERS[user] if user is not None else None,
                timeout=float(timeout) if timeout is not None else 365 * 86400.0,
            )
        except InfraError as error:
            raise SandboxUnavailableError(str(error)) from error
        except CapabilityError as error:
            raise SandboxUserUnsupportedError(str(error)) from error

    async def _short(self, cmd: list[str]) -> list[str]:
        """A command of any length: what does not fit into a packet goes by way of a file."""
        words = [word.encode("utf-8", "surrogateescape") for word in cmd]
        if sum(len(word) + 1 for word in words) < MAX_ARGUMENTS // 2:
            return cmd
        path = f"/tmp/.m2gym-words-{id(words):x}"
        await self.box.write(path, b"".join(word + b"\0" for word in words))
        return ["bash", "-c", _MANY, path]

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file as the box's agent may; folders are made."""
        await self._may("-w", file)
        data = contents.encode() if isinstance(contents, str) else contents
        try:
            await self.box.write(file, data)
        except InfraError as error:
            raise SandboxUnavailableError(str(error)) from error

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Read a file as the box's agent may."""
        await self._may("-r", file)
        try:
            data = await self.box.read(file)
        except InfraError as error:
            raise SandboxUnavailableError(str(error)) from error
        if len(data) > SandboxEnvironmentLimits.MAX_READ_FILE_SIZE:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return data.decode() if text else data

    async def _may(self, how: str, file: str) -> None:
        """`PermissionError` where the agent may not; our own access asks nobody."""
        script = f'test ! -e "$0" || test {how} "$0"'
        if not (await self._run(["bash", "-c", script, file])).ok:
            raise PermissionError(13, "the box's agent may not", file)
