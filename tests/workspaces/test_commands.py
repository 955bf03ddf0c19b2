"""Commands in a box: results, streams, time-outs and processes; for every kind."""

import asyncio
import os
import signal
import time

import pytest

from m2gym.core.errors import InputError
from m2gym.workspaces.supervised import SupervisedWorkspace

from .conftest import MakeBox

Box = SupervisedWorkspace


async def alive(box: Box, word: str) -> int:
    """How many processes of the box have a word in their command line."""
    script = f"grep -ls '{word[:-1]}[{word[-1]}]' /proc/[0-9]*/cmdline | wc -l"
    return int((await box.exec(script)).stdout)


async def test_exit_codes_are_exact(box: Box) -> None:
    assert (await box.exec("true")).exit_code == 0
    assert (await box.exec("exit 3")).exit_code == 3
    assert (await box.exec("kill -TERM $$")).exit_code == 128 + signal.SIGTERM
    assert (await box.exec(["sh", "-c", "exit 255"])).exit_code == 255


async def test_what_cannot_be_started_gives_the_shells_codes(box: Box) -> None:
    missing = await box.exec(["no-such-program"])
    assert missing.exit_code == 127
    assert b"command not found" in missing.stderr
    assert (await box.exec(["/usr"])).exit_code == 126
    nowhere = await box.exec("true", cwd="/no/such/folder")
    assert nowhere.exit_code == 126
    assert b"/no/such/folder" in nowhere.stderr


async def test_both_streams_are_kept_apart_and_binary_safe(box: Box) -> None:
    result = await box.exec(r"printf 'a\0\xff\n'; printf 'e\0' >&2; echo more >/dev/stderr")
    assert result.stdout == b"a\0\xff\n"
    assert result.stderr == b"e\0more\n"


async def test_arguments_are_passed_as_they_are(box: Box) -> None:
    words = ["a b", "", "$HOME", "ünï\n", "'"]
    result = await box.exec(["printf", "%s\\0", *words])
    assert result.stdout.decode().split("\0")[:-1] == words


async def test_stdin_is_passed_whole_and_otherwise_empty(box: Box) -> None:
    data = os.urandom(1 << 20)
    assert (await box.exec("cat", stdin=data)).stdout == data
    assert (await box.exec("cat")).stdout == b""
    assert (await box.exec("true", stdin=data)).exit_code == 0


async def test_environment_and_folder(box: Box) -> None:
    result = await box.exec("echo $A; pwd", env={"A": "x y"}, cwd="/")
    assert result.stdout == b"x y\n/\n"
    await box.exec("mkdir -p in/ner")
    assert (await box.exec("pwd", cwd="in/ner")).stdout.endswith(b"/in/ner\n")


async def test_path_of_the_command_finds_the_program(box: Box) -> None:
    await box.write("bin/greet", b"#!/bin/sh\necho hello\n", mode=0o755)
    folder = (await box.exec("pwd")).stdout.decode().strip()
    result = await box.exec(["greet"], env={"PATH": f"{folder}/bin:/usr/bin:/bin"})
    assert result.stdout == b"hello\n"


