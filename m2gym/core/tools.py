"""Tool schemas in OpenAI's form, made from Python functions, and tool calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.task import Frozen


class ToolSchema(Frozen):
    """A tool as a model sees it; ``parameters`` is a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})

    def openai(self) -> dict[str, Any]:
        """The form of OpenAI's chat completions."""
        return {"type": "function", "function": self.model_dump()}


class HostedTool(Frozen):
    """A tool that a model's provider runs itself (a web search, an interpreter).

    ``declared`` is its declaration in the form of the protocol ``dialect``: ``chat`` (the value of
    ``web_search_options``), ``responses``, ``messages`` or ``gemini``.
    """

    name: str
    dialect: str
    declared: dict[str, Any] = Field(default_factory=dict)

    def openai(self) -> dict[str, Any]:
        """How it stands among a record's tools."""
        return {"type": "hosted", "hosted": self.model_dump()}


class ToolCall(Frozen):
    """A call of a tool by name with JSON arguments."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Tool:
    """A Python function offered to an agent: its schema, and argument checking before the call."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self._arguments, self.schema = _made(function, name or function.__name__)

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Checked and cast arguments; `InputError` says which argument is wrong and how."""
        try:
            values = self._arguments.model_validate(dict(arguments))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors()
            )
            raise InputError(f"tool {self.schema.name!r}: {problems}") from None
        return {key: getattr(values, key) for key in type(values).model_fields}


_MADE: dict[tuple[Any, ...], tuple[type[BaseModel], ToolSchema]] = {}
"""What was made of functions before: an environment's tools are closures made anew for each
episode, with the same code, and a schema costs milliseconds."""
MOST_MADE = 512


def _made(function: Callable[..., Any], name: str) -> tuple[type[BaseModel], ToolSchema]:
    """The model of a function's arguments and its schema."""
    key = (
        name,
        getattr(function, "__code__", function),
        getattr(function, "__defaults__", None),
        tuple(sorted((getattr(function, "__kwdefaults__", None) or {}).items())),
        tuple(getattr(function, "__annotations__", {}).items()),
        function.__doc__,
    )
    try:
        found = _MADE.get(key)
    except TypeError:  # a default or an annotation without a hash
        return _make(function, name)
    if found is None:
        if len(_MADE) >= MOST_MADE:
            _MADE.clear()
        found = _MADE[key] = _make(function, name)
    return found


def _make(function: Callable[..., Any], name: str) -> tuple[type[BaseModel], ToolSchema]:
    hints = get_type_hints(function)
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[key] = (hints.get(key, Any), default)
    arguments = create_model(
        f"{function.__name__}_arguments", __config__={"extra": "forbid"}, **fields
    )
    schema = TypeAdapter(arguments).json_schema()
    schema.pop("title", None)
    for prop in schema.get("properties", {}).values():
        prop.pop("title", None)
    told = inspect.getdoc(function) or ""
    return arguments, ToolSchema(name=name, description=told, parameters=schema)


class Toolbox:
    """The tools of an environment by name."""

    def __init__(self, tools: list[Tool]) -> None:
        self._tools = {tool.schema.name: tool for tool in tools}

    @property
    def schemas(self) -> list[ToolSchema]:
        """Schemas in the order the tools were given."""
        return [tool.schema for tool in self._tools.values()]

    def get(self, name: str) -> Tool:
        """The tool, or `UnknownIdError` naming the nearest."""
        if name not in self._tools:
            raise UnknownIdError("tool", name, self._tools)
        return self._tools[name]
