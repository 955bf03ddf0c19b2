"""The gateway over real HTTP: who may call, what is refused and how, joins and disconnects."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import aiohttp
import pytest

from m2gym.gateway import Gateway, access, exchange, turns
from m2gym.gateway.fault import Fault
from tests.gateway.clients import events
from tests.gateway.sessions import Say, Talk

USER = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "m", "messages": USER}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "m", "input": "Hi"},
    "/v1/messages": {"model": "m", "messages": USER, "max_tokens": 9},
    "/v1beta/models/m:generateContent": {"contents": [{"parts": [{"text": "Hi"}]}]},
}
STREAMS = {
    "/v1/chat/completions": {**CHAT, "stream": True},
    "/v1/responses": {"model": "m", "input": "Hi", "stream": True},
    "/v1/messages": {**BODIES["/v1/messages"], "stream": True},
    "/v1beta/models/m:streamGenerateContent?alt=sse": BODIES["/v1beta/models/m:generateContent"],
}


async def until(condition: Callable[[], object]) -> None:
    """Wait until something that nobody announces has happened."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def message_of(path: str, body: dict) -> str:
    """The error's words, which every dialect has at the same place; its form is checked."""
    error = body["error"]
    if path == "/v1/messages":
        assert body["type"] == "error"
        assert isinstance(error["type"], str)
    elif path.startswith("/v1beta"):
        assert isinstance(error["code"], int)
        assert error["status"].isupper()
    else:
        assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_each_place_for_a_secret_opens_the_session(gateway, http, path):
    opened = gateway.add(Talk([Say("hello")]))
    places = [
        (path, {"Authorization": f"Bearer {opened.secret}"}),
        (path, {"x-api-key": opened.secret}),
        (path, {"x-goog-api-key": opened.secret}),
        (f"{path}?key={opened.secret}", {}),
        (opened.prefix + path, {"Authorization": "Bearer whatever"}),
    ]
    for place, headers in places:
        async with http.post(gateway.base_url + place, json=BODIES[path], headers=headers) as got:
            assert got.status == 200, await got.text()
            assert "hello" in await got.text()


@pytest.mark.parametrize("path", BODIES)
async def test_missing_wrong_and_ended_secrets_are_refused_in_the_dialects_form(
    gateway, http, path
):
    talk = Talk([Say("x")])
    opened = gateway.add(talk)
    tampered = opened.secret[:-1] + ("A" if opened.secret[-1] != "A" else "B")
    for secret, words in (("", "missing"), ("sk-guess", "no session"), (tampered, "no session")):
        headers = {"x-api-key": secret} if secret else {}
        async with http.post(gateway.base_url + path, json=BODIES[path], headers=headers) as got:
            assert got.status == 401
            assert words in message_of(path, await got.json())
    gateway.remove(opened.secret)
    async with http.post(opened.url + path, json=BODIES[path]) as got:
        assert got.status == 401
        assert "ended" in message_of(path, await got.json())
    assert not talk.requests


@pytest.mark.parametrize(
    ("agent", "status"),
    [("codex_exec/0.169.0", 400), ("claude-cli/2.1.330 (external)", 403), ("OpenAI/Python", 401)],
)
async def test_an_ended_session_ends_the_agent_by_the_status_it_obeys(gateway, http, agent, status):
    opened = gateway.add(Talk([Say("x", error=Fault("ended", "the budget is used up"))]))
    headers = {"User-Agent": agent}
    for _ in range(2):
        async with http.post(
            opened.url + "/v1/chat/completions", json=CHAT, headers=headers
        ) as got:
            assert got.status == status
        gateway.remove(opened.secret)


async def test_a_stop_status_of_its_own(gateway, http):
    ended = Fault("ended", "the budget is used up")
    opened = gateway.add(Talk([Say("x", error=ended)]), stop_status=402)
    async with http.post(opened.url + "/v1/chat/completions", json=CHAT) as got:
        assert got.status == 402
        assert (await got.json())["error"]["code"] == "session_ended"
    gateway.remove(opened.secret)
    async with http.post(opened.url + "/v1/chat/completions", json=CHAT) as got:
        assert got.status == 402


