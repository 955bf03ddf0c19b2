"""Keys taken out of what is recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from m2gym.models.messages import Message

REDACTED = "[redacted]"

KEY = re.compile(
    r"\b(?:sk-(?:ant-|proj-|or-v1-)?[A-Za-z0-9_-]{32,}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,}"
    r"|hf_[A-Za-z0-9]{30,}|xox[abps]-[A-Za-z0-9-]{20,}|AKIA[A-Z0-9]{16}|gsk_[A-Za-z0-9]{40,})"
)
"""The forms of providers' keys (OpenAI, Anthropic, Google, GitHub, Hugging Face, Slack, AWS, Groq);
the project's choice. Shorter strings are left alone: tests are full of made-up ones."""

SHORTEST = 8
"""Characters a secret value must have to be looked for; the project's choice."""


class Redactor:
    """Replaces keys and the given secret values by ``[redacted]``."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        given = sorted({s for s in secrets if len(s) >= SHORTEST}, key=len, reverse=True)
        self._given = re.compile("|".join(map(re.escape, given))) if given else None

    def text(self, text: str) -> str:
        """The text without keys."""
        if self._given is not None:
            text = self._given.sub(REDACTED, text)
        return KEY.sub(REDACTED, text)

    def message(self, message: Mapping[str, Any]) -> Message:
        """A new message without keys in any of its strings."""
        return {key: self._value(value) for key, value in message.items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value) if len(value) >= SHORTEST else value
        if isinstance(value, list | tuple):
            return [self._value(item) for item in value]
        if isinstance(value, Mapping):
            return {key: self._value(item) for key, item in value.items()}
        return value
