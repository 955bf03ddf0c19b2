"""A self-hosted server over real HTTP: streams, ids, retries, refusals."""

import asyncio
import contextlib

import pytest

from m2gym.backends.openai_chat import OpenAIChatModel
from m2gym.backends.openai_client import Client
from m2gym.backends.openai_engine import OpenAIEngine
from m2gym.backends.retry import Retry
from m2gym.core.errors import ContextError, InputError, ModelError, RateLimitError
from m2gym.core.protocols import ModelRequest, Sampling
from m2gym.core.tools import ToolSchema
from m2gym.models import load_model
from m2gym.models.session import RecordedSession
from m2gym.models.token_model import TokenModel
from m2gym.models.tokens import full_prompt, held
from tests.backends.server import FORM, Upstream, serving

pytest.importorskip("openai")

ASK = {"role": "user", "content": "List the files."}
BASH = ToolSchema(name="bash")
CALL = 'I look.\n<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
QUICK = Retry(base=0.001)


@contextlib.asynccontextmanager
async def chat(*answers, **options):
    """A session over a server that says ``answers``."""
    fields = {k: options.pop(k) for k in ("ids", "spelt_ids", "rewrite", "models") if k in options}
    async with serving(Upstream(list(answers), **fields)) as upstream:
        options.setdefault("retry", QUICK)
        model = OpenAIChatModel(Client(upstream.url), options.pop("name", "tiny"), **options)
        yield RecordedSession(model), upstream
        await model.client.close()


async def test_a_streamed_turn_with_a_call_and_the_next_one():
    async with chat(CALL, "Done.") as (session, upstream):
        texts, calls = [], []
        async for delta in session.stream(ModelRequest([ASK], (BASH,))):
            texts.append(delta.text)
            if delta.tool_call:
                calls.append(delta.tool_call)
        first = session.completions[0]
        assert "".join(texts) == first.message["content"] == "I look."
        assert calls[0].name == "bash"
        assert "".join(c.arguments for c in calls) == '{"command": "ls"}'
        assert first.finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": calls[0].id, "content": "a.py"}
        await session.complete(ModelRequest([ASK, first.message, result], (BASH,)))
        one, two = session.completions
        assert one.response_ids == (*FORM.spell(CALL), FORM.end_id)
        assert one.logprobs == (-0.25,) * len(one.response_ids)
        assert one.usage.prompt_tokens == len(one.prompt_ids)
        assert (two.parent, two.drift) == (0, 0)
        whole = full_prompt(session.completions, 1)
        assert whole[: len(held(session.completions, 0))] == held(session.completions, 0)
        assert two.usage.prompt_tokens == len(whole)
        sent = upstream.requests[0]
        assert sent["return_token_ids"]
        assert sent["logprobs"]
        assert sent["temperature"] == 1.0


async def test_a_server_that_rewrites_the_history_is_a_root_with_drift():
    async with chat("one", "two", rewrite=True) as (session, _):
        first = await session.complete(ModelRequest([ASK]))
        await session.complete(ModelRequest([ASK, first.message, ASK]))
        two = session.completions[1]
        assert two.parent is None
        assert two.drift > 0
        assert session.counts.drift_tokens == two.drift
        assert len(two.messages) == 3


async def test_ids_spelt_in_logprobs_serve_where_there_are_no_others():
    async with chat("one", ids=False, spelt_ids=True) as (session, _):
        got = await session.complete(ModelRequest([ASK]))
        assert got.response_ids == ()
        assert got.usage.completion_tokens == 4


@pytest.mark.parametrize("tokens", ["auto", "off"])
async def test_a_server_without_ids_leaves_messages(tokens):
    async with chat("one", "two", ids=False, tokens=tokens) as (session, upstream):
        first = await session.complete(ModelRequest([ASK]))
        await session.complete(ModelRequest([ASK, first.message, ASK]))
        assert session.completions[1].parent == 0
        assert session.completions[1].messages == (ASK,)
        assert ("return_token_ids" in upstream.requests[0]) is (tokens == "auto")


async def test_required_ids_that_are_lacking_are_an_error():
    async with chat("one", ids=False, tokens="require") as (session, _):
        with pytest.raises(ModelError, match="0 prompt ids"):
            await session.complete(ModelRequest([ASK]))
        assert session.faults[0].cause == "refused"


def failure(status, message="no", **headers):
    return status, headers, {"error": {"message": message, "type": "x", "code": None}}


async def test_failures_are_tried_again_as_their_cause_deserves():
    busy = failure(429, **{"Retry-After": "0.01"})
    async with chat(busy, failure(500), failure(503), "ok") as (session, upstream):
        got = await session.complete(ModelRequest([ASK]))
        assert got.message["content"] == "ok"
        assert upstream.seen == 4
        assert not session.faults


