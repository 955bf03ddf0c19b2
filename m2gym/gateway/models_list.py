"""The list of models: what the session serves, in each dialect's form."""

from __future__ import annotations

from types import ModuleType

from aiohttp import web

from m2gym.gateway import gemini, messages
from m2gym.gateway.access import Entry
from m2gym.gateway.fault import Fault
from m2gym.gateway.fields import Object
from m2gym.gateway.wire import dumps

CREATED = 1_767_225_600
"""Creation time that every model gets: 2026-01-01, for the dialects that demand one."""


def models_list(dialect: ModuleType, entry: Entry, name: str) -> web.Response:
    """All models, or the one of that name.

    Raises:
        Fault: there is none of that name.
    """
    served = getattr(getattr(entry.session, "model", None), "name", None)
    names = entry.models or (str(served or "m2gym"),)
    if name:
        if entry.models and name not in names:
            raise Fault("not_found", f"no model {name!r} here; known: {', '.join(names)}")
        return _json(_one(dialect, name))
    return _json(_all(dialect, names))


def _all(dialect: ModuleType, names: tuple[str, ...]) -> Object:
    models = [_one(dialect, name) for name in names]
    if dialect is gemini:
        return {"models": models}
    if dialect is messages:
        ends = {"first_id": names[0], "last_id": names[-1]}
        return {"data": models, "has_more": False, **ends}
    return {"object": "list", "data": models}


def _one(dialect: ModuleType, name: str) -> Object:
    if dialect is gemini:
        methods = ["generateContent", "streamGenerateContent", "countTokens"]
        return {
            "name": f"models/{name}",
            "displayName": name,
            "supportedGenerationMethods": methods,
        }
    if dialect is messages:
        created = "2026-01-01T00:00:00Z"
        return {"type": "model", "id": name, "display_name": name, "created_at": created}
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "m2gym"}


def _json(value: Object) -> web.Response:
    return web.Response(body=dumps(value), content_type="application/json")
