"""The cleaning of what comes out of an agent's box."""

from __future__ import annotations

import io
import tarfile

import pytest

from m2gym.rewards import exported
from m2gym.rewards.exported import OversizedError, clean


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def pack(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def names(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return {info.name: info for info in opened}


def test_plain_files_folders_and_inner_links_stay() -> None:
    out = clean(
        pack(
            member(".", type=tarfile.DIRTYPE),
            member("./a", type=tarfile.DIRTYPE, mode=0o755),
            member("./a/run.sh", b"true", mode=0o755),
            link("./a/same", "run.sh"),
            link("./hard", "./a/run.sh", tarfile.LNKTYPE),
        )
    )
    assert out.dropped == []
    assert out.files == {"a/run.sh": b"true", "hard": b"true"}
    assert out.links == {"a/same": "run.sh"}
    assert names(out.tar)["a/run.sh"].mode == 0o755


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (member("../up", b"x"), "outside"),
        (member("a/../../up", b"x"), "outside"),
        (link("out", "/etc/passwd"), "outside"),
        (link("d/out", "../../x"), "outside"),
        (member("dev", type=tarfile.CHRTYPE), "not a file"),
        (member("pipe", type=tarfile.FIFOTYPE), "not a file"),
        (link("hard", "/etc/passwd", tarfile.LNKTYPE), "hard link"),
        (member("p/__pycache__/m.pyc", b"x"), "byte code"),
        (member("tests/test_a.py", b"x"), "hidden"),
        (member("tests/test_a.py/x", b"x"), "hidden"),
        (member("tests", b"x"), "hidden file's folder"),
        (link("tests", "other"), "hidden file's folder"),
    ],
)
def test_what_may_not_enter_is_left_out_and_told(
    bad: tuple[tarfile.TarInfo, bytes], reason: str
) -> None:
    out = clean(pack(member("good", b"1"), bad), {"tests/test_a.py"})
    assert list(names(out.tar)) == ["good"]
    assert len(out.dropped) == 1
    assert reason in out.dropped[0]


def test_members_below_a_link_are_left_out() -> None:
    out = clean(pack(link("l", "d"), member("l/x", b"1")))
    assert list(names(out.tar)) == ["l"]
    assert "below a link" in out.dropped[0]


def test_special_modes_and_owners_are_taken_away() -> None:
    out = clean(pack(member("s", b"1", mode=0o6711, uid=0)))
    info = names(out.tar)["s"]
    assert (info.mode, info.uid) == (0o711, 0)
    assert "mode" in out.dropped[0]


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "MAX_FILES", 3)
    tar = pack(*(member(str(n)) for n in range(4)))
    with pytest.raises(OversizedError, match="more than 3 files"):
        clean(tar)
