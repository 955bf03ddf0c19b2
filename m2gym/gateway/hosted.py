"""Calls of tools that a provider ran itself, in each dialect's form and back.

On record such a call is ``{"id", "name", "input", "output"}`` in its answer's ``hosted``: what the
provider's model asked for and what came, as far as the provider tells. A client may send it back or
not: like thinking it is put back from the record.

| dialect | a search | other tools |
|---|---|---|
| messages | ``server_tool_use`` and ``…_tool_result`` blocks | the same |
| responses | ``web_search_call`` item | ``code_interpreter_call`` for code, else ``…_call`` |
| gemini | ``groundingMetadata`` | ``executableCode`` and ``codeExecutionResult`` parts |
| chat | ``annotations`` | nothing: the dialect has no form for them |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from m2gym.gateway.fields import Object, a_name
from m2gym.gateway.wire import dumps_text

SERVER = "srvtoolu_"
"""How ids of Anthropic's server tools begin."""

ITEMS = ("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call")
"""Items of the responses dialect that tell of a hosted call."""


def calls_of(message: Object) -> list[Object]:
    """A recorded answer's hosted calls."""
    return list(message.get("hosted") or ())


def is_search(call: Object) -> bool:
    """Whether it looked something up in the web."""
    return "search" in call["name"].lower()


def sources(call: Object) -> list[Object]:
    """Pages that a search found: ``url`` and ``title``."""
    return list(_sources(call.get("output")))


def _sources(value: Any) -> Iterator[Object]:
    if isinstance(value, list):
        for item in value:
            yield from _sources(item)
    elif isinstance(value, dict):
        url = value.get("url") or value.get("uri")
        if isinstance(url, str):
            yield {"url": url, "title": str(value.get("title") or "")}
        else:
            for item in value.values():
                yield from _sources(item)


def queries(call: Object) -> list[str]:
    """What a search asked for."""
    given = call.get("input") or {}
    found = given.get("queries") or [given.get("query")]
    return [text for text in found if isinstance(text, str)]


def blocks(message: Object) -> list[Object]:
    """Anthropic's content blocks."""
    out: list[Object] = []
    for call in calls_of(message):
        id = call["id"] if call["id"].startswith(SERVER) else SERVER + call["id"]
        given = call.get("input") or {}
        out.append({"type": "server_tool_use", "id": id, "name": call["name"], "input": given})
        if call.get("output") is not None:
            kind = f"{call['name']}_tool_result"
            out.append({"type": kind, "tool_use_id": id, "content": _result(call)})
    return out


def _result(call: Object) -> Any:
    output = call["output"]
    if call["name"] == "code_execution" and isinstance(output, str):
        told: Object = {"type": "code_execution_result", "stdout": output, "stderr": ""}
        return {**told, "return_code": 0, "content": []}
    return output


def take_block(hosted: list[Object], block: Object, where: str) -> bool:
    """Read a content block into ``hosted``; false where it is something else."""
    kind = block.get("type")
    if kind == "server_tool_use":
        id, name = a_name(block.get("id"), f"{where}.id"), a_name(block.get("name"), where)
        hosted.append({"id": id, "name": name, "input": block.get("input") or {}})
        return True
    if isinstance(kind, str) and kind.endswith("_tool_result"):
        id = a_name(block.get("tool_use_id"), f"{where}.tool_use_id")
        for call in hosted:
            if call["id"] == id:
                call["output"] = block.get("content")
        return True
    return False


def items(message: Object) -> list[Object]:
    """Items of OpenAI's responses."""
    out: list[Object] = []
    for call in calls_of(message):
        name, given = call["name"], call.get("input") or {}
        item: Object = {"id": call["id"], "status": "completed"}
        if is_search(call):
            query = (queries(call) or [""])[0]
            found = [{"type": "url", "url": page["url"]} for page in sources(call)]
            action = {"type": "search", "query": query, "sources": found}
            item |= {"type": "web_search_call", "action": action}
        elif "code" in name.lower():
            item |= {"type": "code_interpreter_call", "container_id": "auto"}
            item |= {"code": given.get("code"), "outputs": _logs(call.get("output"))}
        else:
            item |= {"type": f"{name}_call", "input": given, "output": call.get("output")}
        out.append(item)
    return out


def _logs(output: Any) -> list[Object]:
    text = output if isinstance(output, str) else dumps_text(output)
    return [] if output is None else [{"type": "logs", "logs": text}]


def read_item(item: Object, kind: str) -> Object:
    """A hosted call that a client of the responses dialect sends back, maybe without its id."""
    rest = {k: v for k, v in item.items() if k not in ("id", "type", "status", "action")}
    given = item.get("action") if isinstance(item.get("action"), dict) else rest
    return {"id": str(item.get("id") or ""), "name": kind.removesuffix("_call"), "input": given}


def grounding(message: Object) -> Object | None:
    """Google's ``groundingMetadata``; nothing where nothing was searched."""
    searches = [call for call in calls_of(message) if is_search(call)]
    if not searches:
        return None
    pages = [page for call in searches for page in sources(call)]
    return {
        "webSearchQueries": [query for call in searches for query in queries(call)],
        "groundingChunks": [{"web": {"uri": p["url"], "title": p["title"]}} for p in pages],
    }


def parts(message: Object) -> list[Object]:
    """Google's parts of calls that were no searches."""
    out: list[Object] = []
    for call in calls_of(message):
        if is_search(call):
            continue
        given, result = call.get("input") or {}, call.get("output")
        code = given.get("code")
        shown = code if isinstance(code, str) else dumps_text(given)
        language = given.get("language") or "PYTHON"
        out.append({"executableCode": {"id": call["id"], "language": language, "code": shown}})
        if result is not None:
            text = result if isinstance(result, str) else dumps_text(result)
            told = {"id": call["id"], "outcome": "OUTCOME_OK", "output": text}
            out.append({"codeExecutionResult": told})
    return out


def take_part(hosted: list[Object], part: Object) -> bool:
    """Read a part into ``hosted``; false where it is something else."""
    code = part.get("executableCode") or part.get("executable_code")
    result = part.get("codeExecutionResult") or part.get("code_execution_result")
    if isinstance(code, dict):
        id = str(code.get("id") or f"code_{len(hosted)}")
        given = {key: value for key, value in code.items() if key != "id"}
        hosted.append({"id": id, "name": "codeExecution", "input": given})
        return True
    if isinstance(result, dict):
        if hosted:
            hosted[-1]["output"] = result.get("output")
        return True
    return False


def citations(message: Object) -> list[Object]:
    """Citations of OpenAI's chat completions."""
    pages = [page for call in calls_of(message) if is_search(call) for page in sources(call)]
    end = len(message.get("content") or "")
    return [
        {"type": "url_citation", "url_citation": {**page, "start_index": end, "end_index": end}}
        for page in pages
    ]
