"""Isolation: users, the host's files and processes, networks, limits."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from m2gym.core.errors import CapabilityError
from m2gym.workspaces.conformance.boxes import Boxes, checked, needs, survives_or_is_lost


class Isolation(Boxes):
    """What a box keeps in and out."""

    @checked
    @needs("sandbox")
    async def test_the_hosts_files_and_processes_are_out_of_sight(self) -> None:
        box = await self.box()
        with tempfile.NamedTemporaryFile(prefix="m2gym-host-") as file:
            assert not (await box.exec(["test", "-e", file.name])).ok
        seen = (await box.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).output
        assert "pytest" not in seen

    @checked
    @needs("sandbox")
    async def test_the_system_cannot_be_written(self) -> None:
        box = await self.box()
        for path in ("/usr/bin/evil", "/etc/evil", "/evil", "/proc/sys/kernel/core_pattern"):
            assert not (await box.exec(f"echo x > {path}")).ok

    @checked
    @needs("users")
    async def test_users_are_apart(self) -> None:
        box = await self.box()
        who = [(await box.exec("id -u", user=u)).stdout for u in ("agent", "grader", "root")]
        assert len(set(who)) == 3
        assert (await box.exec("id -u")).stdout == who[0]
        await box.exec("echo s > ~/s; chmod 600 ~/s", user="grader")
        assert not (await box.exec("cat /home/grader/s")).ok
        other = await box.spawn(["sleep", "9881"], user="grader")
        assert not (await box.exec("kill -9 -1; kill -9 1; pkill -f 988[1]; true; kill -0 1")).ok
        assert (await box.exec("grep -ls '988[1]' /proc/[0-9]*/cmdline")).ok
        await other.signal(9)

    @checked
    @needs("sandbox")
    async def test_without_a_network_nothing_is_reached(self) -> None:
        box = await self.box()
        script = "timeout 3 bash -c 'echo > /dev/tcp/%s' 2>/dev/null && echo reached"
        for place in ("1.1.1.1/53", "172.17.0.1/22", "127.0.0.1/22"):
            assert (await box.exec(script % place)).stdout == b""
        links = (await box.exec("cat /proc/net/dev")).output
        assert [line.split(":")[0].strip() for line in links.splitlines()[2:]] == ["lo"]

    @checked
    async def test_what_is_asked_for_and_missing_is_an_error_before_start(self) -> None:
        able = self.unstarted().capabilities
        asked: dict[str, dict[str, Any]] = {
            "network": {"network": "public"},
            "image": {"image": "none"},
            "limits.cpu": {"limits": {"cpus": 0.5}},
        }
        for capability, spec in asked.items():
            if capability in able:
                self.unstarted(**spec)
            else:
                with pytest.raises(CapabilityError, match=capability):
                    self.unstarted(**spec)

    @checked
    @needs("limits.memory")
    async def test_a_memory_balloon_is_stopped(self) -> None:
        box = await self.box(limits={"memory_mb": 96})
        script = "import os; x = []\nwhile True: x.append(bytearray(1 << 20))"
        with survives_or_is_lost():
            result = await box.exec(["python3", "-c", script], timeout=60)
            assert result.exit_code != 0
            assert not result.timed_out
            assert (await box.exec("echo on")).stdout == b"on\n"

    @checked
    @needs("limits.processes")
    async def test_a_fork_bomb_is_stopped_and_swept(self) -> None:
        box = await self.box(limits={"processes": 32})
        result = await box.exec("f() { f | f & }; f; sleep 60", timeout=2.0)
        assert result.exit_code != 0
        await box.kill()
        assert (await box.exec("echo on")).stdout == b"on\n"

    @checked
    @needs("limits.disk")
    async def test_a_full_disk_is_the_boxs_own(self) -> None:
        box = await self.box(limits={"disk_mb": 16})
        result = await box.exec(
            "for n in $(seq 200); do head -c 4000000 /dev/zero > f$n || exit 1; sleep 0.1; done",
            timeout=60,
        )
        assert result.exit_code != 0
        assert (await box.exec("rm -f f*; echo on")).stdout == b"on\n"

    @checked
    @needs("limits.cpu")
    async def test_a_share_of_a_processor_can_be_set(self) -> None:
        box = await self.box(limits={"cpus": 0.5})
        assert (await box.exec("echo on")).stdout == b"on\n"

    @checked
    @needs("sandbox")
    async def test_mounts_are_shown_and_read_only(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            shown = Path(name) / "shown"
            shown.mkdir(mode=0o755)
            (shown / "f").write_text("shown")
            os.chmod(name, 0o755)  # noqa: PTH101
            box = await self.box(mounts=({"source": shown, "target": "/opt/shown"},))
            assert (await box.exec("cat /opt/shown/f")).stdout == b"shown"
            assert not (await box.exec("echo > /opt/shown/g")).ok
            assert not (shown / "g").exists()
