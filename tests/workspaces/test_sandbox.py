"""What a command in a local box cannot see or do."""

import os
import socket
from pathlib import Path

import pytest

from m2gym.core.errors import CapabilityError, InputError
from m2gym.core.task import Mount
from m2gym.workspaces.supervised import SupervisedWorkspace

from .conftest import MakeBox

Box = SupervisedWorkspace


async def test_host_processes_are_not_seen(local: Box) -> None:
    pids = (await local.exec("ls /proc | grep -c '^[0-9]'")).stdout
    assert int(pids) < 12
    assert (await local.exec(f"kill -0 {os.getpid()}")).exit_code != 0 or os.getpid() < 12


async def test_there_is_no_network(local: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = await local.exec(f"echo hi >/dev/tcp/127.0.0.1/{port}")
        assert result.exit_code != 0
    devices = (await local.exec("tail -n +3 /proc/net/dev | cut -d: -f1")).stdout.split()
    assert set(devices) <= {b"lo", b"sit0", b"tunl0", b"ip6tnl0", b"gre0", b"gretap0", b"erspan0"}


async def test_public_network_shares_the_hosts(needs_local: None, make: MakeBox) -> None:
    box = await make("local", network="public")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert (await box.exec(f"echo hi >/dev/tcp/127.0.0.1/{port}")).ok


@pytest.mark.parametrize(
    "place", ["/usr", "/etc", "/", "/dev", "/run", "/home", "/proc/sys/kernel"]
)
async def test_nothing_outside_can_be_written(local: Box, place: str) -> None:
    for user in ("agent", "root"):
        result = await local.exec(f"touch {place}/x || mkdir {place}/y", user=user)
        assert result.exit_code != 0, f"{user} wrote to {place}"


@pytest.mark.parametrize("place", ["/workspace", "/home/agent", "/tmp", "/dev/shm"])
async def test_its_own_places_can_be_written(local: Box, place: str) -> None:
    assert (await local.exec(f"echo x > {place}/x && cat {place}/x")).stdout == b"x\n"


async def test_the_hosts_files_are_not_seen(local: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    assert not (await local.exec(["cat", str(secret)])).ok
    assert (await local.exec("ls /tmp /home /mnt /srv 2>/dev/null; ls /root")).stdout.split() == [
        b"/home:",
        b"agent",
        *([b"grader"] if "users" in local.capabilities else []),
        b"/tmp:",
    ]
    names = set((await local.exec("ls /etc")).stdout.decode().split())
    assert not names & {"shadow", "ssh", "machine-id", "sudoers"}


@pytest.mark.parametrize(
    "call", ["unshare -U true", "unshare -m true", "mount -t tmpfs x /tmp", "nsenter -t 1 -n true"]
)
async def test_no_namespaces_or_mounts(local: Box, call: str) -> None:
    for user in ("agent", "root"):
        result = await local.exec(call, user=user)
        assert result.exit_code not in (0, 127)


async def test_dangerous_calls_are_refused(local: Box) -> None:
    script = (
        "import ctypes, errno\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for number in (250, 321, 298, 323, 425) if __import__('platform').machine() == 'x86_64' "
        "else (219, 280, 241, 282, 425):\n"
        "    print(libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
    )
    result = await local.exec(["/usr/bin/python3", "-c", script])
    assert result.stdout == b"-1 1\n" * 5


async def test_setuid_programs_gain_nothing(local: Box) -> None:
    status = (await local.exec("cat /proc/self/status")).stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"].strip() == "1"
    assert fields["Seccomp"].strip() == "2"
    assert int(fields["CapEff"], 16) == 0
    assert int(fields["CapInh"], 16) == 0


async def test_the_supervisor_cannot_be_killed_or_read(local: Box) -> None:
    for user in ("agent", "root"):
        await local.exec("kill -9 1; kill -STOP 1; kill -TERM 1", user=user)
        assert not (await local.exec("cat /proc/1/mem >/dev/null", user=user)).ok
    assert (await local.exec("echo alive")).stdout == b"alive\n"


async def test_killing_ones_minder_hides_nothing(local: Box) -> None:
    await local.exec("setsid sleep 9879 & kill -9 $PPID; sleep 9879", timeout=2)
    result = await local.exec("sleep 0.2; grep -ls '987[9]' /proc/[0-9]*/cmdline | wc -l")
    assert result.stdout == b"0\n"


async def test_zombies_are_reaped(local: Box) -> None:
    await local.exec(
        "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.05; exit 1' &) ; done; sleep 0.2"
    )
    states = await local.exec("grep -hs ^State: /proc/[0-9]*/status | grep -c Z")
    assert states.stdout == b"0\n"


async def test_users_are_apart(needs_users: None, local: Box) -> None:
    await local.write("/home/grader/secret", b"s", user="grader", mode=0o600)
    assert (await local.exec("cat ~/secret", user="grader")).stdout == b"s"
    assert not (await local.exec("cat /home/grader/secret")).ok
    assert not (await local.exec("ls /home/grader /root")).ok
    who = [(await local.exec("id -u", user=user)).stdout for user in ("agent", "grader", "root")]
    assert who == [b"1000\n", b"1001\n", b"0\n"]
    sleeper = await local.spawn("echo up; sleep 30", user="grader")
    assert await anext(sleeper.stdout()) == b"up\n"
    assert not (await local.exec("pkill -u grader")).ok
    assert (await local.exec("pkill -u grader", user="root")).ok
    assert await sleeper.wait() == 143


async def test_root_of_the_box_can_become_agent(needs_users: None, local: Box) -> None:
    script = "import os; os.setgroups([]); os.setgid(1000); os.setuid(1000); print(os.getuid())"
    result = await local.exec(["/usr/bin/python3", "-c", script], user="root")
    assert result.stdout == b"1000\n"


async def test_ids_are_not_the_hosts(needs_users: None, local: Box) -> None:
    process = await local.spawn("echo $$; sleep 30", user="root")
    await anext(process.stdout())
    maps = (await local.exec("cat /proc/self/uid_map")).stdout.split()
    assert maps[0] == b"0"
    assert int(maps[1]) > 65536
    await process.signal(9)


async def test_mounts_are_shown_read_only(needs_local: None, make: MakeBox, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a").write_text("1")
    (tmp_path / "one").write_text("2")
    mounts = (
        Mount(source=folder, target="/opt/data"),
        Mount(source=tmp_path / "one", target="/workspace/one"),
    )
    box = await make("local", mounts=mounts)
    assert (await box.exec("cat /opt/data/a one")).stdout == b"12"
    assert not (await box.exec("echo x > /opt/data/a", user="root")).ok
    assert not (await box.exec("touch /opt/data/b || echo > one", user="root")).ok
    assert (folder / "a").read_text() == "1"
    with pytest.raises(InputError, match="does not"):
        await make("local", mounts=(Mount(source=tmp_path / "none", target="/x"),))


async def test_pythons_tools_work(local: Box) -> None:
    script = (
        "import multiprocessing, tempfile, ssl, pwd, os, socket\n"
        "multiprocessing.Lock(); tempfile.mkdtemp()\n"
        "print(pwd.getpwuid(os.getuid()).pw_name, socket.gethostbyname('localhost'))\n"
    )
    result = await local.exec(["/usr/bin/python3", "-c", script])
    assert result.output == "agent 127.0.0.1\n"


async def test_what_it_cannot_give_is_refused_before_start(
    needs_local: None, make: MakeBox
) -> None:
    with pytest.raises(CapabilityError, match="image"):
        await make("local", image="debian:12")
    with pytest.raises(CapabilityError, match="mounts"):
        await make("process", mounts=(Mount(source=Path("/usr"), target="/x"),))
