from pathlib import Path

import pytest

from m2gym.tasksets.registry.cache import Cache
from m2gym.tasksets.registry.imports import imported
from m2gym.tasksets.registry.resolve import needed, normal, resolve
from m2gym.tasksets.registry.sdist import PackageRejectedError, layout
from tests.tasksets.conftest import Index


def _tree(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


FILES = {
    "thing/__init__.py": "import os, yaml\n"
    "try:\n    import fast\nexcept ImportError: fast = None\n",
    "tests/test_thing.py": "import freezegun\nimport thing\nfrom helpers import x\n"
    "def test_a(mocker):\n    import inner\n",
    "tests/helpers.py": "x = 1\n",
    "PKG-INFO": "Metadata-Version: 2.1\nName: thing\nVersion: 1\n"
    "Requires-Dist: base>=2\n"
    "Requires-Dist: old; python_version < '3'\n"
    "Requires-Dist: freezegun>=1.1; extra == 'test' and python_version > '3'\n"
    "Requires-Dist: sphinx; extra == 'docs'\n",
    "pyproject.toml": "[dependency-groups]\ntests = ['pytest-mock>=3', 'coverage']\n",
}


def test_what_tests_need_is_what_they_import_and_the_release_requires(tmp_path: Path) -> None:
    root = _tree(tmp_path, FILES)
    where = layout(root, "thing")
    paths = [p for p in FILES if p.endswith(".py")]
    assert set(imported(root, paths, where)) == {"yaml", "freezegun"}
    assert needed(root, where, "thing") == [
        "base>=2",
        "freezegun>=1.1; python_version > '3'",
        "old; python_version < '3'",
        "pytest-mock>=3",
        "pyyaml",
    ]


def test_names() -> None:
    assert normal("Zope.Interface_x") == "zope-interface-x"


def test_nothing_is_resolved_without_pip(cache: Cache) -> None:
    assert resolve([], cache) == ()


def test_what_has_only_source_archives_is_refused_and_never_built(
    index: Index, cache: Cache, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    index.add("gears", "1.0", {"setup.py": f"open({str(ran)!r}, 'w')", "gears.py": ""})
    with pytest.raises(PackageRejectedError, match="gears"):
        resolve(["gears"], cache)
    assert not ran.exists()
