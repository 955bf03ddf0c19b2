"""``m2gym serve`` as a user meets it: a process, its lines, and programs that call it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import aiohttp
import pytest
from mcp import Client

from m2gym.cli.serve import _Serve
from tests.envs import tiny

SCRIPT = """
turns:
  - {text: Hello., thinking: hm}
  - {text: Again.}
"""
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def served(tmp_path):
    (tmp_path / "script.yaml").write_text(SCRIPT)
    processes = []

    def start(*options: str):
        command = [sys.executable, "-m", "m2gym", "serve", "--port", "0", "--json", *options]
        command += [
            "--model",
            f"scripted:{tmp_path / 'script.yaml'}",
            "--out",
            str(tmp_path / "out"),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process, json.loads(process.stdout.readline())

    yield start
    for process in processes:
        process.kill()
        process.wait()


async def ask(url: str, key: str, body: dict) -> tuple[int, dict]:
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        http.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as got,
    ):
        return got.status, await got.json()


async def test_serves_records_and_tells_until_it_is_interrupted(served, tmp_path):
    process, ready = served()
    url = ready["base_url"] + "/v1/chat/completions"
    status, made = await ask(url, ready["secret"], CHAT)
    assert (status, made["choices"][0]["message"]["content"]) == (200, "Hello.")
    status, _ = await ask(url, ready["secret"] + ".other", CHAT)
    assert status == 200
    status, _ = await ask(url, "sk-wrong", CHAT)
    assert status == 401
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines] == ["request", "request", "session", "session"]
    assert [(line["session"], line["turns"]) for line in lines[2:]] == [("main", 1), ("other", 1)]
    for name in ("main", "other"):
        recorded = json.loads((tmp_path / "out" / f"{name}.jsonl").read_text())
        assert recorded["message"] == {
            "role": "assistant", "content": "Hello.", "reasoning_content": "hm",
        }  # fmt: skip


async def test_a_budget_ends_each_session_by_itself(served):
    _, ready = served("--max-tokens", "1", "--quiet")
    url = ready["base_url"] + "/v1/chat/completions"
    for name in ("a", "b"):
        key = f"{ready['secret']}.{name}"
        assert (await ask(url, key, CHAT))[0] == 200
        status, refused = await ask(url, key, CHAT)
        assert (status, refused["error"]["code"]) == (401, "session_ended")


def test_what_cannot_be_served_is_one_clear_line(tmp_path):
    for options, words in (([], "--model SPEC"), (["--model", "scripted:/no/file"], "/no/file")):
        command = [sys.executable, "-m", "m2gym", "serve", *options]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        assert out.returncode == 1
        assert words in out.stderr
        assert len(out.stderr.splitlines()) == 1


@pytest.mark.usefixtures("bwrap")
async def test_an_episode_over_mcp_ends_with_its_verdict(capsys):
    env = tiny.register("tiny-serve")
    command = _Serve(None, env, "t1", "127.0.0.1", 0, [], None, "auto", json=True, quiet=True)
    running = asyncio.create_task(command.run())
    lines: list[str] = []
    async with asyncio.timeout(60):
        while not lines:
            await asyncio.sleep(0.05)
            lines = capsys.readouterr().out.splitlines()
    ready = json.loads(lines[0])
    assert ready["task"] == "t1"
    async with Client(ready["mcp"]) as client:
        await client.call_tool("bash", {"command": "echo hi > out.txt"})
        await client.call_tool("submit", {})
    await running
    verdict = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (verdict["event"], verdict["reward"]) == ("verdict", 1.0)


def test_a_person_is_told_how_to_call_and_what_was_used(tmp_path):
    (tmp_path / "script.yaml").write_text(SCRIPT)
    command = [sys.executable, "-m", "m2gym", "serve", "--port", "0"]
    command += ["--model", f"scripted:{tmp_path / 'script.yaml'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        told = [process.stderr.readline() for _ in range(5)]
        values = dict(word.split("=", 1) for word in told[1].split())
        url = values["OPENAI_BASE_URL"] + "/chat/completions"
        assert asyncio.run(ask(url, values["OPENAI_API_KEY"], CHAT))[0] == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert "1 sessions" in out
    assert "main" in out