@pytest.mark.parametrize(
    ("said", "kind", "cause", "calls"),
    [
        (failure(401), ModelError, "auth", 1),
        (failure(400, "bad field"), ModelError, "refused", 1),
        (failure(400, "maximum context length is 10 tokens"), ContextError, "context", 1),
        (failure(500), ModelError, "server", 6),
        (failure(429), RateLimitError, "rate_limit", 10),
        (failure(429, "insufficient_quota"), ModelError, "auth", 1),
        ("cut", ModelError, "broken", 1),
    ],
)
async def test_what_is_given_up_and_when(said, kind, cause, calls):
    async with chat(said) as (session, upstream):
        with pytest.raises(kind):
            await session.complete(ModelRequest([ASK]))
        assert session.faults[0].cause == cause
        assert upstream.seen == calls
        assert not session.completions


async def test_a_server_that_hangs_and_one_that_is_not_there():
    async with serving(Upstream(["hang"])) as upstream:
        client = Client(upstream.url, timeout=0.2)
        slow = OpenAIChatModel(client, "tiny", retry=Retry(tries={}, base=0.001))
        with pytest.raises(ModelError, match="did not answer") as caught:
            await RecordedSession(slow).complete(ModelRequest([ASK]))
        assert caught.value.cause == "timeout"
        gone = OpenAIChatModel(Client("http://127.0.0.1:9/v1"), "tiny", retry=Retry(tries={}))
        with pytest.raises(ModelError, match="cannot reach") as caught:
            await RecordedSession(gone).complete(ModelRequest([ASK]))
        assert caught.value.cause == "network"


async def test_a_cancelled_call_is_recorded_and_the_session_goes_on():
    async with chat("hang", "ok") as (session, _):
        task = asyncio.create_task(session.complete(ModelRequest([ASK])))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [f.cause for f in session.faults] == ["cancelled"]
        assert (await session.complete(ModelRequest([ASK]))).message["content"] == "ok"


async def test_the_only_model_needs_no_name():
    async with chat("ok", name=None) as (session, upstream):
        await session.complete(ModelRequest([ASK]))
        assert upstream.requests[0]["model"] == "tiny"
    async with chat("ok", name=None, models=("a", "b")) as (session, _):
        with pytest.raises(InputError, match="serves a, b"):
            await session.complete(ModelRequest([ASK]))


@pytest.mark.parametrize("server", ["vllm", "sglang"])
async def test_token_mode_is_exact_whatever_the_server_does(server):
    async with serving(Upstream([CALL, "Done."])) as upstream:
        engine = OpenAIEngine(
            Client(upstream.url), "tiny", server=server, stop_ids=FORM.stop_ids, retry=QUICK
        )
        session = RecordedSession(TokenModel(engine, FORM))
        first = await session.complete(ModelRequest([ASK], (BASH,)))
        id = first.message["tool_calls"][0]["id"]
        result = {"role": "tool", "tool_call_id": id, "content": "a.py"}
        shown = {**first.message, "content": [{"type": "text", "text": "I look."}]}
        await session.complete(ModelRequest([ASK, shown, result], (BASH,)))
        field = "prompt" if server == "vllm" else "input_ids"
        assert upstream.requests[1][field] == full_prompt(session.completions, 1)
        assert upstream.requests[1][field][: len(held(session.completions, 0))] == held(
            session.completions, 0
        )
        assert session.completions[0].logprobs[0] == (-0.5 if server == "vllm" else -0.75)
        assert session.counts.drifted == 0


async def test_token_mode_retries_and_refuses():
    async with serving(Upstream([failure(500), "ok", failure(400, "context length")])) as upstream:
        engine = OpenAIEngine(Client(upstream.url), None, retry=QUICK)
        session = RecordedSession(TokenModel(engine, FORM))
        got = await session.complete(ModelRequest([ASK], sampling=Sampling(max_tokens=1)))
        assert (got.message["content"], got.finish_reason) == ("o", "length")
        with pytest.raises(ContextError):
            await session.complete(ModelRequest([ASK]))
        upstream.ids, upstream.answers, upstream.seen = False, ["ok"], 0
        with pytest.raises(ModelError, match="no token_ids"):
            await session.complete(ModelRequest([ASK]))


def test_specifications(tmp_path):
    model = load_model("openai-compatible:http://h:8000/v1?rpm=60&tokens=require#x/y")
    assert isinstance(model, OpenAIChatModel)
    assert (model.name, model.client.base_url) == ("x/y", "http://h:8000/v1")
    assert model.pace.requests_per_minute == 60
    for spec, words in [
        ("localhost:8000", "http://HOST"),
        ("http://h/v1?rmp=1", "rpm"),
        ("http://h/v1?rpm=0", "above zero"),
        ("http://h/v1?server=sglang", "only together with tokenizer"),
        ("http://h/v1?tokens=maybe", "auto or require or off"),
        (f"http://h/v1?tokenizer={tmp_path}/none", "tokenizer.json"),
    ]:
        with pytest.raises(InputError, match=words):
            load_model(f"openai-compatible:{spec}")


def test_a_tokenizer_in_the_specification_makes_it_token_exact(tmp_path):
    from m2gym.models.chatml import MARKS
    from tests.models.tokenizers_for_tests import small_tokenizer

    small_tokenizer(*MARKS).tokenizer.save_pretrained(tmp_path)
    model = load_model(f"openai-compatible:http://h/v1?tokenizer={tmp_path}&context=99#n")
    assert isinstance(model, TokenModel)
    assert model.context == 99
    assert model.engine.stop_ids == model.format.stop_ids
