"""What a request repeats is not read again, and every request is read as if it were."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2gym.gateway import repeats
from m2gym.gateway.fault import Fault
from m2gym.gateway.repeats import Repeats
from m2gym.gateway.routes import route
from m2gym.gateway.wire import parse_body
from tests.gateway.clients import CLIENTS, ChatClient, MessagesClient
from tests.gateway.sessions import Say

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}
LISTS = {"chat": "messages", "responses": "input", "messages": "messages", "gemini": "contents"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def where(dialect: str):
    return route("POST", PATHS[dialect])


def outcome(read):
    """The call, or what is said instead."""
    try:
        return read()
    except Fault as fault:
        return fault.kind, fault.message


def check(kept: Repeats, body: bytes, dialect: str):
    """Read both ways; the same comes."""
    at = where(dialect)
    seen = outcome(lambda: kept.read(body, at))
    whole = outcome(lambda: at.dialect.parse(parse_body(body), at.model, at.stream))
    assert seen == whole
    return seen


@st.composite
def conversation(draw: st.DrawFn):
    """Bodies of one client, and changes of its history on the way."""
    make = draw(st.sampled_from(CLIENTS))
    client = make(draw(TEXT) or "s")
    client.say("begin")
    bodies = [client.body()]
    for turn in range(draw(st.integers(1, 5))):
        calls = tuple(
            (f"c{turn}_{n}", "look", '{"x": "1"}') for n in range(draw(st.integers(0, 2)))
        )
        say = Say(draw(TEXT), thinking=draw(TEXT), calls=calls)
        client.ask(say, stream=draw(st.booleans()))
        if calls:
            client.results([(id, name, draw(TEXT)) for id, name, _ in calls])
        else:
            client.say(draw(TEXT))
        history = client.history
        change = draw(st.sampled_from(["none"] * 4 + ["drop", "edit", "marks", "swap", "again"]))
        at = draw(st.integers(0, len(history) - 1))
        if change == "drop":
            del history[at:]
            client.say("once more")
        elif change == "edit":
            history[at] = {"role": "user", **({"parts": [{"text": "x"}]} if "parts" in history[at]
                                              else {"content": "x"})}  # fmt: skip
        elif change == "marks":
            for item in history:
                item.pop("cache_control", None)
            history[at] = {**history[at], "cache_control": {"type": "ephemeral"}}
        elif change == "swap" and len(history) > 1:
            history[-1], history[-2] = history[-2], history[-1]
        elif change == "again":
            bodies.append(bodies[-1])
        bodies.append(json.loads(json.dumps(client.body())))
    return make.dialect.name, bodies


@settings(max_examples=300, deadline=None)
@given(conversation(), st.data())
def test_any_conversation_is_read_as_if_whole(talk, data):
    dialect, bodies = talk
    kept = Repeats(small=0)
    for value in bodies:
        form = data.draw(st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}]))
        text = json.dumps(value, ensure_ascii=data.draw(st.booleans()), **form)
        check(kept, text.encode(), dialect)


@settings(max_examples=300, deadline=None)
@given(conversation(), st.data())
def test_any_damage_is_seen_as_if_whole(talk, data):
    dialect, bodies = talk
    kept = Repeats(small=0)
    for value in bodies:
        body = bytearray(json.dumps(value).encode())
        check(kept, bytes(body), dialect)
        begin = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(begin, min(len(body), begin + 9)))
        body[begin:end] = data.draw(
            st.sampled_from([b"", b",", b"]", b"}", b"\xff", b" ", b'"', b"{}", b"1", b",]", b"\\"])
        )
        check(kept, bytes(body), dialect)


def long_chat(turns: int) -> ChatClient:
    client = ChatClient("s")
    for number in range(turns):
        client.say(f"question {number}")
        client.ask(Say(f"answer {number}"), stream=False)
    client.say("last")
    return client


def reads(kept: Repeats, body: bytes, dialect: str, monkeypatch) -> int:
    """Bytes that were parsed for a body."""
    parsed = []
    loads = repeats.orjson.loads

    class Counting:
        JSONDecodeError = repeats.orjson.JSONDecodeError

        @staticmethod
        def loads(text):
            parsed.append(len(text))
            return loads(text)

    with monkeypatch.context() as patch:
        patch.setattr(repeats, "orjson", Counting)
        patch.setattr(repeats, "parse_body", lambda text: Counting.loads(text))
        kept.read(body, where(dialect))
    return sum(parsed)


def test_only_what_is_new_is_parsed(monkeypatch):
    kept = Repeats(small=0)
    client = long_chat(200)
    first = json.dumps(client.body()).encode()
    assert reads(kept, first, "chat", monkeypatch) == len(first)
    client.ask(Say("more"), stream=False)
    client.say("and more")
    second = json.dumps(client.body()).encode()
    assert reads(kept, second, "chat", monkeypatch) < 1000
    assert reads(kept, second, "chat", monkeypatch) < 1000


def test_moving_cache_marks_cost_the_marked_messages_only(monkeypatch):
    kept = Repeats(small=0)
    client = MessagesClient("s")
    costs = []
    for number in range(60):
        client.say(f"question {number} " * 10)
        for item in client.history:
            if isinstance(item["content"], list):
                item["content"][-1].pop("cache_control", None)
        text = client.history[-1]["content"]
        block = text[-1] if isinstance(text, list) else {"type": "text", "text": text}
        client.history[-1]["content"] = [{**block, "cache_control": {"type": "ephemeral"}}]
        body = json.dumps(client.body()).encode()
        costs.append(reads(kept, body, "messages", monkeypatch))
        client.ask(Say("yes"), stream=False)
    assert costs[-1] < costs[2] + 50
    assert len(kept._kept) <= 2


def test_the_messages_of_a_repeated_history_are_the_same_objects():
    kept = Repeats(small=0)
    client = long_chat(3)
    first = kept.read(json.dumps(client.body()).encode(), where("chat")).request.messages
    client.ask(Say("more"), stream=False)
    second = kept.read(json.dumps(client.body()).encode(), where("chat")).request.messages
    assert all(a is b for a, b in zip(first, second, strict=False))


def test_a_key_that_stands_there_twice_counts_where_json_has_it_count():
    kept = Repeats(small=0)
    say = '{"role":"user","content":"%s"}'
    one = '{"model":"m","messages":[%s]' % (say % "a")
    check(kept, (one + "}").encode(), "chat")
    for more in (',"messages":[%s]}' % (say % "b"), ',"mess\\u0061ges":[%s]}' % (say % "c")):
        call = check(kept, (one + more).encode(), "chat")
        assert call.request.messages[0]["content"] in ("b", "c")
    call = check(kept, (one[:-1] + "," + say % "z" + "]}").encode(), "chat")
    assert [m["content"] for m in call.request.messages] == ["a", "z"]


@pytest.mark.parametrize("make", CLIENTS)
def test_sub_agents_do_not_push_the_main_line_out(make, monkeypatch):
    kept = Repeats(small=0)
    name = make.dialect.name
    main = make("main")
    costs = []
    for number in range(30):
        main.say(f"question {number} " * 20)
        costs.append(reads(kept, json.dumps(main.body()).encode(), name, monkeypatch))
        main.ask(Say("yes"), stream=False)
        for helper in ("title", "sub-agent"):
            other = make(helper)
            other.say(f"do {number} " * 20)
            check(kept, json.dumps(other.body()).encode(), name)
    assert max(costs[2:]) < costs[0] * 2
    assert len(kept._kept) <= repeats.KEPT


def test_a_body_deeper_than_pythons_scanner_takes_is_read_all_the_same():
    kept = Repeats(small=0)
    deep = "[" * 1000 + "]" * 1000
    said = '"messages":[{"role":"user","content":"a"}]'
    body = '{"x":' + deep + ',"model":"m",' + said + "}"
    for _ in range(2):
        assert check(kept, body.encode(), "chat").request.messages[0]["content"] == "a"
