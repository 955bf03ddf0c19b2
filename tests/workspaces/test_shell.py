"""The persistent shell: what survives, and what it survives; for every kind."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from m2gym.core.errors import InputError
from m2gym.workspaces.shell import PersistentShell
from m2gym.workspaces.supervised import SupervisedWorkspace

from .conftest import MakeBox

Box = SupervisedWorkspace


@pytest_asyncio.fixture
async def shell(box: Box) -> AsyncIterator[PersistentShell]:
    shell = await box.shell()
    yield shell
    await shell.close()


async def out(shell: PersistentShell, command: str) -> bytes:
    return (await shell.run(command)).stdout


async def test_folder_variables_functions_and_status_survive(shell: PersistentShell) -> None:
    await shell.run("cd /usr; export A=1; b=2; f() { echo f$1; }; alias g='echo g'")
    assert await out(shell, "pwd; echo $A $b; f x; env | grep ^A=") == b"/usr\n1 2\nfx\nA=1\n"
    assert (await shell.run("(exit 42)")).exit_code == 42
    assert await out(shell, "echo $?") == b"42\n"
    assert shell.restarts == 0


async def test_declare_and_arrays_are_global(shell: PersistentShell) -> None:
    await shell.run("declare -A m=([k]=v); declare -i n=4; arr=(1 2)")
    assert await out(shell, "echo ${m[k]} $((n+1)) ${arr[1]}") == b"v 5 2\n"


async def test_streams_come_in_order_and_binary_safe(shell: PersistentShell) -> None:
    result = await shell.run(r"printf 'a\0\xff'; echo e >&2; printf b; false")
    assert (result.stdout, result.stderr, result.exit_code) == (b"a\0\xffe\nb", b"", 1)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("exec sh -c 'echo replaced; exit 6'", 6),
        ("set -e; false", 1),
        ("set -u; echo $no_such_variable_here", 1),
    ],
)
async def test_it_recovers_from_a_command_that_ends_it(
    shell: PersistentShell, command: str, code: int
) -> None:
    await shell.run("cd /usr/bin")
    result = await shell.run(command)
    assert (result.exit_code, result.timed_out) == (code, False)
    assert await out(shell, "pwd") == b"/usr/bin\n"
    assert shell.restarts == 1


async def test_replacing_the_shell_keeps_the_output(shell: PersistentShell) -> None:
    assert await out(shell, "exec echo replaced") == b"replaced\n"


async def test_a_time_out_gives_124_and_the_last_folder(shell: PersistentShell) -> None:
    await shell.run("cd /usr")
    result = await shell.run("echo begun; sleep 9876 & setsid sleep 9876 & sleep 9876", timeout=0.4)
    assert (result.exit_code, result.timed_out, result.stdout) == (124, True, b"begun\n")
    assert await out(shell, "pwd; grep -ls '987[6]' /proc/[0-9]*/cmdline") == b"/usr\n"
    assert shell.restarts == 1


async def test_infinite_output_is_capped(kind: str, make: MakeBox) -> None:
    box = await make(kind, limits={"output_bytes": 4096})
    shell = await box.shell()
    result = await shell.run("yes", timeout=0.5)
    assert (result.exit_code, len(result.stdout), result.truncated) == (124, 4096, True)
    again = await shell.run("echo ok")
    assert (again.stdout, again.truncated) == (b"ok\n", False)


@pytest.mark.parametrize("command", ["echo 'open", "if true", "fi", "cat <<EOF", "("])
async def test_broken_syntax_leaves_it_usable(shell: PersistentShell, command: str) -> None:
    await shell.run("kept=1")
    await shell.run(command, timeout=20)
    assert await out(shell, "echo $kept") == b"1\n"


async def test_a_crash_of_bash_itself_is_survived(shell: PersistentShell) -> None:
    """Bash 5.2.15 spoils its own memory over an open ``$(`` and may abort a command later."""
    assert (await shell.run("cd /usr; echo $(", timeout=20)).exit_code == 2
    assert (await shell.run("pwd", timeout=20)).exit_code == 0
    assert await out(shell, "echo ok") == b"ok\n"


@pytest.mark.parametrize(
    "command", ["break", "continue", "return 3", "shift 9", "wait", ":", "", "#"]
)
async def test_control_words_do_not_break_it(shell: PersistentShell, command: str) -> None:
    await shell.run(command, timeout=20)
    assert await out(shell, "echo ok") == b"ok\n"
    assert shell.restarts == 0


async def test_input_is_empty(shell: PersistentShell) -> None:
    assert (await shell.run('cat; read x; echo "[$x]"', timeout=20)).stdout == b"[]\n"


async def test_background_jobs_go_on(shell: PersistentShell) -> None:
    await shell.run("(sleep 0.3; echo done > flag) & job=$!")
    assert await out(shell, "wait $job; cat flag") == b"done\n"


async def test_multi_line_heredocs_and_long_commands(shell: PersistentShell) -> None:
    body = "\n".join(f"line {n} 'quoted' \"too\" $x \\" for n in range(20_000))
    await shell.run(f"cat > big <<'EOF'\n{body}\nEOF")
    assert (
        await out(shell, "wc -l < big; tail -1 big")
        == b"20000\nline 19999 'quoted' \"too\" $x \\\n"
    )


async def test_odd_folders_survive(shell: PersistentShell) -> None:
    await shell.run("mkdir -p $'a\\nb ü' && cd $'a\\nb ü'")
    assert (await shell.run("kill -9 $$")).exit_code == 137
    assert await out(shell, 'basename "$PWD"') == "a\nb ü\n".encode()


async def test_a_removed_folder_falls_back(shell: PersistentShell, box: Box) -> None:
    await shell.run("mkdir gone && cd gone")
    await box.exec("rmdir gone")
    await shell.run("kill -9 $$")
    assert await out(shell, "pwd") == box.inner_workdir.encode() + b"\n"


async def test_a_nul_is_refused_and_it_stays_usable(shell: PersistentShell) -> None:
    with pytest.raises(InputError, match="NUL"):
        await shell.run("echo a\0b")
    assert await out(shell, "echo ok") == b"ok\n"


async def test_several_shells_are_apart(box: Box) -> None:
    one, two = await box.shell(), await box.shell()
    await asyncio.gather(one.run("x=1; cd /usr"), two.run("x=2"))
    assert await out(one, "echo $x $PWD") == b"1 /usr\n"
    assert (await out(two, "echo $x")) == b"2\n"


async def test_cancelling_a_step(shell: PersistentShell) -> None:
    task = asyncio.create_task(shell.run("sleep 9877"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await out(shell, "echo ok") == b"ok\n"


async def test_kill_of_the_box_restarts_it(shell: PersistentShell, box: Box) -> None:
    await shell.run("cd /usr")
    await box.kill()
    assert await out(shell, "pwd") == b"/usr\n"
    assert shell.restarts == 1


async def test_closing_kills_its_jobs(box: Box) -> None:
    shell = await box.shell()
    await shell.run("sleep 9878 & setsid sleep 9878 &")
    await shell.close()
    count = await box.exec("grep -ls '987[8]' /proc/[0-9]*/cmdline | wc -l")
    assert count.stdout == b"0\n"
