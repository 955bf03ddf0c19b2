"""Agents behind a URL: they act in an episode through its tools, offered as an MCP server.

| ``--agent`` | reached by |
|---|---|
| ``remote:http://HOST`` | the A2A protocol (`litellm.a2a_protocol`) |
| ``remote:http,http://HOST/PATH`` | one POST of JSON, answered when the work is done |
| ``remote:langgraph/ID`` | any agent that LiteLLM has as a model (``langgraph/ID``, …) |

The agent is told the task, the address of the episode's MCP server (streamable HTTP; the address
holds the episode's secret), and, where the run has a model, the gateway's. When it answers, its
work is graded; what it answers is kept on record and not believed.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, ClassVar

from m2gym.core.errors import CapabilityError, InfraError, InputError
from m2gym.core.protocols import Episode
from m2gym.gateway.access import Access
from m2gym.gateway.server import Gateway

HOUR = 3600.0
"""Seconds an answer is waited for where the task has no deadline; the project's choice."""

PROTOCOLS = ("a2a", "http", "litellm")


@dataclass
class Remote:
    """An agent that lives elsewhere.

    Args:
        url: its address, or LiteLLM's name of it.
        protocol: ``a2a``, ``http`` or ``litellm``.
        host: the address our gateway listens on.
        public_url: how the agent reaches that, where it differs: ``https://gym.example.org``.
        headers: what its requests carry beside; left out of the record.
    """

    url: str
    protocol: str = "a2a"
    host: str = "127.0.0.1"
    public_url: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    name: str = field(default="remote", init=False)
    uses_model: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InputError(f"remote: protocol is {', '.join(PROTOCOLS)}, got {self.protocol!r}")
        if self.protocol != "litellm" and not self.url.startswith(("http://", "https://")):
            raise InputError(f"remote: a URL begins with http:// or https://, got {self.url!r}")

    @classmethod
    def from_argument(cls, argument: str) -> Remote:
        """From ``URL``, ``http,URL`` or LiteLLM's name of an agent."""
        protocol, comma, rest = argument.partition(",")
        if comma:
            return cls(rest, protocol=protocol)
        return cls(argument, protocol="a2a" if "://" in argument else "litellm")

    def settings(self) -> dict[str, Any]:
        """What is recorded of it: no headers, which may hold secrets."""
        return {"url": self.url, "protocol": self.protocol, "public_url": self.public_url}

    async def run(self, episode: Episode) -> None:
        """Send it the task and wait for its answer.

        Raises:
            InfraError: it cannot be reached, or its answer is an error.
        """
        gateway = Gateway()
        await gateway.start(self.host)
        try:
            access = gateway.add(episode.session, episode=episode)
            if self.public_url:
                access = Access(access.secret, self.public_url.rstrip("/"))
            began = time.monotonic()
            left = HOUR if episode.deadline is None else max(1.0, episode.deadline - time.time())
            text = message(episode, access)
            answer = await {"a2a": self._a2a, "http": self._http, "litellm": self._litellm}[
                self.protocol
            ](episode, text, access, left)
        finally:
            await gateway.stop()
        note = getattr(episode, "note", None)
        if note is not None:
            action = {"name": "remote", "arguments": self.settings()}
            note(action, answer, {}, time.monotonic() - began)

    async def _a2a(self, episode: Episode, text: str, access: Access, left: float) -> str:
        try:
            from a2a.compat.v0_3.types import MessageSendParams, SendMessageRequest
            from a2a.utils.errors import A2AError
            from httpx import HTTPError
            from litellm.a2a_protocol import A2AError as CardError
            from litellm.a2a_protocol import asend_message, create_a2a_client
            from openai import OpenAIError
        except ImportError as error:
            raise CapabilityError(
                f"an A2A agent needs litellm and a2a-sdk: pip install 'm2gym[agents]' ({error})"
            ) from error
        part = {"kind": "text", "text": text}
        said = {
            "role": "user",
            "parts": [part],
            "messageId": uuid.uuid4().hex,
            "metadata": places(episode, access),
        }
        try:
            client = await create_a2a_client(
                self.url, timeout=left, extra_headers=self.headers or None
            )
            request = SendMessageRequest(
                id=uuid.uuid4().hex, params=MessageSendParams.model_validate({"message": said})
            )
            response = await asend_message(a2a_client=client, request=request)
        except (A2AError, CardError, HTTPError, OpenAIError, OSError) as error:
            raise InfraError(f"the A2A agent at {self.url} failed: {error!r}") from error
        found = response.model_dump(mode="json", exclude_none=True)
        if "error" in found:
            raise InfraError(f"the A2A agent at {self.url} answered an error: {found['error']}")
        return "\n".join(texts(found.get("result", {})))

    async def _http(self, episode: Episode, text: str, access: Access, left: float) -> str:
        import aiohttp

        body = {"instruction": text, "task": episode.task.id, **places(episode, access)}
        timeout = aiohttp.ClientTimeout(total=left)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self.headers) as client,
                client.post(self.url, json=body) as response,
            ):
                answer = await response.text(errors="replace")
                if response.status >= 400:
                    raise InfraError(
                        f"the agent at {self.url} answered {response.status}: {answer[:500]}"
                    )
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise InfraError(f"the agent at {self.url} cannot be reached: {error!r}") from error

    async def _litellm(self, episode: Episode, text: str, access: Access, left: float) -> str:
        try:
            import litellm
            from openai import OpenAIError
        except ImportError as error:
            raise CapabilityError(
                "this agent needs litellm: pip install 'm2gym[agents]'"
            ) from error
        messages = [{"role": "user", "content": text}]
        try:
            answer = await litellm.acompletion(
                model=self.url, messages=messages, timeout=left, extra_headers=self.headers or None
            )
        except (OpenAIError, OSError) as error:
            raise InfraError(f"the agent {self.url!r} failed: {error!r}") from error
        return str(answer.choices[0].message.content or "")


def places(episode: Episode, access: Access) -> dict[str, Any]:
    """Where the episode's tools and its model are."""
    found: dict[str, Any] = {"mcp": access.mcp, "deadline": episode.deadline}
    if episode.session is not None:
        found["model"] = {"base_url": access.url, "key": access.secret}
    return found


def message(episode: Episode, access: Access) -> str:
    """What the agent is told."""
    lines = [
        episode.first_observation,
        "",
        "Act only through the tools of this MCP server (streamable HTTP): " + access.mcp,
        "Call its tool `submit` when you are done.",
    ]
    if episode.session is not None:
        lines.append(
            f"For a model, use {access.url}/v1 (OpenAI's protocols) or {access.url} (Anthropic's "
            "and Google's); the address holds your key."
        )
    return "\n".join(lines)


def texts(value: Any) -> list[str]:
    """Every text of an A2A result: messages, task states, artifacts."""
    if isinstance(value, dict):
        if value.get("kind") == "text" and isinstance(value.get("text"), str):
            return [value["text"]]
        return [text for part in value.values() for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return []
