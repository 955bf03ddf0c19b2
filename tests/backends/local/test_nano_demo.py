import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from m2gym.backends.local.nano_demo import learn
from m2gym.cli.demo import _show_learnt


def test_the_demo_trains_and_tells_what_it_learnt(capsys):
    told = []
    learnt = learn(told=told.append, steps=1)
    assert learnt.before[0] == 0
    assert learnt.before[3] >= 0.8
    assert [row["examples"] for row in told] == [3]
    assert learnt.as_dict()["reward"] == [round(told[0]["reward"], 4)]
    assert learnt.call not in learnt.said
    _show_learnt(learnt)
    shown = capsys.readouterr().out
    assert learnt.question in shown
    assert "without examples" in shown
