"""Network ``allowlist``: named hosts pass, everything else is refused and told."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from m2gym.core.errors import CapabilityError, InputError
from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from m2gym.workspaces import make_workspace
from m2gym.workspaces.allowlist import Allowlist, ForwardProxy
from tests.workspaces.engine import able

NAMED, OTHER = "127.0.0.2", "127.0.0.3"
"""Addresses of this machine that no list of proxy exceptions has."""


class Site(BaseHTTPRequestHandler):
    """Tells what it was asked, and takes what is posted."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        host, data = self.headers["Host"], self.rfile.read(size)
        body = f"{self.command} {self.path} {host} {data.decode()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server on every loopback address."""
    with ThreadingHTTPServer(("0.0.0.0", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(params=["local", "docker"])
def either(request: pytest.FixtureRequest) -> str:
    return able(request.param)


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.heavy)])
def kind(request: pytest.FixtureRequest) -> str:
    return able(request.param)


@asynccontextmanager
async def boxed(kind: str, *hosts: str) -> AsyncIterator[Workspace]:
    box = make_workspace(WorkspaceSpec(network="allowlist", allowed_hosts=hosts), kind)
    try:
        await box.start()
        yield box
    finally:
        await box.stop()


FETCH = """
import sys, urllib.error, urllib.request
data = sys.argv[2].encode() if len(sys.argv) > 2 else None
try:
    print(urllib.request.urlopen(sys.argv[1], data, timeout=20).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print("failed", error)
"""


async def fetched(box: Workspace, url: str, *data: str) -> str:
    return (await box.exec(["python3", "-c", FETCH, url, *data])).output.strip()


async def test_only_named_hosts_pass_and_the_rest_is_told(either: str, port: int) -> None:
    async with boxed(either, NAMED) as box:
        assert await fetched(box, f"http://{NAMED}:{port}/a?b=1") == f"GET /a?b=1 {NAMED}:{port}"
        told = await fetched(box, f"http://{NAMED}:{port}/p", "hello")
        assert told == f"POST /p {NAMED}:{port} hello"
        refused = await fetched(box, f"http://{OTHER}:{port}/a")
        assert refused == f"403 m2gym: {OTHER} is not among the allowed hosts ({NAMED})"
        assert box.gate.proxy.record() == {  # type: ignore[attr-defined]
            "passed": {f"{NAMED}:{port}": 2},
            "refused": {f"{OTHER}:{port}": 1},
        }


TUNNEL = """
import os, socket, sys
host, port = os.environ["HTTPS_PROXY"].removeprefix("http://").split(":")
with socket.create_connection((host, int(port))) as s:
    s.sendall(f"CONNECT {sys.argv[1]} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
    answer = s.recv(1000)
    if b" 200 " in answer:
        s.sendall(b"GET /through HTTP/1.0\\r\\nHost: inner\\r\\n\\r\\n")
        while data := s.recv(1000):
            answer += data
print(answer.decode())
"""


async def test_a_tunnel_leads_to_named_hosts_only(kind: str, port: int) -> None:
    async with boxed(kind, NAMED) as box:
        through = await box.exec(["python3", "-c", TUNNEL, f"{NAMED}:{port}"])
        assert through.output.strip().endswith("GET /through inner")
        assert "403" in (await box.exec(["python3", "-c", TUNNEL, f"{OTHER}:{port}"])).output


DIRECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
    print("reached")
except OSError:
    print("nothing there")
"""


async def test_past_the_proxy_there_is_no_network(kind: str, port: int) -> None:
    async with boxed(kind, NAMED) as box:
        for host in (NAMED, socket.gethostbyname(socket.gethostname()), "1.1.1.1"):
            seen = await box.exec(["python3", "-c", DIRECT, host, str(port)])
            assert seen.output.strip() == "nothing there"
        names = await box.exec(["cat", "/proc/net/dev"])
        assert [line.split(":")[0].strip() for line in names.output.splitlines()[2:]] == ["lo"]


async def test_a_fork_and_a_restored_box_have_a_way_of_their_own(kind: str, port: int) -> None:
    async with boxed(kind, NAMED) as box:
        snapshot = await box.snapshot()
        (child,) = await box.fork(1)
        try:
            assert (await fetched(child, f"http://{NAMED}:{port}/c")).startswith("GET /c")
        finally:
            await child.stop()
        await box.restore(snapshot)
        assert (await fetched(box, f"http://{NAMED}:{port}/r")).startswith("GET /r")
        await snapshot.discard()


async def ask(proxy: ForwardProxy, request: str) -> str:
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    await proxy.serve(listening)
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request.encode())
        writer.write_eof()
        answer = (await reader.read()).decode()
        writer.close()
        return answer
    finally:
        await proxy.close()


def leads_to(*addresses: str) -> object:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


@pytest.mark.parametrize(
    ("hosts", "request_line", "status"),
    [
        (["a.test"], "GET http://a.test:{port}/x HTTP/1.1", "403"),
        (["a.test", NAMED], "GET http://a.test:{port}/x HTTP/1.1", "200"),
        (["*.test", NAMED], "GET http://b.a.test:{port}/x HTTP/1.1", "200"),
        (["*.test", NAMED], "GET http://test:{port}/x HTTP/1.1", "403"),
        (["*.test", NAMED], "GET http://atest:{port}/x HTTP/1.1", "403"),
        (["A.Test.", "127.0.0.0/30"], "GET http://a.test.:{port}/x HTTP/1.1", "200"),
        ([NAMED], "GET /x HTTP/1.1", "400"),
        ([NAMED], "GET https://127.0.0.2/x HTTP/1.1", "400"),
        ([NAMED], "CONNECT 127.0.0.2 HTTP/1.1", "400"),
        ([NAMED], "\x16\x03\x01 not http", "400"),
        ([NAMED], "CONNECT 127.0.0.2:1 HTTP/1.1", "502"),
    ],
)
async def test_names_addresses_and_nonsense(
    port: int, hosts: list[str], request_line: str, status: str
) -> None:
    proxy = ForwardProxy(Allowlist(hosts), leads_to(NAMED))  # type: ignore[arg-type]
    line = request_line.format(port=port)
    answer = await ask(proxy, f"{line}\r\nHost: elsewhere.test\r\n\r\n")
    assert answer.split(" ")[1] == status, answer


@pytest.mark.parametrize("host", ["http://a.test", "a.test:80", "a.test/x", "*", "a_b.test", ""])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="allowed_hosts holds names"):
        make_workspace(WorkspaceSpec(network="allowlist", allowed_hosts=(host,)), "process")


def test_a_list_and_its_network_belong_together() -> None:
    with pytest.raises(InputError, match="needs allowed_hosts"):
        make_workspace(WorkspaceSpec(network="allowlist"), "process")
    with pytest.raises(InputError, match="goes with network 'allowlist'"):
        make_workspace(WorkspaceSpec(allowed_hosts=("a.test",)), "process")
    with pytest.raises(CapabilityError, match="allowlist"):
        make_workspace(WorkspaceSpec(network="allowlist", allowed_hosts=("a.test",)), "process")
