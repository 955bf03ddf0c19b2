from pathlib import Path

from m2gym.tasksets.registry.host import scan


def test_packages_and_modules_are_found_wherever_they_lie(tmp_path: Path) -> None:
    paths = [
        "cloud/third_party/some_pkg/__init__.py",
        "cloud/third_party/some_pkg/inner/__init__.py",
        "cloud/third_party/some_pkg/module.py",
        "cloud/app/__init__.py",
        "cloud/app/own.py",
        "cloud/app/_vendor/__init__.py",
        "cloud/app/_vendor/one_file.py",
        "tool/lib/one_file.py",
        "python3.11/os.py",
        "python3.11/json/__init__.py",
        "python3.11/site-packages/other/__init__.py",
    ]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "tool/lib/link.py").symlink_to("one_file.py")
    found = scan([str(tmp_path)])
    assert found["some_pkg"] == [f"{tmp_path}/cloud/third_party/some_pkg"]
    assert sorted(found["one_file"]) == [
        f"{tmp_path}/cloud/app/_vendor/one_file.py",
        f"{tmp_path}/tool/lib/one_file.py",
    ]
    assert found["other"] == [f"{tmp_path}/python3.11/site-packages/other"]
    assert not {"json", "os", "own", "link"} & set(found)
