"""In a notebook: runs, trajectories and verdicts show themselves; evaluate works in its loop."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from m2gym.core.trajectory import Step, Trajectory
from m2gym.core.verdict import Score, Verdict

CELL = """
import m2gym
run = m2gym.evaluate("tiny", agent="gold", out="nb")
assert run.score == 1
run
"""


def test_a_cell_shows_a_bar_and_a_table(tiny, tmp_path):
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(CELL),
            nbformat.v4.new_code_cell("run.trajectories[0]"),
            nbformat.v4.new_code_cell("run.to_df()[['task', 'reward']]"),
        ]
    )
    here = str(Path.cwd())
    client = NotebookClient(book, timeout=120, kernel_name="python3")
    client.execute(env={**os.environ, "PYTHONPATH": here}, cwd=here)
    outputs = [out for cell in book.cells for out in cell.outputs]
    shown = "".join(str(out.get("data", {}).get("text/html", "")) for out in outputs)
    text = "".join(str(out.get("data", {}).get("text/plain", "")) + out.get("text", "")
                   for out in outputs)  # fmt: skip
    assert "4/4" in shown
    assert "ipywidgets" not in text
    assert "<td>1.000</td>" in shown
    assert "score right-answer" in shown
    assert "dataframe" in shown


def test_what_it_shows_is_escaped():
    verdict = Verdict(reward=0.0, scores={"<i>": Score(value=0, evidence={"x": "</pre><b>"})})
    one = Trajectory(
        id="1", env="e", task="<script>", task_hash="h", agent="a", verdict=verdict,
        steps=(Step(action="<img>", observation="</pre><script>"),), error="<u>",
    )  # fmt: skip
    shown = one._repr_html_()
    assert not any(tag in shown for tag in ("<script", "<i>", "<b>", "<img", "<u>"))
    assert "&lt;script&gt;" in shown


def test_a_run_without_pandas_says_what_to_install(tmp_path, record, info):
    from m2gym.rollout.run import load_run
    from m2gym.rollout.run_folder import RunWriter

    with RunWriter(tmp_path, info()) as writer:
        writer.append(record("a", 0))
    pandas = pytest.importorskip("pandas")
    frame = load_run(tmp_path).to_df()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["task"]) == ["a"]
