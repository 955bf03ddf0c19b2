"""The table of sessions that a person watches."""

from __future__ import annotations

import io

from rich.console import Console

from m2gym.gateway import view
from m2gym.models.scripted import ScriptedModel
from m2gym.models.session import RecordedSession

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def shown(table) -> str:
    console = Console(width=160, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


async def test_sessions_that_called_with_what_they_used_and_their_last_error(gateway, http):
    session = RecordedSession(ScriptedModel(["one [b]two[/b]"]))
    opened = gateway.add(session, name="fix [red]bug")
    gateway.add(RecordedSession(ScriptedModel(["x"])), name="silent")
    assert "0 sessions" in shown(view.table(gateway.entries()))
    url = opened.url + "/v1/chat/completions"
    await http.post(url, json=CHAT)
    await http.post(url, data=b"{")
    text = shown(view.table(gateway.entries()))
    assert "fix [red]bug" in text
    assert "silent" not in text
    assert "the body is no JSON" in text
    row = view.summary(gateway.entries()[0])
    assert (row["session"], row["calls"], row["turns"], row["refused"]) == ("fix [red]bug", 2, 1, 1)
    assert row["completion_tokens"] == session.usage.completion_tokens > 0


async def test_many_sessions_are_cut_to_those_that_called_last(gateway, http):
    for number in range(view.SHOWN + 3):
        opened = gateway.add(RecordedSession(ScriptedModel(["x"])), name=f"s{number:03d}")
        await http.post(opened.url + "/v1/chat/completions", json=CHAT)
    text = shown(view.table(gateway.entries()))
    assert f"{view.SHOWN + 3} sessions, the last {view.SHOWN} to call" in text
    assert "s022" in text
    assert "s002" not in text