async def test_nothing_of_the_hosts_environment(
    kind: str, make: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2GYM_TEST_SECRET", "s3cret")
    box = await make(kind, env={"OF_TASK": "1"})
    names = {line.split("=")[0] for line in (await box.exec("env")).output.splitlines()}
    assert "M2GYM_TEST_SECRET" not in names
    assert "OF_TASK" in names
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TERM", "PWD", "SHLVL", "_", "OF_TASK"}
    assert names <= allowed
    assert b"s3cret" not in (await box.exec("cat /proc/[0-9]*/environ 2>/dev/null")).stdout or (
        kind == "process"
    )


async def test_output_is_capped_and_the_rest_drained(kind: str, make: MakeBox) -> None:
    box = await make(kind, limits={"output_bytes": 2048})
    result = await box.exec("head -c 3000000 /dev/zero; echo done >&2; exit 4")
    assert (result.exit_code, len(result.stdout), result.truncated) == (4, 2048, True)
    assert result.stderr == b"done\n"
    exact = await box.exec("head -c 2048 /dev/zero")
    assert (len(exact.stdout), exact.truncated) == (2048, False)


async def test_a_time_out_kills_the_whole_tree(box: Box) -> None:
    script = (
        "sleep 9871 & setsid sleep 9871 & "
        "(setsid nohup bash -c 'sleep 9871 & disown; sleep 9871' &)"
        "; trap '' TERM; echo begun; sleep 9871"
    )
    result = await box.exec(script, timeout=0.5)
    assert (result.exit_code, result.timed_out) == (124, True)
    assert result.stdout == b"begun\n"
    assert await alive(box, "9871") == 0


async def test_a_time_out_spares_other_commands(box: Box) -> None:
    other = asyncio.create_task(box.exec("sleep 1.2; echo fine"))
    assert (await box.exec("sleep 60", timeout=0.2)).timed_out
    assert (await other).stdout == b"fine\n"


async def test_a_background_process_does_not_hold_the_command(box: Box) -> None:
    result = await box.exec("(sleep 0.2; echo late; sleep 9872) & echo now")
    assert result.stdout == b"now\n"
    assert result.seconds < 30
    assert await alive(box, "9872") >= 1
    await box.kill()
    assert await alive(box, "9872") == 0


async def test_a_server_left_behind_survives_its_own_output(box: Box) -> None:
    await box.exec("(for i in $(seq 200000); do echo line $i; done; touch finished) & disown")
    for _ in range(200):
        if (await box.exec("test -e finished")).ok:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the background writer was blocked or killed by its output")


async def test_cancelling_kills_the_command(box: Box) -> None:
    task = asyncio.create_task(box.exec("sleep 9873"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if await alive(box, "9873") == 0:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the cancelled command lives on")


async def test_many_commands_at_once(box: Box) -> None:
    results = await asyncio.gather(*(box.exec(f"echo {n}; exit {n % 7}") for n in range(60)))
    assert [r.stdout for r in results] == [f"{n}\n".encode() for n in range(60)]
    assert [r.exit_code for r in results] == [n % 7 for n in range(60)]


async def test_long_scripts_and_too_many_arguments(box: Box) -> None:
    script = "x='" + "y" * 300_000 + "'; echo ${#x}"
    assert (await box.exec(script)).stdout == b"300000\n"
    with pytest.raises(InputError, match="at most"):
        await box.exec(["echo", "y" * 200_000])
    with pytest.raises(InputError, match="NUL"):
        await box.exec("echo a\0b")
    assert (await box.exec("echo ok")).stdout == b"ok\n"


async def test_kill_ends_everything_and_the_box_goes_on(box: Box) -> None:
    await box.write("kept", b"1")
    running = asyncio.create_task(box.exec("setsid sleep 9874 & sleep 9874"))
    await asyncio.sleep(0.3)
    await box.kill()
    assert (await running).exit_code == 137
    assert await alive(box, "9874") == 0
    assert await box.read("kept") == b"1"


async def test_spawn_streams_both_ways(box: Box) -> None:
    process = await box.spawn(
        "while read line; do echo got $line; echo err $line >&2; done; exit 5"
    )
    out, err = process.stdout(), process.stderr()
    await process.write(b"one\n")
    assert await anext(out) == b"got one\n"
    assert await anext(err) == b"err one\n"
    await process.write(b"two\n")
    assert await anext(out) == b"got two\n"
    await process.close_stdin()
    assert await process.wait() == 5
    assert [part async for part in out] == []
    assert b"".join([part async for part in err]) == b"err two\n"


async def test_spawn_signals_the_group_and_kills_the_tree(box: Box) -> None:
    process = await box.spawn(
        "trap 'echo caught; exit 9' USR1; echo up; while :; do sleep 0.05; done"
    )
    out = process.stdout()
    assert await anext(out) == b"up\n"
    await process.signal(signal.SIGUSR1)
    assert await process.wait() == 9
    other = await box.spawn("setsid sleep 9875 & echo up; sleep 9875")
    assert await anext(other.stdout()) == b"up\n"
    await other.signal(signal.SIGKILL)
    assert await other.wait() == 137
    assert await alive(box, "9875") == 0


async def test_a_signal_is_not_lost_when_it_comes_before_the_command_runs(box: Box) -> None:
    processes = [await box.spawn(["sleep", "9876"]) for _ in range(20)]
    for process in processes:
        await process.signal(signal.SIGTERM)
    assert [await process.wait() for process in processes] == [143] * 20
    absent = await box.spawn(["/no/such/program"])
    await absent.signal(signal.SIGTERM)
    assert await absent.wait() == 127


async def test_spawn_takes_megabytes_with_a_slow_reader(box: Box) -> None:
    process = await box.spawn(["cat"])
    data = os.urandom(3 << 20)

    async def feed() -> None:
        await process.write(data)
        await process.close_stdin()

    feeding = asyncio.create_task(feed())
    parts = []
    async for part in process.stdout():
        parts.append(part)
        await asyncio.sleep(0)
    await feeding
    assert b"".join(parts) == data
    assert await process.wait() == 0


async def test_listen_hands_out_the_boxs_loopback(box: Box) -> None:
    with await box.listen(0) as listener:
        port = listener.getsockname()[1]
        listener.setblocking(False)

        async def answer() -> bytes:
            loop = asyncio.get_running_loop()
            connection, _ = await loop.sock_accept(listener)
            with connection:
                await loop.sock_sendall(connection, b"from outside\n")
            return b""

        serving = asyncio.create_task(answer())
        result = await box.exec(f"cat </dev/tcp/127.0.0.1/{port}", timeout=20)
        await serving
        assert result.stdout == b"from outside\n"
        with pytest.raises(InputError, match="taken"):
            await box.listen(port)


def test_a_box_follows_the_running_loop(kind: str) -> None:
    from m2gym.core.task import WorkspaceSpec
    from m2gym.workspaces import make_workspace

    box = make_workspace(WorkspaceSpec(), kind)
    asyncio.run(box.start())
    try:
        for n in range(3):
            assert asyncio.run(box.exec(f"echo {n}")).stdout == f"{n}\n".encode()
    finally:
        asyncio.run(box.stop())


async def test_seconds_are_measured(box: Box) -> None:
    began = time.monotonic()
    result = await box.exec("sleep 0.2")
    assert 0.2 <= result.seconds <= time.monotonic() - began
