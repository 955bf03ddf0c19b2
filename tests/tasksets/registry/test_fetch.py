import os
import subprocess
import sys
from pathlib import Path

import pytest

from m2gym.core.errors import DownloadError
from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.fetch import fetch, pin
from tests.tasksets.conftest import Index


def _setup_py(marker: Path) -> dict[str, str]:
    return {"setup.py": f"open({str(marker)!r}, 'w').write('ran')\n", "pkg/__init__.py": ""}


def test_nothing_of_the_package_runs(index: Index, cache: Cache, tmp_path: Path) -> None:
    file = index.add("some-pkg", "1.0", _setup_py(tmp_path / "marker"))
    paths = fetch([file], cache)
    assert paths["some-pkg-1.0.tar.gz"].stat().st_size > 0
    assert not (tmp_path / "marker").exists()


def test_the_second_use_needs_no_index(
    index: Index, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = index.add("some-pkg", "1.0", {})
    fetch([file], cache)
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nowhere")
    assert fetch([file], Cache(cache.root))[file.filename].exists()
    with pytest.raises(DownloadError):
        fetch([file], Cache(cache.root / "other"))


def test_another_hash_than_the_pinned_is_refused(index: Index, cache: Cache) -> None:
    file = index.add("some-pkg", "1.0", {}).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DownloadError, match=f"some-pkg-1.0.tar.gz: expected sha256 {'0' * 64}"):
        fetch([file], cache)
    assert cache.blob("0" * 64) is None


def test_a_file_the_index_lacks_is_named(index: Index, cache: Cache) -> None:
    file = index.add("some-pkg", "1.0", {})
    absent = file.model_copy(update={"filename": "some-pkg-2.0.tar.gz", "sha256": "1" * 64})
    with pytest.raises(
        DownloadError, match=r"lists 1 files of some-pkg, and not some-pkg-2\.0\.tar\.gz"
    ):
        fetch([file, absent], cache)


def test_progress_is_reported_for_each_file(index: Index, cache: Cache) -> None:
    files = [index.add("some-pkg", version, {}) for version in ("1.0", "2.0")]
    told: list[tuple[str, int, int]] = []
    fetch(files, cache, lambda *step: told.append(step))
    assert told[0] == ("fetching some-pkg-1.0.tar.gz", 0, 2)
    assert told[-1] == ("fetched some-pkg-2.0.tar.gz", 2, 2)
    fetch(files, cache, lambda *step: pytest.fail("nothing is left to fetch"))


def test_two_processes_fetch_at_once(index: Index, cache: Cache) -> None:
    file = index.add("some-pkg", "1.0", {"big": "x" * 2_000_000})
    code = (
        "import sys\n"
        "from m2gym.tasksets.registry.cache import Cache\n"
        "from m2gym.tasksets.registry.fetch import RegistryFile, fetch\n"
        "file = RegistryFile.model_validate_json(sys.argv[2])\n"
        "print(fetch([file], Cache(sys.argv[1]), lambda *a: print('told', file=sys.stderr)))\n"
    )
    command = [sys.executable, "-c", code, str(cache.root), file.model_dump_json()]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdout=pipe, stderr=pipe, env=os.environ) for _ in "ab"]
    outputs = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sorted(err.count(b"told") for _, err in outputs) == [0, 2]


def test_pin_takes_the_source_archive_of_a_version(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("M2GYM_CACHE", str(tmp_path / "pins"))
    published = index.add("some-pkg", "1.0", {"a": "b"})
    index.add("some-pkg", "1.1", {})
    assert pin("some-pkg", "1.0") == published


@pytest.mark.usefixtures("registry")
def test_a_real_release_comes_with_its_pinned_hash(real_cache: Cache) -> None:
    from m2gym.tasksets.registry.pinned import pinned

    wheel = pinned()["iniconfig"]
    assert fetch([wheel], real_cache)[wheel.filename].read_bytes()[:2] == b"PK"
