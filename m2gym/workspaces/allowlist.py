"""Network ``allowlist``: a box without a network, and a proxy of ours on its own loopback.

```
program in the box ──► 127.0.0.1:PORT, a socket the box handed out ──► ForwardProxy ──► named hosts
     HTTP_PROXY, HTTPS_PROXY                                              │ everything else: 403
```

The box has no interface but its loopback, so what does not ask the proxy reaches nothing: no name
is resolved in the box, no other protocol leaves it. The proxy speaks HTTP and ``CONNECT``, looks
names up itself, and connects only to addresses that it has checked: a listed name that leads to a
private or loopback address is refused unless that address (or ``localhost``) is listed too. What is
inside TLS is not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from m2gym.core.background import background_loop
from m2gym.core.errors import InputError

HEAD_SECONDS = 30.0
"""How long a request's head may take; the project's choice."""

CONNECT_SECONDS = 30.0
"""How long reaching a host may take; the project's choice."""

MOST_HOSTS = 1000
"""Different hosts that are counted by name; the project's choice."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CHUNK = 1 << 16

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Allowlist:
    """Names (``files.example.org``, ``*.example.org``), addresses and address ranges.

    A leading ``*.`` stands for every name below, not for the name itself. Ports are not limited.

    Raises:
        InputError: an entry is a URL, has a port, or is no name or address.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.names: set[str] = set()
        self.suffixes: list[str] = []
        self.ranges: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for host in hosts:
            self._add(host.strip().lower().rstrip("."), host)
        self.hosts = tuple(hosts)

    def _add(self, host: str, given: str) -> None:
        with contextlib.suppress(ValueError):
            self.ranges.append(ipaddress.ip_network(host, strict=True))
            return
        name = host.removeprefix("*.")
        labels = name.split(".")
        if not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
            raise InputError(
                "allowed_hosts holds names such as 'files.example.org' or '*.example.org', "
                f"addresses and address ranges, without scheme, port or path; got {given!r}"
            )
        if name == host:
            self.names.add(name)
        else:
            self.suffixes.append(f".{name}")

    def has_name(self, host: str) -> bool:
        """Whether a host, by name or address, may be asked for."""
        name = host.lower().rstrip(".")
        if name in self.names or any(name.endswith(suffix) for suffix in self.suffixes):
            return True
        return self.has_address(name)

    def has_address(self, address: str) -> bool:
        """Whether an address itself is listed; ``localhost`` lists the loopback's."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if found.is_loopback and "localhost" in self.names:
            return True
        return any(found in network for network in self.ranges)


async def look_up(host: str, port: int) -> Sequence[str]:
    """Addresses of a host by this machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class RefusedError(Exception):
    """A request that the proxy does not pass on: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ForwardProxy:
    """Passes HTTP requests and tunnels to listed hosts; counts what passed and what did not."""

    def __init__(self, allowlist: Allowlist, resolve: Resolve = look_up) -> None:
        self.allowlist, self._resolve = allowlist, resolve
        self.passed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket) -> None:
        """Answer on a listening socket until `close`."""
        listening.setblocking(False)
        self._server = await asyncio.start_server(self._connected, sock=listening)

    async def close(self) -> None:
        """Stop answering and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def record(self) -> dict[str, dict[str, int]]:
        """``passed`` and ``refused``: ``host:port`` → requests."""
        return {"passed": dict(self.passed), "refused": dict(self.refused)}

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass  # the program in the box went away, or said nothing
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await _head(reader)
            host, port, opening = _wanted(head)
            there = await self._reach(host, port)
        except RefusedError as error:
            body = f"m2gym: {error}\n".encode()
            writer.write(
                f"HTTP/1.1 {error.status} Refused\r\nContent-Type: text/plain\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
            return
        out, into = there
        try:
            if opening:
                into.write(opening)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, into), _copy(out, writer))
        finally:
            into.close()

    async def _reach(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self.allowlist.has_name(host):
            self._count(self.refused, host, port)
            listed = ", ".join(self.allowlist.hosts) or "none"
            raise RefusedError(403, f"{host} is not among the allowed hosts ({listed})")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                addresses = await self._resolve(host, port)
                fine = [a for a in addresses if self._may(a)]
                if not fine:
                    self._count(self.refused, host, port)
                    raise RefusedError(
                        403,
                        f"{host} leads to {', '.join(addresses) or 'no address'}: a private "
                        "address must be listed itself",
                    )
                found = await asyncio.open_connection(fine[0], port)
        except OSError as error:  # TimeoutError is one
            raise RefusedError(502, f"{host}:{port} cannot be reached: {error}") from error
        self._count(self.passed, host, port)
        return found

    def _may(self, address: str) -> bool:
        if self.allowlist.has_address(address):
            return True
        return ipaddress.ip_address(address.partition("%")[0]).is_global

    def _count(self, counter: Counter[str], host: str, port: int) -> None:
        name = f"{host[:255]}:{port}"
        counter[name if name in counter or len(counter) < MOST_HOSTS else "others"] += 1


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise RefusedError(431, "the request's head is too long") from None


def _wanted(head: bytes) -> tuple[str, int, bytes]:
    """Host, port, and the head as the host is to get it (empty for a tunnel)."""
    first, *fields = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise RefusedError(400, f"this is a proxy for HTTP, got {first[:80]!r}")
    method, target, version = words
    tunnel = method == "CONNECT"
    try:
        url = urlsplit(f"//{target}" if tunnel else target)
        host, port = url.hostname, url.port
    except ValueError:
        raise RefusedError(400, f"no host and port in {target[:200]!r}") from None
    if not host or (tunnel and port is None) or (not tunnel and url.scheme != "http"):
        raise RefusedError(400, f"expected http://HOST/… or CONNECT HOST:PORT, got {first[:200]!r}")
    if tunnel:
        return host, port or 443, b""
    dropped = ("host:", "connection:", "proxy-connection:", "proxy-authorization:", "keep-alive:")
    kept = [line for line in fields if not line.lower().startswith(dropped)]
    place = url.path or "/"
    if url.query:
        place += f"?{url.query}"
    lines = [f"{method} {place} {version}", f"Host: {url.netloc.rpartition('@')[2]}", *kept]
    return host, port or 80, "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()


class Gate:
    """The proxy of one box, on m2gym's background loop, so that it outlives the caller's."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.proxy = ForwardProxy(Allowlist(hosts))
        self._loop = background_loop()
        self.port = 0

    async def open(self, listening: socket.socket) -> None:
        """Begin to answer on the box's socket."""
        self.port = int(listening.getsockname()[1])
        serving = asyncio.run_coroutine_threadsafe(self.proxy.serve(listening), self._loop)
        await asyncio.wrap_future(serving)

    def close(self) -> None:
        """End it, from any thread."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self.proxy.close(), self._loop)

    def variables(self) -> dict[str, str]:
        """What tells the box's programs of it."""
        url, near = f"http://127.0.0.1:{self.port}", "localhost,127.0.0.1,::1"
        both = {"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": near}
        return {**both, **{name.lower(): value for name, value in both.items()}}
