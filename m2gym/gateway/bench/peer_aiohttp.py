"""A plain pass-through on aiohttp: ``python -m m2gym.gateway.bench.peer_aiohttp UPSTREAM_PORT``."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import ClientSession, TCPConnector, web


async def main(upstream: str) -> None:
    """Serve on a free port, which is printed."""
    client = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        url = f"http://127.0.0.1:{upstream}{request.raw_path}"
        kind = {"Content-Type": "application/json"}
        async with client.post(url, data=body, headers=kind) as answer:
            if "Content-Length" in answer.headers:
                data = await answer.read()
                return web.Response(body=data, content_type=answer.content_type)
            response = web.StreamResponse(headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
