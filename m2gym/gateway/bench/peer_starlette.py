"""A plain pass-through on starlette and httpx: ``python -m …peer_starlette UPSTREAM_PORT``."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


def application(upstream: str) -> Starlette:
    """The proxy."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    client = httpx.AsyncClient(limits=limits, timeout=None, trust_env=False)

    async def handle(request: Request) -> Response:
        url = f"http://127.0.0.1:{upstream}{request.url.path}"
        body = await request.body()
        kind = {"content-type": "application/json"}
        asked = client.build_request("POST", url, content=body, headers=kind)
        answer = await client.send(asked, stream=True)
        media = answer.headers["content-type"]
        if "content-length" in answer.headers:
            data = await answer.aread()
            await answer.aclose()
            return Response(data, media_type=media)

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in answer.aiter_raw():
                yield piece
            await answer.aclose()

        return StreamingResponse(pieces(), media_type=media)

    return Starlette(routes=[Route("/{path:path}", handle, methods=["POST"])])


if __name__ == "__main__":
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(application(sys.argv[1]), log_level="error", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
