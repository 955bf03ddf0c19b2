"""Commands: results, streams, time-outs, users of the event loop, processes, sockets."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from m2gym.core.errors import InputError
from m2gym.workspaces.conformance.boxes import Boxes, alive, checked, gone, needs, seen


class Commands(Boxes):
    """`exec`, `spawn` and `listen`."""

    @checked
    async def test_exit_codes_are_exact(self) -> None:
        box = await self.box()
        assert (await box.exec("true")).exit_code == 0
        assert (await box.exec("exit 3")).exit_code == 3
        assert (await box.exec("kill -TERM $$")).exit_code == 128 + signal.SIGTERM
        assert (await box.exec(["sh", "-c", "exit 255"])).exit_code == 255

    @checked
    async def test_what_cannot_be_started_gives_the_shells_codes(self) -> None:
        box = await self.box()
        missing = await box.exec(["no-such-program"])
        assert (missing.exit_code, b"not found" in missing.stderr) == (127, True)
        assert (await box.exec(["/usr"])).exit_code == 126
        assert (await box.exec("true", cwd="/no/such/folder")).exit_code == 126

    @checked
    async def test_both_streams_are_kept_apart_and_binary_safe(self) -> None:
        box = await self.box()
        result = await box.exec(r"printf 'a\0\xff\r\n'; printf 'e\0' >&2; echo more >/dev/stderr")
        assert result.stdout == b"a\0\xff\r\n"
        assert result.stderr == b"e\0more\n"

    @checked
    async def test_every_byte_survives(self) -> None:
        box = await self.box()
        data = bytes(range(256)) * 64
        assert (await box.exec("cat", stdin=data)).stdout == data

    @checked
    async def test_arguments_are_passed_as_they_are(self) -> None:
        box = await self.box()
        words = ["a b", "", "$HOME", "`id`", "ünï\n", "'", '"', "\\", "-n"]
        result = await box.exec(["printf", "%s\\0", *words])
        assert result.stdout.decode().split("\0")[:-1] == words

    @checked
    async def test_stdin_is_passed_whole_and_otherwise_empty(self) -> None:
        box = await self.box()
        data = os.urandom(1 << 20)
        assert (await box.exec("cat", stdin=data)).stdout == data
        assert (await box.exec("cat")).stdout == b""
        assert (await box.exec("true", stdin=data)).exit_code == 0

    @checked
    async def test_environment_and_folder(self) -> None:
        box = await self.box(env={"OF_TASK": "1"})
        result = await box.exec("echo $A $OF_TASK; pwd", env={"A": "x  y"}, cwd="/")
        assert result.stdout == b"x y 1\n/\n"
        await box.exec("mkdir -p in/ner")
        assert (await box.exec("pwd", cwd="in/ner")).stdout.endswith(b"/in/ner\n")

    @checked
    async def test_no_variable_of_the_host_is_passed_on(self) -> None:
        os.environ["M2GYM_CONFORMANCE"] = "s3cret"
        try:
            box = await self.box()
            assert "M2GYM_CONFORMANCE" not in (await box.exec("env")).output
            if "sandbox" in box.capabilities:
                seen_there = await box.exec("cat /proc/[0-9]*/environ 2>/dev/null")
                assert b"M2GYM_CONFORMANCE" not in seen_there.stdout
        finally:
            del os.environ["M2GYM_CONFORMANCE"]

    @checked
    async def test_output_is_capped_and_the_rest_drained(self) -> None:
        box = await self.box(limits={"output_bytes": 2048})
        result = await box.exec("head -c 3000000 /dev/zero; echo done >&2; exit 4")
        assert (result.exit_code, len(result.stdout), result.truncated) == (4, 2048, True)
        assert result.stderr == b"done\n"
        exact = await box.exec("head -c 2048 /dev/zero")
        assert (len(exact.stdout), exact.truncated) == (2048, False)

    @checked
    async def test_megabytes_of_output(self) -> None:
        box = await self.box()
        result = await box.exec("head -c 6000000 /dev/zero | tr '\\0' x")
        assert (len(result.stdout), result.truncated) == (6_000_000, False)
        assert set(result.stdout) == {ord("x")}

    @checked
    async def test_a_time_out_kills_grandchildren(self) -> None:
        box = await self.box()
        script = (
            "sleep 9871 & setsid sleep 9871 & "
            "(setsid nohup bash -c 'sleep 9871 & disown; sleep 9871' &)"
            "; trap '' TERM; echo begun; sleep 9871"
        )
        result = await box.exec(script, timeout=1.0)
        assert (result.exit_code, result.timed_out) == (124, True)
        assert result.stdout == b"begun\n"
        assert await gone(box, "9871")

    @checked
    async def test_a_time_out_spares_other_commands(self) -> None:
        box = await self.box()
        other = asyncio.create_task(box.exec("sleep 1.5; echo fine"))
        assert (await box.exec("sleep 60", timeout=0.3)).timed_out
        assert (await other).stdout == b"fine\n"

    @checked
    async def test_a_background_process_does_not_hold_the_command(self) -> None:
        box = await self.box()
        result = await box.exec("(sleep 9872; echo late) & echo now", timeout=60)
        assert (result.stdout, result.timed_out) == (b"now\n", False)
        assert await alive(box, "9872") >= 1
        await box.kill()
        assert await gone(box, "9872")

    @checked
    async def test_cancelling_kills_the_command(self) -> None:
        box = await self.box()
        task = asyncio.create_task(box.exec("sleep 9873"))
        await seen(box, "9873")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await gone(box, "9873")

    @checked
    async def test_many_commands_at_once(self) -> None:
        box = await self.box()
        results = await asyncio.gather(*(box.exec(f"echo {n}; exit {n % 7}") for n in range(40)))
        assert [r.stdout for r in results] == [f"{n}\n".encode() for n in range(40)]
        assert [r.exit_code for r in results] == [n % 7 for n in range(40)]

    @checked
    async def test_long_scripts_pass_and_what_cannot_is_refused(self) -> None:
        box = await self.box()
        script = "x='" + "y" * 300_000 + "'; echo ${#x}"
        assert (await box.exec(script)).stdout == b"300000\n"
        with pytest.raises(InputError):
            await box.exec("echo a\0b")
        assert (await box.exec("echo ok")).stdout == b"ok\n"

    @checked
    async def test_kill_ends_everything_and_the_box_goes_on(self) -> None:
        box = await self.box()
        await box.write("kept", b"1")
        running = asyncio.create_task(box.exec("setsid sleep 9874 & sleep 9874"))
        await seen(box, "9874")
        await box.kill()
        assert (await running).exit_code == 137
        assert await gone(box, "9874")
        assert await box.read("kept") == b"1"

    @checked
    async def test_spawn_streams_both_ways(self) -> None:
        box = await self.box()
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

    @checked
    async def test_signals_reach_the_group(self) -> None:
        box = await self.box()
        process = await box.spawn(
            "trap 'echo caught; exit 9' USR1; echo up; while :; do sleep 0.05; done"
        )
        assert await anext(process.stdout()) == b"up\n"
        await process.signal(signal.SIGUSR1)
        assert await process.wait() == 9
        other = await box.spawn("setsid sleep 9875 & echo up; sleep 9875")
        assert await anext(other.stdout()) == b"up\n"
        await other.signal(signal.SIGKILL)
        assert await other.wait() == 137
        assert await gone(box, "9875")

    @checked
    @needs("listen")
    async def test_listen_hands_out_the_boxs_loopback(self) -> None:
        box = await self.box()
        with await box.listen(0) as listener:
            port = listener.getsockname()[1]
            listener.setblocking(False)
            running = asyncio.create_task(box.exec(f"cat </dev/tcp/127.0.0.1/{port}", timeout=60))
            loop = asyncio.get_running_loop()
            connection, _ = await loop.sock_accept(listener)
            with connection:
                await loop.sock_sendall(connection, b"from outside\n")
            assert (await running).stdout == b"from outside\n"

    @checked
    async def test_a_box_follows_the_running_loop(self) -> None:
        box = await self.box()

        def elsewhere() -> bytes:
            return asyncio.run(box.exec("echo other loop")).stdout

        assert (await box.exec("echo one")).stdout == b"one\n"
        assert await asyncio.to_thread(elsewhere) == b"other loop\n"
        assert (await box.exec("echo two")).stdout == b"two\n"
