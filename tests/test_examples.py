"""The scripts in ``examples/``: what they refuse is one line, and nothing is left behind."""

from __future__ import annotations

import runpy

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("torch", reason="torch is in extra 'train'")


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("icrl_m2_nano", ["{out}", "--report"], "run it without --report first"),
        ("pretrain_m2_nano", ["train", "{out}", "--set", "lrr=3"], "no field 'lrr'; known: steps"),
        ("pretrain_m2_nano", ["plot", "{out}", "MoE=nowhere"], "'nowhere' is not there"),
        ("pretrain_m2_nano", ["plot", "{out}", "MoE"], "expected NAME=FILE, got 'MoE'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, script, arguments, says):
    path, out = REPOSITORY / "examples" / f"{script}.py", tmp_path / "out"
    monkeypatch.setattr("sys.argv", [str(path), *(a.format(out=out) for a in arguments)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    assert says in capsys.readouterr().err
    assert not out.exists()
