"""A stand-in of the E2B service: its HTTP routes on this machine, over local boxes.

The process routes are the SDK's own generated server application, the answers its own models. Only
what the workspace uses is here: making, keeping and ending sandboxes, processes, files. A sandbox
ends when its time is up, keys and tokens are asked for, and templates and sandboxes are counted.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from e2b.api.client.models import Error, NewSandboxV2, Sandbox, SandboxTimeoutRequest
from e2b.envd.client_shared import ENVD_JSON_CODEC
from e2b.envd.process import process_pb as pb
from e2b.envd.process.process_connect import Process as ProcessRoutes
from e2b.envd.process.process_connect import ProcessASGIApplication
from protobuf import Oneof
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from m2gym.core.errors import InfraError
from m2gym.core.task import Limits, WorkspaceSpec
from m2gym.core.workspace import Process
from m2gym.workspaces import make_workspace
from m2gym.workspaces.supervised import SupervisedWorkspace

KEY = "e2b_0123456789abcdef"
ENVD = "0.6.4"


class Machine:
    """A sandbox: a local box, and when it ends."""

    def __init__(self, spec: WorkspaceSpec, seconds: float) -> None:
        box = make_workspace(spec, "local")
        assert isinstance(box, SupervisedWorkspace)
        self.box = box
        self.token = secrets.token_hex(8)
        self.end = time.monotonic() + seconds
        self.processes: dict[int, Process] = {}

    @classmethod
    async def make(cls, asked: NewSandboxV2) -> Machine:
        limits = Limits(exec_seconds=600, processes=1000, memory_mb=4096, disk_mb=None)
        online = asked.allow_internet_access is not False
        spec = WorkspaceSpec(
            limits=limits, network="public" if online else "none", links={"/opt": "/tmp/opt"}
        )
        machine = cls(spec, float(asked.timeout))
        await machine.box.start()
        await machine.box.exec("mkdir -m 755 /tmp/opt", user="root")
        return machine


class Service:
    """The service: `url` serves both the API and the sandboxes."""

    def __init__(self, templates: frozenset[str] = frozenset({"base"}), most: int = 20) -> None:
        self.templates, self.most = templates, most
        self.machines: dict[str, Machine] = {}
        self._numbers = itertools.count(100)
        routes = [
            Route("/v2/sandboxes", self.create, methods=["POST"]),
            Route("/sandboxes/{id}", self.remove, methods=["DELETE"]),
            Route("/sandboxes/{id}/timeout", self.prolong, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/files", self.read, methods=["GET"]),
            Route("/files", self.write, methods=["POST"]),
            Mount("/", ProcessASGIApplication(Processes(self), codecs=[ENVD_JSON_CODEC])),
        ]
        # The protocol is named because asyncio turns Nagle's delay off only then.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(listener,), daemon=True)
        self._thread.start()

    def _run(self, listener: socket.socket) -> None:
        asyncio.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        clock = asyncio.create_task(self._expire())
        try:
            await self._server.serve([listener])
        finally:
            clock.cancel()
            for machine in self.machines.values():
                await machine.box.stop()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            for name, machine in list(self.machines.items()):
                if time.monotonic() > machine.end:
                    del self.machines[name]
                    await machine.box.stop()

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    async def create(self, request: Request) -> Response:
        if request.headers.get("x-api-key") != KEY:
            return _error(401, "invalid API key")
        asked = NewSandboxV2.from_dict(await request.json())
        if asked.template_id not in self.templates:
            return _error(404, f"template '{asked.template_id}' not found")
        if len(self.machines) >= self.most:
            return _error(429, f"you have reached the maximum number ({self.most}) of sandboxes")
        name = f"i{secrets.token_hex(9)}"
        machine = self.machines[name] = await Machine.make(asked)
        made = Sandbox(asked.template_id, name, "client", ENVD, envd_access_token=machine.token)
        return JSONResponse(made.to_dict(), status_code=201)

    async def remove(self, request: Request) -> Response:
        machine = self.machines.pop(request.path_params["id"], None)
        if machine is None:
            return _error(404, "sandbox not found")
        await machine.box.stop()
        return Response(status_code=204)

    async def prolong(self, request: Request) -> Response:
        machine = self.machines.get(request.path_params["id"])
        if machine is None:
            return _error(404, "sandbox not found")
        asked = SandboxTimeoutRequest.from_dict(await request.json())
        machine.end = time.monotonic() + asked.timeout
        return Response(status_code=204)

    def machine(self, headers: Any) -> Machine:
        """The sandbox that a request to one is for."""
        machine = self.machines.get(headers.get("e2b-sandbox-id", ""))
        if machine is None:
            raise LookupError("The sandbox was not found")
        if headers.get("x-access-token") != machine.token:
            raise PermissionError("invalid access token")
        return machine

    async def health(self, request: Request) -> Response:
        try:
            self.machine(request.headers)
        except LookupError as error:
            return _error(502, str(error))
        return Response(status_code=204)

    async def read(self, request: Request) -> Response:
        try:
            box = self.machine(request.headers).box
            return Response(await box.read(request.query_params["path"]))
        except FileNotFoundError as error:
            return _error(404, str(error))
        except (LookupError, InfraError) as error:
            return _error(502, f"The sandbox was not found: {error}")

    async def write(self, request: Request) -> Response:
        path = request.query_params["path"]
        try:
            box = self.machine(request.headers).box
            await box.write(path, await request.body(), user="root")
        except (LookupError, InfraError) as error:
            return _error(502, f"The sandbox was not found: {error}")
        return JSONResponse([{"name": path.rpartition("/")[2], "type": "file", "path": path}])


def _error(status: int, message: str) -> Response:
    return JSONResponse(Error(status, message).to_dict(), status_code=status)


class Processes(ProcessRoutes):
    """The SDK's ``Process`` service over `Service`'s boxes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._numbers = itertools.count(100)

    def _machine(self, ctx: Any) -> Machine:
        try:
            return self._service.machine(ctx.request_headers)
        except LookupError as error:
            raise ConnectError(Code.UNAVAILABLE, str(error)) from None
        except PermissionError as error:
            raise ConnectError(Code.UNAUTHENTICATED, str(error)) from None

    def _process(self, ctx: Any, selector: pb.ProcessSelector | None) -> Process:
        pid = selector.selector.value if selector is not None and selector.selector else -1
        process = self._machine(ctx).processes.get(pid)
        if process is None:
            raise ConnectError(Code.NOT_FOUND, f"process with pid {pid} not found")
        return process

    async def start(self, request: pb.StartRequest, ctx: Any) -> AsyncIterator[pb.StartResponse]:
        machine, config = self._machine(ctx), request.process
        assert config is not None
        basic = ctx.request_headers.get("authorization", "").removeprefix("Basic ")
        root = base64.b64decode(basic) == b"root:"
        process = await machine.box.spawn(
            [config.cmd, *config.args],
            user="root" if root else "agent",
            cwd=config.cwd or None,
            env=dict(config.envs),
        )
        number = next(self._numbers)
        machine.processes[number] = process
        if not request.stdin:
            await process.close_stdin()
        yield _event("start", pb.ProcessEvent.StartEvent(pid=number))
        told: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()

        async def pump(name: str, stream: AsyncIterator[bytes]) -> None:
            async for data in stream:
                await told.put((name, data))
            await told.put(None)

        pumps = [
            asyncio.create_task(pump("stdout", process.stdout())),
            asyncio.create_task(pump("stderr", process.stderr())),
        ]
        try:
            left = len(pumps)
            while left:
                part = await told.get()
                if part is None:
                    left -= 1
                    continue
                yield _event("data", pb.ProcessEvent.DataEvent(output=Oneof(*part)))
            code = await process.wait()
        except InfraError as error:
            message = "the connection to the sandbox ended before the stream completed"
            raise ConnectError(Code.UNAVAILABLE, message) from error
        finally:
            machine.processes.pop(number, None)
            for task in pumps:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        yield _event(
            "end",
            pb.ProcessEvent.EndEvent(exit_code=code, exited=True, status=f"exit status {code}"),
        )

    async def send_input(self, request: pb.SendInputRequest, ctx: Any) -> pb.SendInputResponse:
        assert request.input is not None
        assert request.input.input is not None
        await self._process(ctx, request.process).write(request.input.input.value)
        return pb.SendInputResponse()

    async def close_stdin(self, request: pb.CloseStdinRequest, ctx: Any) -> pb.CloseStdinResponse:
        await self._process(ctx, request.process).close_stdin()
        return pb.CloseStdinResponse()

    async def send_signal(self, request: pb.SendSignalRequest, ctx: Any) -> pb.SendSignalResponse:
        await self._process(ctx, request.process).signal(int(request.signal))
        return pb.SendSignalResponse()


def _event(kind: Any, value: Any) -> pb.StartResponse:
    return pb.StartResponse(event=pb.ProcessEvent(event=Oneof(kind, value)))
