"""Without a GPU the bench says what it needs; its trees and routings are what they say."""

from __future__ import annotations

import importlib

import pytest
import torch

from m2gym.kernels import bench
from m2gym.kernels.bench.__main__ import main

WANTED = "needs an NVIDIA GPU and a torch built for CUDA"


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize("arguments", [[], ["--only", "tree"], ["--tune"], ["--tune", "--fp8"]])
def test_the_module_says_what_it_needs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert WANTED in capsys.readouterr().err


@pytest.mark.usefixtures("_no_gpu")
def test_the_command_says_what_it_needs() -> None:
    pytest.importorskip("typer")
    runner = importlib.import_module("typer.testing").CliRunner()
    app = importlib.import_module("m2gym.cli.app").app
    done = runner.invoke(app, ["bench", "kernels"])
    assert done.exit_code == 1
    assert WANTED in str(done.exception)


def test_every_part_is_known() -> None:
    assert list(bench.PARTS) == ["peaks", "experts", "logprobs", "tree", "layer"]
