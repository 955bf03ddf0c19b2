"""Which endpoint of which dialect a path names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Literal
from urllib.parse import unquote

from m2gym.gateway import chat, gemini, messages, responses

Action = Literal["call", "count", "models", "mcp", "hello", "upgrade", "stored", "unknown"]

PREFIX = "/s/"
"""A path below ``/s/SECRET`` belongs to that session, whatever key its headers hold."""


@dataclass(frozen=True)
class Route:
    """What a request asks for; ``model`` and ``stream`` where the URL says them."""

    action: Action
    dialect: ModuleType
    model: str = ""
    stream: bool = False


POSTS: dict[tuple[str, ...], tuple[Action, ModuleType]] = {
    ("chat", "completions"): ("call", chat),
    ("responses",): ("call", responses),
    ("responses", "input_tokens"): ("count", responses),
    ("messages",): ("call", messages),
    ("messages", "count_tokens"): ("count", messages),
}
GEMINI_VERBS: dict[str, tuple[Action, bool]] = {
    "generateContent": ("call", False),
    "streamGenerateContent": ("call", True),
    "countTokens": ("count", False),
}
VERSIONS = ("v1", "v1beta", "v1alpha", "v1beta1")


def split_secret(path: str) -> tuple[str, str]:
    """The secret that a URL prefix holds, and the rest of the path."""
    if not path.startswith(PREFIX):
        return "", path
    secret, _, rest = path[len(PREFIX) :].partition("/")
    return secret, "/" + rest


@lru_cache(maxsize=1024)
def route(method: str, path: str) -> Route:
    """The endpoint; an unknown one still has the dialect its path looks like, for the error."""
    parts = tuple(part for part in path.split("/") if part)
    if parts == ("mcp",):
        return Route("mcp", chat)
    if parts in ((), ("health",), ("api", "hello")) and method in ("GET", "HEAD"):
        return Route("hello", chat)
    version, rest = ("", parts)
    while rest and rest[0] in VERSIONS:
        version, rest = rest[0], rest[1:]
    dialect = gemini if version.startswith("v1") and version != "v1" else chat
    if method == "POST" and rest in POSTS:
        action, dialect = POSTS[rest]
        return Route(action, dialect)
    if rest[:1] == ("models",):
        name = unquote("/".join(rest[1:]))
        model, _, verb = name.rpartition(":")
        if method == "POST" and verb in GEMINI_VERBS:
            action, stream = GEMINI_VERBS[verb]
            return Route(action, gemini, model, stream)
        if method in ("GET", "HEAD"):
            return Route("models", dialect, name)
    if rest[:1] == ("responses",) and len(rest) == 2 and method in ("GET", "DELETE"):
        return Route("stored", responses, rest[1])
    if rest[:1] == ("responses",):
        return Route(
            "upgrade" if rest == ("responses",) and method == "GET" else "unknown", responses
        )
    return Route("unknown", messages if rest[:1] == ("messages",) else dialect)
