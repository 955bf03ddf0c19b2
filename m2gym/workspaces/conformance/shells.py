"""The persistent shell."""

from __future__ import annotations

from m2gym.workspaces.conformance.boxes import Boxes, checked, gone


class Shells(Boxes):
    """`shell`."""

    @checked
    async def test_state_survives_between_commands(self) -> None:
        shell = await (await self.box()).shell()
        await shell.run("mkdir -p d; cd d; export A=1; f() { echo f $1; }; false")
        result = await shell.run("echo $?; pwd; echo $A; f 2")
        assert result.output.splitlines()[0] == "1"
        assert result.output.splitlines()[1].endswith("/d")
        assert result.output.splitlines()[2:] == ["1", "f 2"]

    @checked
    async def test_a_shells_output_is_binary_safe_and_in_order(self) -> None:
        shell = await (await self.box()).shell()
        result = await shell.run(
            r"printf 'a\0\xff'; printf 'b' >&2; printf 'c'; exit_code=7; (exit 7)"
        )
        assert (result.stdout, result.exit_code) == (b"a\0\xffbc", 7)

    @checked
    async def test_a_late_command_gives_124_and_a_new_shell(self) -> None:
        box = await self.box()
        shell = await box.shell()
        await shell.run("mkdir e; cd e")
        late = await shell.run("sleep 9891 & sleep 9891", timeout=1.0)
        assert (late.exit_code, late.timed_out) == (124, True)
        assert await gone(box, "9891")
        assert (await shell.run("pwd")).stdout.endswith(b"/e\n")
        assert shell.restarts == 1

    @checked
    async def test_leaving_the_shell_gives_its_code_and_a_new_shell(self) -> None:
        shell = await (await self.box()).shell()
        assert (await shell.run("exit 5")).exit_code == 5
        assert (await shell.run("echo back")).stdout == b"back\n"

    @checked
    async def test_broken_syntax_costs_nothing(self) -> None:
        shell = await (await self.box()).shell()
        assert (await shell.run("echo 'unfinished")).exit_code != 0
        assert (await shell.run("for x in; do")).exit_code != 0
        assert (await shell.run("cat; echo on")).stdout == b"on\n"
