"""LiteLLM over a real loopback server: names, streams, causes, cost, budgets, limits."""

import contextlib
import warnings

import pytest

from m2gym.backends.retry import Retry
from m2gym.core.errors import BudgetError, ContextError, InputError, ModelError, RateLimitError
from m2gym.core.protocols import ModelRequest, Sampling
from m2gym.core.tools import ToolSchema
from m2gym.models import load_model
from m2gym.models.budget import Budget
from m2gym.models.session import RecordedSession
from tests.backends.server import Upstream, serving

pytest.importorskip("litellm")

from m2gym.backends.litellm_backend import LiteLLMModel

ASK = {"role": "user", "content": "List the files."}
BASH = ToolSchema(name="bash", parameters={"type": "object", "properties": {}})
CALL = 'I look.\n<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydantic", "ignore:Pydantic")


@contextlib.asynccontextmanager
async def session_over(*answers, name="openai/gpt-4o-mini", budget=None, **options):
    async with serving(Upstream(list(answers))) as upstream:
        options.setdefault("retry", Retry(base=0.001))
        model = LiteLLMModel(name, api_base=upstream.url, api_key="k", **options)
        yield RecordedSession(model, budget=budget), upstream


def failure(status, message="no", **headers):
    return status, headers, {"error": {"message": message, "type": "x", "code": None}}


async def test_a_conversation_with_a_tool_its_usage_and_its_cost():
    async with session_over(CALL, "Done.") as (session, upstream):
        asked = ModelRequest([ASK], (BASH,), Sampling(temperature=0.5, stop=("END",)))
        first = await session.complete(asked)
        call = first.message["tool_calls"][0]
        assert (first.finish_reason, call["function"]["name"]) == ("tool_calls", "bash")
        result = {"role": "tool", "tool_call_id": call["id"], "content": "a.py"}
        await session.complete(ModelRequest([ASK, first.message, result], (BASH,)))
        one, two = session.completions
        assert (two.parent, two.messages) == (0, (result,))
        assert one.usage.prompt_tokens > 0
        price = one.usage.prompt_tokens * 0.15e-6 + one.usage.completion_tokens * 0.60e-6
        assert one.usage.cost_usd == pytest.approx(price)
        sent = upstream.requests[0]
        assert (sent["model"], sent["temperature"], sent["stop"]) == ("gpt-4o-mini", 0.5, ["END"])
        assert "top_p" not in sent
        assert upstream.requests[1]["messages"][1]["tool_calls"][0]["id"] == call["id"]


async def test_failures_are_tried_again_as_their_cause_deserves():
    busy = failure(429, **{"Retry-After": "0.01"})
    async with session_over(busy, failure(500), "ok") as (session, upstream):
        assert (await session.complete(ModelRequest([ASK]))).message["content"] == "ok"
        assert upstream.seen == 3


@pytest.mark.parametrize(
    ("said", "kind", "cause", "calls"),
    [
        (failure(401), ModelError, "auth", 1),
        (failure(400, "bad field"), ModelError, "refused", 1),
        (failure(400, "This model's maximum context length is 9"), ContextError, "context", 1),
        (failure(500), ModelError, "server", 6),
        (failure(429), RateLimitError, "rate_limit", 10),
        ("cut", ModelError, "broken", 1),
    ],
)
async def test_what_is_given_up_and_when(said, kind, cause, calls):
    async with session_over(said) as (session, upstream):
        with pytest.raises(kind):
            await session.complete(ModelRequest([ASK]))
        assert session.faults[0].cause == cause
        assert upstream.seen == calls


async def test_a_cost_budget_ends_the_session():
    async with session_over("a", "b", budget=Budget(cost_usd=1e-6)) as (session, upstream):
        first = await session.complete(ModelRequest([ASK]))
        with pytest.raises(BudgetError) as caught:
            await session.complete(ModelRequest([ASK, first.message, ASK]))
        assert caught.value.stop == session.stop == "cost"
        assert upstream.seen == 1


async def test_a_model_without_a_price_says_so_once():
    async with session_over("a", "b", name="openai/unheard-of") as (session, _):
        with pytest.warns(UserWarning, match="no price for openai/unheard-of"):
            got = await session.complete(ModelRequest([ASK]))
        assert got.usage.cost_usd == 0
        with warnings.catch_warnings(record=True) as again:
            warnings.simplefilter("always", UserWarning)
            await session.complete(ModelRequest([ASK]))
        assert not [w for w in again if "no price" in str(w.message)]


async def test_what_a_model_does_not_take_is_left_out_and_said():
    async with session_over("a", name="openai/o3-mini") as (session, upstream):
        asked = ModelRequest(
            [ASK], sampling=Sampling(temperature=0.5, top_p=0.9, top_k=5, max_tokens=9)
        )
        with pytest.warns(UserWarning, match="takes no") as told:
            await session.complete(asked)
        words = " ".join(str(w.message) for w in told)
        assert "takes no top_p" in words
        assert "takes no top_k" in words
        sent = upstream.requests[0]
        assert not {"temperature", "top_p", "top_k"} & sent.keys()
        assert sent.get("max_completion_tokens", sent.get("max_tokens")) == 9


async def test_a_model_without_tools_is_refused_them():
    async with session_over("a") as (session, upstream):
        session.model._takes = frozenset({"temperature"})
        with pytest.raises(ModelError, match="no tools"):
            await session.complete(ModelRequest([ASK], (BASH,)))
        assert upstream.seen == 0


async def test_thinking_goes_back_where_it_is_taken():
    thought = "<think>\nhm\n</think>\n\nyes"
    for given, sent in ((True, "hm"), (None, None)):
        async with session_over(thought, "ok", send_thinking=given) as (session, upstream):
            first = await session.complete(ModelRequest([ASK]))
            assert first.message["reasoning_content"] == "hm"
            await session.complete(ModelRequest([ASK, {**first.message}, ASK]))
            assert upstream.requests[1]["messages"][1].get("reasoning_content") == sent


def test_specifications():
    model = load_model("hosted_vllm/m?api_base=http://h/v1&rpm=5&concurrency=2")
    assert isinstance(model, LiteLLMModel)
    assert (model.provider, model.send_thinking, model.pace.at_once) == ("hosted_vllm", True, 2)
    with pytest.raises(InputError, match="PROVIDER/MODEL"):
        load_model("nonsense")
    with pytest.raises(InputError, match="rpm"):
        load_model("openai/x?rmp=1")


def test_a_missing_key_is_said_before_any_call(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="set OPENAI_API_KEY"):
        load_model("openai/gpt-4o-mini")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert load_model("openai/gpt-4o-mini").provider == "openai"
