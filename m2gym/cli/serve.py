"""``m2gym serve``: the gateway alone, for any program that speaks a provider's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json as json_module
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show
from m2gym.core.errors import InputError

if TYPE_CHECKING:
    from m2gym.core.protocols import Session
    from m2gym.envs.async_env import AsyncEnv
    from m2gym.gateway import Access, Gateway
    from m2gym.gateway.exchange import Outcome


GC_THRESHOLDS = (20_000, 20, 100)
"""How rarely the collector of cycles looks; the project's choice: a tenth of a call's time less."""


def serve(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What answers; see `m2gym list backends`.")
    ] = None,
    env: Annotated[
        str | None,
        typer.Option("--env", "-e", help="Also offer an episode's tools as an MCP server."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="The episode's task [default: drawn].")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="0: any free one.")] = 8765,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Generated tokens after which a session ends.")
    ] = None,
    max_usd: Annotated[float | None, typer.Option(help="Cost after which a session ends.")] = None,
    grant: Annotated[
        list[str] | None, typer.Option(help="A provider-hosted tool to pass (repeatable).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for what sessions record.")
    ] = None,
    workspace: options.WorkspaceKind = "auto",
    json: options.Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No live view, and no line a request.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Serve a model to any program, in four dialects, and record every session.

    Give a program the printed URL and key. A key followed by `.NAME` is a session of its own. With
    --env an episode's tools are an MCP server too, and the command ends with the verdict. --json
    prints a line when ready, one a request, and one a session at the end. Ctrl-C stops it.
    """
    if model is None and env is None:
        raise InputError("say what to serve: --model SPEC, --env ENV, or both")
    command = _Serve(model, env, task, host, port, grant or [], out, workspace, json, quiet)
    command.budget(max_tokens, max_usd)
    # records are kept, not thrown away: looking through all of them for cycles finds none
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with _runner(plain=env is not None) as runner:
        runner.run(command.run())


def _runner(*, plain: bool) -> asyncio.Runner:
    """uvloop is faster; boxes are only tried with asyncio's own loop."""
    if not plain:
        with contextlib.suppress(ModuleNotFoundError):
            import uvloop

            return asyncio.Runner(loop_factory=uvloop.new_event_loop)
    return asyncio.Runner()


class _Serve:
    def __init__(
        self,
        model: str | None,
        env: str | None,
        task: str | None,
        host: str,
        port: int,
        granted: list[str],
        out: Path | None,
        workspace: str,
        json: bool,
        quiet: bool,
    ) -> None:
        self.quiet = quiet
        self.env, self.task, self.host, self.port = env, task, host, port
        self.granted, self.out, self.workspace, self.json = granted, out, workspace, json
        self.model: Any = None
        self._budget: Any = None
        if model is not None:
            from m2gym.models import load_model

            self.model = load_model(model)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)

    def budget(self, tokens: int | None, cost_usd: float | None) -> None:
        """What each session may use."""
        from m2gym.models.budget import Budget

        if tokens is not None or cost_usd is not None:
            self._budget = Budget(tokens=tokens, cost_usd=cost_usd)

    async def run(self) -> None:
        """Serve until a signal, or until the episode has ended."""
        from m2gym.gateway import Gateway
        from m2gym.gateway.view import summary, table

        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        gateway = Gateway(watch=self._tell if self.json and not self.quiet else None)
        await gateway.start(self.host, self.port)
        try:
            async with self._episode() as env:
                access = gateway.add(
                    self._session("main") if self.model else None,
                    episode=env.episode if env else None,
                    granted=self.granted,
                    name="main",
                    branch=self._session if self.model else None,
                )
                self._ready(gateway, access, env)
                await self._watch(gateway, ended, env)
                if not self.json:
                    show(table(gateway.entries()))
                else:
                    for entry in gateway.entries():
                        self._line({"event": "session", **summary(entry)})
                if env is not None:
                    self._verdict(env)
        finally:
            await gateway.stop()

    def _session(self, name: str) -> Session:
        from m2gym.models.session import RecordedSession

        record: Callable[[Any], None] | None = None
        if self.out is not None:
            path = self.out / f"{name}.jsonl"

            def record(completion: Any) -> None:
                with path.open("a", encoding="utf-8") as file:
                    file.write(completion.model_dump_json() + "\n")

        return RecordedSession(self.model, id=name, budget=self._budget, record=record)

    @contextlib.asynccontextmanager
    async def _episode(self) -> AsyncIterator[AsyncEnv | None]:
        if self.env is None:
            yield None
            return
        import m2gym

        env = m2gym.make_async(self.env, workspace=self.workspace)
        await env.reset(options={"task": self.task} if self.task else None)
        try:
            yield env
        finally:
            await env.close()

    def _ready(self, gateway: Gateway, access: Access, env: AsyncEnv | None) -> None:
        episode = env.episode if env else None
        if self.json:
            ready = {"base_url": gateway.base_url, "secret": access.secret, "url": access.url}
            if episode is not None:
                ready |= {"mcp": access.mcp, "task": episode.task.id}
            self._line({"event": "ready", **ready})
            return
        note(f"serving on {gateway.base_url}; Ctrl-C stops. Point programs at it by:")
        if self.model is not None:
            for name, path in (("OPENAI", "/v1"), ("ANTHROPIC", ""), ("GOOGLE_GEMINI", "")):
                key = "GEMINI" if name == "GOOGLE_GEMINI" else name
                note(f"  {name}_BASE_URL={gateway.base_url}{path} {key}_API_KEY={access.secret}")
            note("a key with .NAME behind it is a session of its own")
        if episode is not None:
            note(f"  MCP (streamable HTTP): {access.mcp}   task {episode.task.id}")

    async def _watch(self, gateway: Gateway, ended: asyncio.Event, env: AsyncEnv | None) -> None:
        from rich.console import Console
        from rich.live import Live

        from m2gym.gateway.view import table

        console = Console(stderr=True)
        shown = not self.json and not self.quiet and console.is_terminal
        with (
            Live(console=console, auto_refresh=False) if shown else contextlib.nullcontext() as live
        ):
            while not ended.is_set():
                if env is not None and env.episode is not None and env.episode.done:
                    break
                if live is not None:
                    live.update(table(gateway.entries()), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.5)

    def _verdict(self, env: AsyncEnv) -> None:
        verdict = env.episode.verdict if env.episode else None
        if verdict is None:
            note("m2gym: the episode was not submitted; it has no verdict")
        elif self.json:
            self._line({"event": "verdict", **verdict.model_dump(mode="json")})
        else:
            print(f"reward {verdict.reward}  ({verdict.status}, {verdict.stop})")

    def _tell(self, outcome: Outcome) -> None:
        self._line({"event": "request", **asdict(outcome)})

    def _line(self, value: dict[str, Any]) -> None:
        sys.stdout.write(json_module.dumps(value, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()
