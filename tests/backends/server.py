"""A real HTTP server on loopback that speaks vLLM's and SGLang's protocols over a byte tokenizer.

What it says is scripted; ids, chunks, usage and errors are made as those servers make them.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

from aiohttp import web

from m2gym.models.formats import byte_format

FORM = byte_format("chatml", tool_role="user")


@dataclass
class Upstream:
    """``answers``: what is said, in turn: a text (ChatML's calls are parsed), or a failure
    ``(status, headers, body)``, ``"cut"`` (the stream ends half-way) or ``"hang"``."""

    answers: list
    ids: bool = True
    spelt_ids: bool = False
    rewrite: bool = False
    models: tuple = ("tiny",)
    requests: list = field(default_factory=list)
    url: str = ""
    seen: int = 0

    def next(self):
        self.seen += 1
        return self.answers[min(self.seen, len(self.answers)) - 1]

    async def chat(self, request):
        body = await request.json()
        self.requests.append(body)
        said = self.next()
        if isinstance(said, tuple):
            return web.json_response(said[2], status=said[0], headers=said[1])
        if said == "hang":
            await asyncio.sleep(60)
        cut = said == "cut"
        text = "half of it" if cut else said
        messages = [{**m, "content": m.get("content") or ""} for m in body["messages"]]
        if self.rewrite:
            messages = [m for m in messages if m["role"] != "assistant"]
        tools = [_Tool(t["function"]) for t in body.get("tools", ())]
        prompt = FORM.ids(FORM._pieces(messages, tools))
        ids = [*FORM.spell(text), FORM.end_id][: body.get("max_tokens")]
        message = FORM.parse(ids)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        send = self._sender(response, body)
        first = {"role": "assistant", "content": ""}
        top = {"prompt_token_ids": prompt} if self.ids and body.get("return_token_ids") else {}
        await send({"delta": first}, **top)
        thinking = message.get("reasoning_content")
        if thinking:
            await send({"delta": {"reasoning_content": thinking}})
        half = len(ids) // 2
        pieces = [message["content"][:5], message["content"][5:]]
        for piece, part in zip(pieces, (ids[:half], ids[half:]), strict=True):
            await send({"delta": {"content": piece}, **self._tokens(part, body)})
            if cut:
                request.transport.close()
                return response
        for n, call in enumerate(message.get("tool_calls", ())):
            function = call["function"]
            head = {"index": n, "id": call["id"], "type": "function"}
            named = {"name": function["name"], "arguments": ""}
            await send({"delta": {"tool_calls": [{**head, "function": named}]}})
            rest = {"index": n, "function": {"arguments": function["arguments"]}}
            await send({"delta": {"tool_calls": [rest]}})
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        await send({"delta": {}, "finish_reason": finish if ids[-1] == FORM.end_id else "length"})
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        await send(None, usage={**usage, "total_tokens": sum(usage.values())})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _tokens(self, ids, body):
        out = {}
        if not body.get("logprobs"):
            return out
        spelt = [f"token_id:{i}" if self.spelt_ids else FORM.tokenizer.decode([i]) for i in ids]
        items = [{"token": t, "logprob": -0.25, "bytes": None, "top_logprobs": []} for t in spelt]
        out["logprobs"] = {"content": items}
        if self.ids and body.get("return_token_ids"):
            out["token_ids"] = ids
        return out

    def _sender(self, response, body):
        async def send(choice, **top):
            choices = [] if choice is None else [{"index": 0, "finish_reason": None, **choice}]
            chunk = {
                "id": "c1", "object": "chat.completion.chunk", "created": 1,
                "model": body["model"], "choices": choices, **top,
            }  # fmt: skip
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        return send

    async def completions(self, request):
        body = await request.json()
        self.requests.append(body)
        said = self.next()
        if isinstance(said, tuple):
            return web.json_response(said[2], status=said[0], headers=said[1])
        ids = [*FORM.spell(said), FORM.end_id][: body.get("max_tokens")]
        choice = {
            "index": 0, "text": FORM.tokenizer.decode(ids),
            "finish_reason": "stop" if ids[-1] == FORM.end_id else "length",
            "logprobs": {"token_logprobs": [-0.5] * len(ids), "tokens": [], "text_offset": []},
        }  # fmt: skip
        if self.ids:
            choice["token_ids"] = ids
        return web.json_response(
            {"id": "c", "object": "text_completion", "created": 1, "model": body["model"],
             "choices": [choice]}
        )  # fmt: skip

    async def generate(self, request):
        body = await request.json()
        self.requests.append(body)
        ids = [*FORM.spell(self.next()), FORM.end_id]
        pairs = [[-0.75, i, None] for i in ids]
        meta = {"output_token_logprobs": pairs, "finish_reason": {"type": "stop"}}
        return web.json_response({"text": "", "output_ids": ids, "meta_info": meta})

    async def list_models(self, request):
        data = [{"id": m, "object": "model", "created": 1, "owned_by": "x"} for m in self.models]
        return web.json_response({"object": "list", "data": data})


class _Tool:
    """A tool as it came, for the server's own chat template."""

    def __init__(self, function):
        self.function = function

    def openai(self):
        return {"type": "function", "function": self.function}


@contextlib.asynccontextmanager
async def serving(upstream):
    """The server, under ``upstream.url``."""
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/chat/completions", upstream.chat)
    app.router.add_post("/v1/completions", upstream.completions)
    app.router.add_post("/generate", upstream.generate)
    app.router.add_get("/v1/models", upstream.list_models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    upstream.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield upstream
    finally:
        await runner.cleanup()
