"""What a client carries for us: thinking (and a call's id) inside a signature it cannot read.

Anthropic's ``signature``, OpenAI's ``encrypted_content`` and Google's ``thoughtSignature`` are
opaque to clients, which send them back with the next request; some drop the thinking's text and
keep only these. So the text itself travels in them: base64 of a mark and JSON. Nothing is secret
or signed: a client may change its own history in any case, and the session then forks.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import orjson

from m2gym.gateway.wire import dumps

MARK = b"m2gym1"


@dataclass(frozen=True)
class Sealed:
    """What a signature of ours holds; empty where it held nothing."""

    thinking: str = ""
    call_id: str = ""


def seal(*, thinking: str = "", call_id: str = "") -> str:
    """A signature that carries what is given."""
    held = {key: value for key, value in (("t", thinking), ("c", call_id)) if value}
    return base64.b64encode(MARK + dumps(held)).decode()


def unseal(signature: object) -> Sealed | None:
    """What ours holds; ``None`` for one that another provider made."""
    if not isinstance(signature, str):
        return None
    try:
        raw = base64.b64decode(signature.translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        return None
    if not raw.startswith(MARK):
        return None
    try:
        held = orjson.loads(raw[len(MARK) :])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(held, dict):
        return None
    return Sealed(str(held.get("t", "")), str(held.get("c", "")))


_STANDARD = str.maketrans("-_", "+/")
