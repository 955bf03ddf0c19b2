import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m2gym.core.errors import DownloadError, InfraError
from m2gym.tasksets.registry.cache import Cache, default_root, key_of


def _blob(cache: Cache, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    with cache.scratch() as folder:
        (folder / "x").write_bytes(data)
        cache.add_blob(folder / "x", sha256, "x.tar.gz")
    return sha256


def test_a_blob_comes_back_and_an_absent_one_is_none(cache: Cache) -> None:
    sha256 = _blob(cache, b"bytes")
    path = Cache(cache.root).blob(sha256)
    assert path is not None
    assert path.read_bytes() == b"bytes"
    assert cache.blob("0" * 64) is None


def test_another_hash_is_refused_with_both_hashes_and_nothing_is_kept(cache: Cache) -> None:
    with cache.scratch() as folder:
        (folder / "x").write_bytes(b"other")
        with pytest.raises(DownloadError) as caught:
            cache.add_blob(folder / "x", "a" * 64, "x-1.tar.gz")
    assert "x-1.tar.gz" in str(caught.value)
    assert "a" * 64 in str(caught.value)
    assert hashlib.sha256(b"other").hexdigest() in str(caught.value)
    assert cache.blob("a" * 64) is None


def test_a_damaged_blob_is_named_with_what_to_delete(cache: Cache) -> None:
    sha256 = _blob(cache, b"bytes")
    path = cache.blob_path(sha256)
    path.chmod(0o644)
    path.write_bytes(b"bytez")
    with pytest.raises(DownloadError, match=r"damaged.*delete it \(rm ") as caught:
        Cache(cache.root).blob(sha256)
    assert str(path) in str(caught.value)


def test_a_folder_is_built_once_and_kept(cache: Cache) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "a").write_text("1")

    first = cache.folder("kind", "k" * 64, build)
    again = Cache(cache.root).folder("kind", "k" * 64, build)
    assert first == again
    assert (again / "a").read_text() == "1"
    assert len(built) == 1


def test_a_build_that_fails_leaves_nothing(cache: Cache) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        cache.folder("kind", "k" * 64, fail)
    assert not list((cache.root / "tmp").iterdir())
    folder = cache.folder("kind", "k" * 64, lambda f: (f / "a").touch())
    assert [p.name for p in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("damage", ["change", "remove", "add", "mode"])
def test_a_damaged_folder_is_named_with_its_first_file(cache: Cache, damage: str) -> None:
    def build(target: Path) -> None:
        (target / "a.py").write_text("1")

    folder = cache.folder("kind", "k" * 64, build)
    match damage:
        case "change":
            (folder / "a.py").write_text("2")
        case "remove":
            (folder / "a.py").unlink()
        case "add":
            (folder / "a.py").rename(folder / "b.py")
        case _:
            (folder / "a.py").chmod(0o755)
    with pytest.raises(InfraError, match=r"a\.py.*delete it \(rm -r "):
        Cache(cache.root).folder("kind", "k" * 64, lambda f: None)


def test_two_processes_build_a_folder_once(cache: Cache, tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from m2gym.tasksets.registry.cache import Cache\n"
        "def build(folder):\n"
        "    with open(sys.argv[2], 'a') as log: log.write('built\\n')\n"
        "    time.sleep(0.3); (folder / 'a').write_text('1')\n"
        "print((Cache(sys.argv[1]).folder('kind', 'k' * 64, build) / 'a').read_text())\n"
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", code, str(cache.root), str(log)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in started] == ["1\n", "1\n"]
    assert log.read_text() == "built\n"


def test_a_place_that_cannot_be_written_is_an_infra_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfraError, match="M2GYM_CACHE"):
        Cache(tmp_path / "file").folder("kind", "k" * 64, lambda f: None)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("M2GYM_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert default_root() == tmp_path / "a"
    monkeypatch.delenv("M2GYM_CACHE")
    assert default_root() == tmp_path / "b" / "m2gym"


def test_keys_depend_on_every_part() -> None:
    assert key_of("a", 1) == key_of("a", 1)
    assert len({key_of("a", 1), key_of("a", 2), key_of("b", 1), key_of("a", "1")}) == 4


def test_a_file_touched_but_unchanged_is_not_damaged(cache: Cache) -> None:
    def build(target: Path) -> None:
        (target / "a").write_text("1")

    folder = cache.folder("kind", "k" * 64, build)
    (folder / "a").touch()
    assert Cache(cache.root).folder("kind", "k" * 64, build) == folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_ended_while_building_leaves_nothing_in_the_way(
    cache: Cache, number: signal.Signals
) -> None:
    code = (
        "import signal, sys, time\n"
        "from m2gym.tasksets.registry.cache import Cache\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def build(folder):\n"
        "    (folder / 'half').touch(); print('building', flush=True); time.sleep(60)\n"
        "Cache(sys.argv[1]).folder('kind', 'k' * 64, build)\n"
    )
    command = [sys.executable, "-c", code, str(cache.root)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.send_signal(number)
    folder = cache.folder("kind", "k" * 64, lambda f: (f / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
    if number == signal.SIGINT:
        assert not list((cache.root / "tmp").iterdir())
