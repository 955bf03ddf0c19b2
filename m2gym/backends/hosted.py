"""Tools that a provider runs itself: how they are asked for, and what is told of what they did.

LiteLLM gives Anthropic's as ``server_tool_calls`` with results beside (earlier releases among the
tool calls), Google's searches as grounding metadata, OpenAI's as citations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from m2gym.core.errors import ModelError
from m2gym.core.protocols import ModelRequest

SEARCH = re.compile(r"(?i)(web_?search|google_?search)(_?(preview|retrieval))?(_\d+)*")
"""Names under which providers have a search of the web."""

SERVER_TOOL = "srvtoolu_"
"""How ids of calls begin that Anthropic ran itself."""

FAMILIES = {
    "anthropic": "messages",
    "bedrock": "messages",
    "vertex_ai": "gemini",
    "gemini": "gemini",
    "vertex_ai_beta": "gemini",
}
"""Providers that take hosted tools as their own protocols declare them."""

Hosted = dict[str, Any]


def asked_for(
    request: ModelRequest, family: str, *, web_search: bool
) -> tuple[list[Hosted], Hosted]:
    """A request's hosted tools: members of ``tools``, and other fields.

    A tool goes on as it was declared to a provider of the same ``family`` of protocols
    (``messages``, ``gemini``; ``chat`` declares none in ``tools``); a search of the web in another
    dialect's form as the ``web_search_options`` that stand for one everywhere.

    Raises:
        ModelError: a tool has no form for this provider.
    """
    tools: list[Hosted] = []
    fields: Hosted = {}
    for hosted in request.hosted:
        if hosted.dialect == family and family != "chat":
            tools.append(hosted.declared)
        elif web_search and SEARCH.fullmatch(hosted.name):
            fields["web_search_options"] = hosted.declared if hosted.dialect == "chat" else {}
        else:
            raise ModelError(
                f"the hosted tool {hosted.name!r}, declared as in {hosted.dialect!r}, cannot be "
                "passed to this model's provider: do not grant it, or ask in the provider's own "
                "dialect",
                cause="refused",
            )
    return tools, fields


def given_back(message: Mapping[str, Any]) -> Hosted:
    """Calls that Anthropic ran, and their results, as LiteLLM takes them in a history."""
    ran = [call for call in message.get("hosted", ()) if call["id"].startswith(SERVER_TOOL)]
    if not ran:
        return {}
    calls: list[Hosted] = []
    results: list[Hosted] = []
    for call in ran:
        arguments = json.dumps(call.get("input") or {}, ensure_ascii=False)
        function = {"name": call["name"], "arguments": arguments}
        calls.append({"id": call["id"], "type": "function", "function": function})
        kind = f"{call['name']}_tool_result"
        results.append({"type": kind, "tool_use_id": call["id"], "content": call.get("output")})
    searched = [r for r, call in zip(results, ran, strict=True) if SEARCH.fullmatch(call["name"])]
    others = [result for result in results if result not in searched]
    told = {"web_search_results": searched, "tool_results": others}
    return {
        "tool_calls": [*calls, *(message.get("tool_calls") or ())],
        "provider_specific_fields": {key: value for key, value in told.items() if value},
    }


class Ran:
    """What a stream tells of hosted calls; what is no such thing is passed over."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, str]] = {}
        self._results: dict[str, Any] = {}
        self._queries: list[str] = []
        self._pages: list[dict[str, str]] = []
        self._cited: list[dict[str, str]] = []

    def chunk(self, chunk: Mapping[str, Any]) -> None:
        """Take what stands beside a chunk's choices."""
        for told in _objects(chunk.get("vertex_ai_grounding_metadata")):
            queries = told.get("webSearchQueries")
            if isinstance(queries, list):
                self._queries += [query for query in queries if isinstance(query, str)]
            for found in _objects(told.get("groundingChunks")):
                _add(self._pages, found.get("web"), "uri")

    def delta(self, delta: Mapping[str, Any]) -> None:
        """Take what a choice's delta tells."""
        for cited in _objects(delta.get("annotations")):
            _add(self._cited, cited.get("url_citation"), "url")
        fields = delta.get("provider_specific_fields")
        if not isinstance(fields, dict):
            return
        for call in _objects(fields.get("server_tool_calls")):
            function = call.get("function")
            if isinstance(function, dict):
                self.call(call.get("id"), function.get("name"), function.get("arguments"))
        for key in ("web_search_results", "tool_results"):
            for block in _objects(fields.get(key)):
                self._results[str(block.get("tool_use_id"))] = block.get("content")

    def call(self, id: Any, name: Any, arguments: Any) -> None:
        """Take a call that is whole."""
        self._calls[str(id)] = str(name), arguments if isinstance(arguments, str) else ""

    def all(self) -> list[Hosted]:
        """The calls, as they are recorded; a search that is only told by what it found is one."""
        out: list[Hosted] = [
            {"id": id, "name": name, "input": _object(text), "output": self._results.get(id)}
            for id, (name, text) in self._calls.items()
        ]
        pages = self._pages or self._cited
        if (self._queries or pages) and not out:
            given = {"queries": self._queries} if self._queries else {}
            out.append({"id": "hosted_0", "name": "web_search", "input": given, "output": pages})
        return out


def _objects(value: Any) -> list[Hosted]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _add(pages: list[dict[str, str]], page: Any, key: str) -> None:
    if isinstance(page, dict) and isinstance(page.get(key), str):
        pages.append({"url": page[key], "title": str(page.get("title") or "")})


def _object(text: str) -> Hosted:
    """JSON as an object, else the text under ``text``."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"text": text}