async def test_guessing_is_bounded_and_never_shuts_out_the_right_secret(gateway, http):
    opened = gateway.add(Talk([Say("x")]))
    url = gateway.base_url + "/v1/messages"
    statuses = []
    for _ in range(access.GUESSES + 5):
        async with http.post(url, json={}, headers={"x-api-key": "guess"}) as got:
            statuses.append(got.status)
            if got.status == 429:
                assert int(got.headers["Retry-After"]) >= 1
                assert (await got.json())["error"]["type"] == "rate_limit_error"
    assert statuses == [401] * access.GUESSES + [429] * 5
    async with http.post(
        url, json=BODIES["/v1/messages"], headers={"x-api-key": opened.secret}
    ) as got:
        assert got.status == 200


def test_guess_limit_forgets_after_its_window_and_holds_few_peers():
    now = [0.0]
    limit = access.GuessLimit(lambda: now[0])
    waits = [limit.wrong("a") for _ in range(access.GUESSES + 1)]
    assert waits == [None] * access.GUESSES + [access.WINDOW]
    now[0] = access.WINDOW
    assert limit.wrong("a") is None
    for number in range(access.PEERS * 2):
        limit.wrong(str(number))
    assert len(limit._peers) <= access.PEERS


BAD = {
    b"": "no JSON",
    b"{": "no JSON",
    b'{"model": "\xff\xfe"}': "no JSON",
    b"[1]": "JSON object",
    b"[" * 5000: "no JSON",
    b'{"model": "m", "messages": "x", "input": 5, "contents": "x"}': "expected",
    b'{"model": "m"}': "expected",
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("body", BAD)
async def test_bad_bodies_are_refused_in_the_dialects_form(gateway, http, path, body):
    talk = Talk([Say("still here")])
    opened = gateway.add(talk)
    async with http.post(opened.url + path, data=body) as got:
        assert got.status == 400
        assert BAD[body] in message_of(path, await got.json())
    async with http.post(opened.url + path, json=BODIES[path]) as got:
        assert got.status == 200
    assert len(talk.requests) == 1


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_oversized_body_is_refused(http, path, chunked):
    gateway = Gateway(max_body=1000)
    await gateway.start()
    opened = gateway.add(Talk([Say("x")]))

    async def pieces():
        for _ in range(30):
            yield b" " * 100

    data = pieces() if chunked else b" " * 3000
    async with http.post(opened.url + path, data=data) as got:
        assert got.status == 413
        assert "at most 1000" in message_of(
            path, body := await got.json()
        ) or "more than 1000" in str(body)
    await gateway.stop()


@pytest.mark.parametrize("path", BODIES)
async def test_every_429_says_when_to_come_back(gateway, http, path):
    opened = gateway.add(Talk([Say("x", error=Fault("rate_limit", "slow", retry_after=6.2))]))
    async with http.post(opened.url + path, json=BODIES[path]) as got:
        assert (got.status, got.headers["Retry-After"]) == (429, "7")
    opened = gateway.add(Talk([Say("x", error=Fault("rate_limit", "slow"))]))
    async with http.post(opened.url + path, json=BODIES[path]) as got:
        assert (got.status, got.headers["Retry-After"]) == (429, "2")


@pytest.mark.parametrize("path", STREAMS)
async def test_an_early_failure_of_a_stream_has_its_status(gateway, http, path):
    opened = gateway.add(Talk([Say("x", error=Fault("rate_limit", "slow"))]))
    async with http.post(opened.url + path, json=STREAMS[path]) as got:
        assert got.status == 429


@pytest.mark.parametrize("path", STREAMS)
async def test_headers_come_at_once_and_life_signs_where_they_are_allowed(
    gateway, http, path, monkeypatch
):
    monkeypatch.setattr(exchange, "PING", 0.05)
    talk = Talk([Say("hello")], gate=asyncio.Event())
    opened = gateway.add(talk)
    async with http.post(opened.url + path, json=STREAMS[path]) as got:
        assert got.status == 200
        assert got.headers["Content-Type"] == "text/event-stream"
        if "v1beta" not in path:
            async with asyncio.timeout(5):
                while b"ping" not in await got.content.readany():
                    pass
        else:
            await asyncio.sleep(0.2)
        talk.gate.set()
        rest = await got.content.read()
        assert b"hell" in rest
        if "v1beta" in path:
            assert all(line.startswith(b"data: ") for line in rest.split(b"\n\n") if line)


@pytest.mark.parametrize("path", STREAMS)
async def test_the_first_piece_is_not_held_back(gateway, http, path):
    opened = gateway.add(Talk([Say("first" + "x" * 10, step=5, pause=3600.0)]))
    async with (
        http.post(opened.url + path, json=STREAMS[path]) as got,
        asyncio.timeout(10),
    ):
        raw = b""
        while b"first" not in raw:
            raw += await got.content.readany()


async def test_a_repeat_joins_the_running_turn_in_either_form(gateway, http):
    talk = Talk([Say("one answer")], gate=asyncio.Event())
    url = gateway.add(talk).url + "/v1/chat/completions"

    async def ask(stream: bool) -> str:
        async with http.post(url, json={**CHAT, "stream": stream}) as got:
            if not stream:
                return (await got.json())["choices"][0]["message"]["content"]
            pieces = events(await got.read())
            return "".join(p["choices"][0]["delta"].get("content", "") for p in pieces)

    asked = [asyncio.create_task(ask(stream)) for stream in (True, False, True)]
    await until(lambda: talk.requests and gateway.entries()[0].running == 3)
    await asyncio.sleep(0.05)
    talk.gate.set()
    assert await asyncio.gather(*asked) == ["one answer"] * 3
    assert len(talk.requests) == 1
    assert await ask(False) == "one answer"
    assert len(talk.requests) == 2


async def test_a_retry_after_a_lost_connection_gets_the_same_turn(gateway, http):
    talk = Talk([Say("one answer")], gate=asyncio.Event())
    url = gateway.add(talk).url + "/v1/chat/completions"
    with pytest.raises(asyncio.TimeoutError):
        await http.post(url, json=CHAT, timeout=aiohttp.ClientTimeout(0.2))
    await until(lambda: not gateway.entries()[0].running)
    talk.gate.set()
    await until(lambda: talk.completions)
    async with http.post(url, json=CHAT) as got:
        assert (await got.json())["choices"][0]["message"]["content"] == "one answer"
    assert len(talk.requests) == 1


async def test_a_turn_that_nobody_waits_for_is_cancelled(gateway, http, monkeypatch):
    monkeypatch.setattr(turns, "GRACE", 0.05)
    talk = Talk([Say("never")], gate=asyncio.Event())
    url = gateway.add(talk).url + "/v1/chat/completions"
    with pytest.raises(asyncio.TimeoutError):
        await http.post(url, json=CHAT, timeout=aiohttp.ClientTimeout(0.2))
    await until(lambda: talk.cancelled)
    assert not talk.completions
    talk.gate.set()
    async with http.post(url, json=CHAT) as got:
        assert got.status == 200


async def test_removing_a_session_ends_its_running_calls(gateway, http):
    talk = Talk([Say("never")], gate=asyncio.Event())
    opened = gateway.add(talk)
    asked = asyncio.create_task(http.post(opened.url + "/v1/chat/completions", json=CHAT))
    await until(lambda: talk.requests)
    gateway.remove(opened.secret)
    got = await asked
    assert got.status == 401
    assert "cancelled" in (await got.json())["error"]["message"]
    assert talk.cancelled == 1


async def test_a_handed_out_socket_is_its_session_whatever_key_comes(gateway, http):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        opened = await gateway.serve_socket(sock, Talk([Say("from the box")]))
        port = sock.getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1/messages"
        async with http.post(
            url, json=BODIES["/v1/messages"], headers={"x-api-key": "none"}
        ) as got:
            assert (await got.json())["content"][0]["text"] == "from the box"
        await gateway.remove_socket(opened)
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post(url, json=BODIES["/v1/messages"])


async def test_models_may_be_named(gateway, http):
    opened = gateway.add(Talk([Say("x")]), models=["m", "n"])
    async with http.get(opened.url + "/v1/models") as got:
        assert [m["id"] for m in (await got.json())["data"]] == ["m", "n"]
    for path, body in BODIES.items():
        other = json.loads(json.dumps(body).replace('"m"', '"other"'))
        place = path.replace("models/m:", "models/other:")
        async with http.post(opened.url + place, json=other) as got:
            assert got.status == 404
            assert "known: m, n" in message_of(path, await got.json())


async def test_hosted_tools_pass_where_granted_or_beside_the_agents_own(gateway, http):
    own = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    hosted = {"type": "web_search"}
    ask = {"model": "m", "input": "Hi"}
    refused = gateway.add(Talk([Say("x")]))
    granted = gateway.add(Talk([Say("x")]), granted=["web_search"])
    cases = [
        (refused, {"tools": [hosted]}, 400),
        (refused, {"tools": [own, hosted]}, 200),
        (refused, {"tools": [own, hosted], "tool_choice": {"type": "web_search"}}, 400),
        (granted, {"tools": [hosted]}, 200),
    ]
    for opened, fields, status in cases:
        async with http.post(opened.url + "/v1/responses", json={**ask, **fields}) as got:
            assert got.status == status


async def test_small_questions_of_agents(gateway, http):
    async with http.head(gateway.base_url + "/api/hello") as got:
        assert got.status == 200
    async with http.get(
        gateway.base_url + "/v1/responses", headers={"Upgrade": "websocket"}
    ) as got:
        assert got.status == 426
    opened = gateway.add(Talk([Say("x")]))
    async with http.get(opened.url + "/v1/nothing") as got:
        assert got.status == 404
        assert "/v1/nothing" in (await got.json())["error"]["message"]


async def test_gemini_streams_a_json_array_where_events_are_not_asked_for(gateway, http):
    opened = gateway.add(Talk([Say("some words", calls=(("c", "f", "{}"),))]))
    path = "/v1beta/models/m:streamGenerateContent"
    async with http.post(opened.url + path, json={"contents": {"parts": {"text": "Hi"}}}) as got:
        chunks = await got.json()
    parts = [p for c in chunks for p in c["candidates"][0]["content"]["parts"]]
    assert "".join(p.get("text", "") for p in parts) == "some words"
    assert parts[-1]["functionCall"]["name"] == "f"


async def test_a_bug_in_a_model_is_an_internal_error_without_its_words(gateway, http):
    opened = gateway.add(Talk([Say("x", error=KeyError("a secret detail"))]))
    async with http.post(opened.url + "/v1/messages", json=BODIES["/v1/messages"]) as got:
        assert got.status == 500
        text = await got.text()
    assert "KeyError" in text
    assert "secret detail" not in text


async def test_whoever_watches_hears_of_every_request(http):
    seen = []
    gateway = Gateway(watch=seen.append)
    await gateway.start()
    opened = gateway.add(Talk([Say("x", usage=(3, 4))]))
    await http.post(opened.url + "/v1/messages", json=BODIES["/v1/messages"])
    await http.post(opened.url + "/v1/messages", data=b"{")
    never = gateway.add(Talk([Say("x")], gate=asyncio.Event()))
    with pytest.raises(asyncio.TimeoutError):
        await http.post(
            never.url + "/v1/messages",
            json=BODIES["/v1/messages"],
            timeout=aiohttp.ClientTimeout(0.2),
        )
    await until(lambda: len(seen) == 3)
    await gateway.stop()
    assert [(o.dialect, o.status, o.usage) for o in seen] == [
        ("messages", 200, (3, 4)),
        ("messages", 400, (0, 0)),
        ("messages", 499, (0, 0)),
    ]


async def test_a_name_behind_the_secret_is_a_session_of_its_own(gateway, http):
    made = {}

    def branch(name):
        made[name] = Talk([Say(f"I am {name}")])
        return made[name]

    main = Talk([Say("I am main")])
    opened = gateway.add(main, branch=branch)
    for name in ("", "a", "b", "a"):
        key = f"{opened.secret}.{name}" if name else opened.secret
        headers = {"Authorization": f"Bearer {key}"}
        async with http.post(
            gateway.base_url + "/v1/chat/completions", json=CHAT, headers=headers
        ) as got:
            said = (await got.json())["choices"][0]["message"]["content"]
            assert said == f"I am {name or 'main'}"
    assert {name: len(talk.requests) for name, talk in made.items()} == {"a": 2, "b": 1}
    for bad, status in ((f"{opened.secret}.a/b", 404), (f"{opened.secret}x.a", 401)):
        async with http.post(f"{gateway.base_url}/s/{bad}/v1/messages", json={}) as got:
            assert got.status == status
    plain = gateway.add(Talk([Say("x")]))
    async with http.post(f"{plain.url}.a/v1/messages", json={}) as got:
        assert got.status == 401
    made["a"].gate = asyncio.Event()
    chats = f"{opened.url}.a/v1/chat/completions"
    asked = asyncio.create_task(http.post(chats, json=CHAT))
    await until(lambda: len(made["a"].requests) == 3)
    gateway.remove(opened.secret)
    assert (await asked).status == 401
    assert made["a"].cancelled == 1
    async with http.post(chats, json=CHAT) as got:
        assert "ended" in (await got.json())["error"]["message"]
