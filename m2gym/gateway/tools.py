"""The tools a request offers: what the model sees, and how its calls go back to the client.

A model sees functions only. A free-form ("custom") tool is shown as a function with one string
``input``; a member of a namespace as ``namespace__name``; a tool that a provider would run itself
is not shown unless it was granted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from m2gym.core.tools import HostedTool, ToolSchema
from m2gym.gateway.fields import Object, a_name, a_string, an_object
from m2gym.gateway.wire import dumps_text

EMPTY_OBJECT: Object = {"type": "object", "properties": {}}

INPUT: Object = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""Parameters under which a free-form tool is shown to the model."""


@dataclass
class Offer:
    """A request's tools, gathered while it is read."""

    schemas: list[ToolSchema] = field(default_factory=list)
    custom: set[str] = field(default_factory=set)
    namespaces: dict[str, tuple[str, str]] = field(default_factory=dict)
    hosted: list[HostedTool] = field(default_factory=list)

    def function(
        self, name: Any, description: Any, parameters: Any, where: str, namespace: str = ""
    ) -> None:
        """Offer a function; missing parameters mean that it takes none."""
        shown = a_name(name, f"{where}.name")
        if namespace:
            self.namespaces[f"{namespace}__{shown}"] = (namespace, shown)
            shown = f"{namespace}__{shown}"
        schema = an_object(
            EMPTY_OBJECT if parameters is None else parameters, f"{where}.parameters"
        )
        text = a_string(description, f"{where}.description", "")
        self.schemas.append(ToolSchema(name=shown, description=text, parameters=schema))

    def freeform(self, tool: Object, where: str) -> None:
        """Offer a custom tool: ``name``, ``description`` and, maybe, a grammar in ``format``."""
        name = a_name(tool.get("name"), f"{where}.name")
        text = a_string(tool.get("description"), f"{where}.description", "")
        form = tool.get("format")
        if isinstance(form, dict):
            inner = form.get("grammar")
            grammar = inner if isinstance(inner, dict) else form
            if grammar.get("definition"):
                syntax = grammar.get("syntax", "")
                text += f"\nThe input follows this {syntax} grammar:\n{grammar['definition']}"
        self.custom.add(name)
        self.schemas.append(ToolSchema(name=name, description=text, parameters=INPUT))

    def provider_hosted(self, name: str, dialect: str, declared: Any) -> None:
        """Note a tool that only a provider could run, as the dialect declares it."""
        form = declared if isinstance(declared, dict) else {name: declared}
        self.hosted.append(HostedTool(name=name, dialect=dialect, declared=form))


@dataclass(frozen=True)
class Called:
    """A call as the model made it; ``input`` is set for a free-form tool."""

    id: str
    name: str
    arguments: str
    input: str | None = None


def read_call(call: Object, custom: Iterable[str] = ()) -> Called:
    """A recorded ``tool_calls`` entry, in function or custom form."""
    if call.get("type") == "custom":
        inner = call["custom"]
        return Called(
            call["id"], inner["name"], dumps_text({"input": inner["input"]}), inner["input"]
        )
    inner = call["function"]
    name, arguments = inner["name"], inner["arguments"]
    free = freeform_input(arguments) if name in custom else None
    return Called(call["id"], name, arguments, free)


def freeform_input(arguments: str) -> str:
    """The text in ``{"input": …}``; what is not of that form is the text itself."""
    held = parsed_arguments(arguments)
    if held is not None and set(held) == {"input"} and isinstance(held["input"], str):
        return held["input"]
    return arguments


def freeform_call(id: str, name: str, text: str) -> Object:
    """The recorded form of a free-form call that a client sends back."""
    return function_call(id, name, dumps_text({"input": text}))


def function_call(id: str, name: str, arguments: str) -> Object:
    """The recorded form of a call."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


MALFORMED = "malformed_arguments"
"""Key under which arguments that are no JSON object travel where a dialect demands an object."""


def parsed_arguments(arguments: str) -> Object | None:
    """The arguments' object; ``None`` when the text is none."""
    if not arguments:
        return {}
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def as_object(arguments: str) -> Object:
    """The arguments' object; text that is none stands under `MALFORMED`, to be seen and mended."""
    value = parsed_arguments(arguments)
    return {MALFORMED: arguments} if value is None else value


def from_object(value: Object) -> str:
    """`as_object` undone."""
    if set(value) == {MALFORMED} and isinstance(value[MALFORMED], str):
        return str(value[MALFORMED])
    return dumps_text(value)
