"""Google's generateContent: reading requests."""

from __future__ import annotations

from typing import Any

from m2gym.core.protocols import ModelRequest
from m2gym.gateway import gemini_answer, hosted
from m2gym.gateway.call import Call
from m2gym.gateway.fault import invalid
from m2gym.gateway.fields import Object, a_list, a_name, a_string, an_object, objects, sampling
from m2gym.gateway.opaque import unseal
from m2gym.gateway.reader import Past, Reader
from m2gym.gateway.tools import Offer, from_object, function_call
from m2gym.gateway.wire import dumps_text

name = "gemini"
MEMBERS = "contents"
MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}
UNSPECIFIED = "MODE_UNSPECIFIED"


def parse(body: Object, model: str = "", stream: bool = False, past: Past | None = None) -> Call:
    """Read a request; ``model`` and ``stream`` stand in its URL, members of ``past`` nowhere."""
    offer = Offer()
    tools = body.get("tools")
    for where, tool in objects([tools] if isinstance(tools, dict) else tools, "tools"):
        _offer(offer, tool, where)
    first: list[Object] = []
    system = _either(body, "systemInstruction", "system_instruction")
    if system is not None:
        text = [{"type": "text", "text": t} for t in _texts(system, "systemInstruction")]
        first.append({"role": "system", "content": text})
    contents = body.get("contents")
    if isinstance(contents, dict):
        contents = [contents]
    past = past or Past()
    if not contents and not past.marks:
        raise invalid("contents", "at least one content", contents)
    messages = _Reader().read(contents, "contents", past)
    config = an_object(
        _either(body, "generationConfig", "generation_config") or {}, "generationConfig"
    )
    if config.get("candidateCount") not in (None, 1):
        raise invalid("generationConfig.candidateCount", "1", config["candidateCount"])
    thinking = _either(config, "thinkingConfig", "thinking_config")
    return Call(
        request=ModelRequest(
            [*first, *messages],
            tuple(offer.schemas),
            sampling(
                config,
                max_tokens="maxOutputTokens",
                stop="stopSequences",
                top_p="topP",
                top_k="topK",
            ),
            _choice(_either(body, "toolConfig", "tool_config")),
            model,
        ),
        model=model,
        stream=stream,
        hosted=tuple(offer.hosted),
        thinking_asked=isinstance(thinking, dict)
        and _either(thinking, "includeThoughts", "include_thoughts") is True,
    )


def _either(source: Object, camel: str, snake: str) -> Any:
    value = source.get(camel)
    return source.get(snake) if value is None else value


def _offer(offer: Offer, tool: Object, where: str) -> None:
    for key, value in tool.items():
        if key not in ("functionDeclarations", "function_declarations"):
            if value is not None:
                offer.provider_hosted(key, name, {key: value})
            continue
        for place, declared in objects(value, f"{where}.{key}"):
            schema = _either(declared, "parametersJsonSchema", "parameters_json_schema")
            if schema is None:
                schema = lowered(declared.get("parameters"))
            offer.function(declared.get("name"), declared.get("description"), schema, place)


