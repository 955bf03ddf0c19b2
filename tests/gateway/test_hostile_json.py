"""Whatever JSON comes, a dialect reads it or says what is wrong with it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.gateway import chat, gemini, messages, responses
from m2gym.gateway.call import Call
from m2gym.gateway.fault import Fault
from m2gym.gateway.opaque import seal, unseal


def words(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split())


KEYS = (
    "model messages input contents content role parts text type tools tool_choice function name "
    "tool_calls id arguments custom system thinking signature tool_use_id stream temperature "
    "max_tokens stop reasoning summary encrypted_content call_id output functionCall args "
    "functionResponse response thoughtSignature generationConfig systemInstruction image_url "
    "source data parameters namespace stream_options thinkingConfig toolConfig format"
)
WORDS = (
    "user assistant tool system model text image tool_use tool_result thinking function custom "
    "namespace reasoning message function_call function_call_output auto any input_text m"
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words(WORDS), st.text())
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(words(KEYS), inner, max_size=5)
    ),
    max_leaves=30,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(words(KEYS), JSON, max_size=6),
    st.sampled_from([chat, responses, messages, gemini]),
)
def test_any_object_is_read_or_refused(body, dialect):
    body.setdefault("model", "m")
    try:
        call: Call = dialect.parse(body, "m", False)
    except Fault as refused:
        kind = refused.kind
    else:
        kind = "invalid"
        roles = {message["role"] for message in call.request.messages}
        assert roles <= {"system", "user", "assistant", "tool"}
    assert kind == "invalid"


@given(st.text(), st.text(max_size=20))
def test_what_is_sealed_comes_back(thinking, call_id):
    sealed = seal(thinking=thinking, call_id=call_id)
    assert unseal(sealed) == unseal(sealed.replace("+", "-").replace("/", "_"))
    assert unseal(sealed).thinking == thinking
    assert unseal(sealed).call_id == call_id


@given(st.one_of(st.text(), st.none(), st.integers()))
def test_a_foreign_signature_holds_nothing(signature):
    assert unseal(signature) is None
