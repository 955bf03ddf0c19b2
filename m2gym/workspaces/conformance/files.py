"""Files: what we put and take without running anything of the agent's."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from m2gym.core.errors import InputError
from m2gym.workspaces.conformance.boxes import Boxes, checked, needs

HOSTILE = ["with space", "ünï-çødé-日本", "-rf", "new\nline", "quote'\"", "$(id)", "*?[", "a" * 200]
"""File names that scripts trip over."""


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar in memory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def names(packed: bytes) -> dict[str, tarfile.TarInfo]:
    """Members of a tar by name."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {member.name.removeprefix("./"): member for member in tar.getmembers()}


class Files(Boxes):
    """`read`, `write`, `export` and `unpack`."""

    @checked
    async def test_a_file_comes_back_as_it_was(self) -> None:
        box = await self.box()
        data = os.urandom(5 << 20)
        await box.write("deep/er/file", data)
        assert await box.read("deep/er/file") == data
        assert (await box.exec("wc -c < deep/er/file")).stdout.strip() == b"5242880"
        await box.write("deep/er/file", b"")
        assert await box.read("deep/er/file") == b""

    @checked
    async def test_hostile_names(self) -> None:
        box = await self.box()
        for name in HOSTILE:
            await box.write(f"names/{name}", name.encode())
            assert await box.read(f"names/{name}") == name.encode()
        listed = (await box.exec("cd names; printf '%s\\0' *")).stdout.decode()
        assert sorted(listed.split("\0")[:-1]) == sorted(HOSTILE)
        packed = names(await box.export(["names"]))
        assert {f"names/{name}" for name in HOSTILE} <= set(packed)

    @checked
    async def test_modes_and_what_the_agent_may_do_with_a_file(self) -> None:
        box = await self.box()
        await box.write("run.sh", b"#!/bin/sh\necho ran\n", mode=0o755)
        assert (await box.exec("./run.sh && echo more >> run.sh && rm run.sh")).stdout == b"ran\n"

    @checked
    async def test_what_is_not_there(self) -> None:
        box = await self.box()
        with pytest.raises(FileNotFoundError):
            await box.read("missing")
        with pytest.raises(IsADirectoryError):
            await box.read(".")
        assert set(names(await box.export(["missing"]))) <= {"."}

    @checked
    @needs("sandbox")
    async def test_links_lead_nobody_out(self) -> None:
        box = await self.box()
        await box.exec("ln -s /etc/passwd out; ln -s ../../../etc up; ln -s loop loop; ln -s f in")
        await box.write("f", b"inside")
        assert await box.read("in") == b"inside"
        for path in ("out", "up/passwd", "loop"):
            with pytest.raises(OSError, match="link"):
                await box.read(path)

    @checked
    async def test_export_takes_links_as_links(self) -> None:
        box = await self.box()
        await box.exec("mkdir -p d/e; echo x > d/e/f; ln -s /etc/passwd d/link; mkfifo d/pipe")
        found = names(await box.export(["d"]))
        assert found["d/e/f"].size == 2
        assert found["d/link"].issym()
        assert "d/pipe" not in found or not found["d/pipe"].isreg()

    @checked
    @needs("sandbox")
    async def test_export_runs_nothing_of_the_agents(self) -> None:
        box = await self.box()
        await box.exec(
            "mkdir -p bin ~/bin; for t in tar sh bash python3 cat ls; do "
            "printf '#!/bin/false\\n' > bin/$t; chmod +x bin/$t; done; "
            "echo 'exit 1' > ~/.bashrc; echo 'exit 1' > ~/.profile; echo real > file"
        )
        await box.kill()
        assert names(await box.export(["file"]))["file"].size == 5

    @checked
    async def test_export_stays_within_the_work_folder(self) -> None:
        box = await self.box()
        with pytest.raises(InputError):
            await box.export(["../x"])
        with pytest.raises(InputError):
            await box.export(["/etc"])

    @checked
    async def test_unpack_puts_files_with_their_modes(self) -> None:
        box = await self.box()
        script = tarfile.TarInfo("d/run")
        script.mode = 0o755
        link = tarfile.TarInfo("d/link")
        link.type, link.linkname = tarfile.SYMTYPE, "run"
        await box.unpack(tar_of((script, b"#!/bin/sh\necho ran\n"), (link, b"")), path="to")
        assert (await box.exec("./to/d/link; stat -c %a to/d/run")).stdout == b"ran\n755\n"

    @checked
    async def test_unpack_refuses_what_would_leave(self) -> None:
        box = await self.box()
        hard = tarfile.TarInfo("hard")
        hard.type, hard.linkname = tarfile.LNKTYPE, "../../../etc/passwd"
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        for bad in (tarfile.TarInfo("../up"), tarfile.TarInfo("/etc/abs"), hard, device):
            with pytest.raises(InputError):
                await box.unpack(tar_of((tarfile.TarInfo("first"), b"1"), (bad, b"")))
        with pytest.raises(FileNotFoundError):
            await box.read("first")
        with pytest.raises(InputError):
            await box.unpack(b"no tar")

    @checked
    async def test_unpack_follows_no_link_that_lies_in_the_way(self) -> None:
        box = await self.box()
        await box.exec("mkdir there; ln -s there here; ln -s /tmp/elsewhere file")
        await box.unpack(tar_of((tarfile.TarInfo("here/x"), b"1"), (tarfile.TarInfo("file"), b"2")))
        state = await box.exec("ls there; test -L here; echo $?; cat file; ls /tmp/elsewhere")
        assert state.stdout == b"1\n2"

    @checked
    @needs("users")
    async def test_a_graders_file_is_the_graders(self) -> None:
        box = await self.box()
        await box.write("secret", b"s", mode=0o600, user="grader")
        assert not (await box.exec("cat secret")).ok
        assert (await box.exec("cat secret", user="grader")).stdout == b"s"