def lowered(schema: Any) -> Any:
    """A schema of Google's own form with JSON Schema's lower-case types."""
    if isinstance(schema, list):
        return [lowered(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.lower() if key == "type" and isinstance(value, str) else lowered(value)
        for key, value in schema.items()
    }


def _choice(config: Any) -> str:
    if config is None:
        return "auto"
    inner = _either(
        an_object(config, "toolConfig"), "functionCallingConfig", "function_calling_config"
    )
    if inner is None:
        return "auto"
    inner = an_object(inner, "toolConfig.functionCallingConfig")
    mode = inner.get("mode") or UNSPECIFIED
    if mode == UNSPECIFIED:
        return "auto"
    if not isinstance(mode, str) or mode not in MODES:
        raise invalid("toolConfig.functionCallingConfig.mode", "AUTO, ANY or NONE", mode)
    allowed = a_list(
        _either(inner, "allowedFunctionNames", "allowed_function_names"), "allowedFunctionNames"
    )
    if mode == "ANY" and len(allowed) == 1:
        return a_name(allowed[0], "allowedFunctionNames[0]")
    return MODES[mode]


def _texts(content: Any, where: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    inner = an_object(content, where)
    parts = inner.get("parts")
    if isinstance(parts, dict):
        parts = [parts]
    if parts is None and "text" in inner:
        parts = [inner]
    return [
        a_string(part.get("text"), f"{place}.text")
        for place, part in objects(parts, f"{where}.parts")
    ]


class _Reader(Reader):
    """Contents; neighbouring ones of the model are one turn, calls without ids are matched to
    results by name and order."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, str]] = []
        self._calls = 0

    @property
    def state(self) -> Any:
        return tuple(self._open), self._calls

    @state.setter
    def state(self, state: Any) -> None:
        self._open, self._calls = list(state[0]), state[1]

    def member(self, member: Object, where: str) -> None:
        role = member.get("role") or "user"
        parts = member.get("parts")
        if isinstance(parts, dict):
            parts = [parts]
        if role == "model":
            self._model(parts, f"{where}.parts")
        elif role in ("user", "function", "tool"):
            self._user(parts, f"{where}.parts")
        else:
            raise invalid(f"{where}.role", "user or model", role)

    def _model(self, parts: Any, where: str) -> None:
        last = self.last_answer()
        shown, sealed_text = "", ""
        ran = [dict(call) for call in last.get("hosted", ())]
        for place, part in objects(parts, where):
            sealed = unseal(_either(part, "thoughtSignature", "thought_signature"))
            if sealed:
                sealed_text = sealed_text or sealed.thinking
            call = _either(part, "functionCall", "function_call")
            if call is not None:
                self._call(last, an_object(call, place), sealed.call_id if sealed else "", place)
            elif part.get("thought") is True:
                shown += a_string(part.get("text"), f"{place}.text", "")
            elif "text" in part:
                last["content"] += a_string(part["text"], f"{place}.text")
            elif not hosted.take_part(ran, part) and not sealed:
                raise invalid(place, "text or functionCall", part)
        if ran:
            last["hosted"] = ran
        if sealed_text or shown:
            last["reasoning_content"] = last.get("reasoning_content", "") + (sealed_text or shown)

    def _call(self, message: Object, call: Object, sealed_id: str, where: str) -> None:
        called = a_name(call.get("name"), f"{where}.functionCall.name")
        self._calls += 1
        id = (
            sealed_id
            or a_string(call.get("id"), f"{where}.functionCall.id", "")
            or f"call_{self._calls}"
        )
        given = an_object(call.get("args") or {}, f"{where}.functionCall.args")
        message.setdefault("tool_calls", []).append(function_call(id, called, from_object(given)))
        self._open.append((id, called))

    def _user(self, parts: Any, where: str) -> None:
        said: list[Object] = []
        for place, part in objects(parts, where):
            result = _either(part, "functionResponse", "function_response")
            if result is None:
                said.append(_block(part, place))
                continue
            if said:
                self.messages.append({"role": "user", "content": said})
                said = []
            self.messages.append(self._result(an_object(result, place), place))
        if said:
            self.messages.append({"role": "user", "content": said})

    def _result(self, result: Object, where: str) -> Object:
        called = a_name(result.get("name"), f"{where}.functionResponse.name")
        id = a_string(result.get("id"), f"{where}.functionResponse.id", "")
        match = next((o for o in self._open if o[0] == id), None) or next(
            (o for o in self._open if o[1] == called), None
        )
        if match is not None:
            self._open.remove(match)
            id = match[0]
        text = _result_text(result.get("response"))
        images = [_block(p, place) for place, p in objects(result.get("parts"), f"{where}.parts")]
        content: Any = [{"type": "text", "text": text}, *images] if images else text
        return {"role": "tool", "tool_call_id": id or called, "content": content}


def _result_text(response: Any) -> str:
    if isinstance(response, dict) and len(response) == 1:
        key, value = next(iter(response.items()))
        if key in ("output", "result", "error", "content") and isinstance(value, str):
            return value
    return "" if response is None else dumps_text(response)


def _block(part: Object, where: str) -> Object:
    if "text" in part:
        return {"type": "text", "text": a_string(part["text"], f"{where}.text")}
    inline = _either(part, "inlineData", "inline_data")
    if inline is not None:
        held = an_object(inline, f"{where}.inlineData")
        media = a_name(_either(held, "mimeType", "mime_type"), f"{where}.inlineData.mimeType")
        data = (
            a_name(held.get("data"), f"{where}.inlineData.data").replace("-", "+").replace("_", "/")
        )
        return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}
    linked = _either(part, "fileData", "file_data")
    if linked is not None:
        held = an_object(linked, f"{where}.fileData")
        url = a_name(_either(held, "fileUri", "file_uri"), f"{where}.fileData.fileUri")
        return {"type": "image_url", "image_url": {"url": url}}
    raise invalid(where, "text, inlineData, fileData or functionResponse", part)


answer = gemini_answer.answer
encoder = gemini_answer.GeminiEncoder
error = gemini_answer.error


def counted(tokens: int) -> Object:
    """Prompt tokens of a request."""
    return {"totalTokens": tokens}
