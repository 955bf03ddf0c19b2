"""``openai-compatible:URL#NAME``: servers that speak OpenAI's protocol."""

from __future__ import annotations

from typing import Any, Literal, cast
from urllib.parse import urlsplit, urlunsplit

from m2gym.backends.openai_chat import OpenAIChatModel, Tokens
from m2gym.backends.openai_client import TIMEOUT, Client
from m2gym.backends.openai_engine import OpenAIEngine, Server
from m2gym.backends.options import count, positive, read_options
from m2gym.backends.pace import Pace
from m2gym.core.errors import InputError
from m2gym.core.protocols import Model


def _one_of(*known: str) -> Any:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"expected {' or '.join(known)}, got {text!r}")
        return text

    return read


OPTIONS = {
    "tokenizer": str,
    "format": str,
    "thinking": _one_of("all", "last"),
    "server": _one_of("vllm", "sglang"),
    "tokens": _one_of("auto", "require", "off"),
    "context": count,
    "timeout": positive,
    "rpm": positive,
    "tpm": positive,
    "concurrency": count,
}


class OpenAICompatible:
    """``openai-compatible:URL#NAME``: vLLM, SGLang and other servers of OpenAI's protocol.

    Options stand in the URL's query: ``tokenizer`` (a folder: prompts become token ids here, exact
    to the token), ``format`` (its chat format, else told by its tokens), ``thinking`` (``all`` kept
    in the history, or only the ``last`` turns'), ``server`` (``vllm``, ``sglang``), ``tokens``
    (``auto``, ``require``, ``off``), ``context``, ``timeout``, ``rpm`` and ``tpm`` (requests and
    tokens a minute), ``concurrency``.
    """

    def model(self, spec: str) -> Model:
        """The model of a specification; nothing is called yet."""
        parts = urlsplit(spec)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"expected openai-compatible:http://HOST:PORT/v1#NAME, got {spec!r}")
        options = read_options(parts.query, OPTIONS)
        url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        client = Client(url, timeout=options.get("timeout", TIMEOUT))
        pace = Pace(options.get("rpm"), options.get("tpm"), options.get("concurrency"))
        name = parts.fragment or None
        if "tokenizer" in options:
            return _token_model(client, name, options, pace)
        alone = {"format", "thinking", "server", "context"} & options.keys()
        if alone:
            raise InputError(f"{', '.join(sorted(alone))}: only together with tokenizer=FOLDER")
        tokens = cast("Tokens", options.get("tokens", "auto"))
        return OpenAIChatModel(client, name, tokens=tokens, pace=pace)


def _token_model(client: Client, name: str | None, options: dict[str, Any], pace: Pace) -> Model:
    from m2gym.models.formats import guess_format, load_format
    from m2gym.models.token_model import TokenModel
    from m2gym.models.tokenizer import HfTokenizer

    tokenizer = HfTokenizer.load(options["tokenizer"])
    keep: dict[str, bool] = {"keep_thinking": options.get("thinking", "all") == "all"}
    if "format" in options:
        form = load_format(options["format"], tokenizer, **keep)
    else:
        form = guess_format(tokenizer, **keep)
    server: Literal["vllm", "sglang"] = cast("Server", options.get("server", "vllm"))
    engine = OpenAIEngine(client, name, server=server, stop_ids=form.stop_ids, pace=pace)
    return TokenModel(engine, form, name=name or client.base_url, context=options.get("context"))
