import re
from collections.abc import Callable
from pathlib import Path

import pytest

from m2gym.core.task import WorkspaceSpec
from m2gym.core.workspace import Workspace
from tests.tasksets.harbor.test_folder import harbor

README = Path(__file__).parents[2] / "m2gym" / "tasksets" / "README.md"


def test_the_readme_example_registers_environments_that_work(
    registry: None,
    make_box: Callable[[WorkspaceSpec], Workspace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import m2gym

    monkeypatch.chdir(tmp_path)
    harbor(tmp_path / "path/to/harbor/tasks/hello")
    [block] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(block, {})
    for name, command in (("greetings", "printf hello > out.txt"), ("mine", "true")):
        env = m2gym.make(name)
        try:
            env.reset(seed=0)
            env.step(command)
            *_, info = env.submit()
        finally:
            env.close()
        assert info["verdict"].status == "ok", info["verdict"]
        assert info["verdict"].reward == float(name == "greetings")
