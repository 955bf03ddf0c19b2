"""What a run shows: the page, the plots, the live view, TensorBoard, anomalies."""

from __future__ import annotations

import html
import importlib.util
import io
import json
import math

import pytest

torch = pytest.importorskip("torch", reason="torch is in extra 'train'")
pytest.importorskip("matplotlib", reason="matplotlib is in extra 'report'")

from rich.console import Console  # noqa: E402

from m2gym.backends.local.metrics import EqualTasks, anomalies  # noqa: E402
from m2gym.backends.local.page import write_page  # noqa: E402
from m2gym.backends.local.plots import gains, interval, plot_seeds  # noqa: E402
from m2gym.backends.local.sinks import KINDS  # noqa: E402
from m2gym.backends.local.trainer import LocalTrainer  # noqa: E402
from m2gym.cli.train_view import TrainView  # noqa: E402
from m2gym.core.errors import InputError  # noqa: E402
from tests.backends.local.models import tiny  # noqa: E402
from tests.backends.local.test_trainer import HookedModel, config, prompts, share  # noqa: E402

EVIL = "<script>alert('x')</script>"


async def test_the_page_shows_a_run_and_escapes_what_was_written(tmp_path):
    cfg = config(tmp_path / "run", steps=2).replace(model=EVIL)
    trainer = LocalTrainer(cfg, HookedModel(tiny(initializer_range=0.1)), prompts())
    await trainer.run()
    rows = [{**row, "anomalies": [EVIL]} for row in trainer.rows]
    said = lambda ids: f"{EVIL} {len(ids)}"  # noqa: E731
    page = write_page(cfg, rows, trainer.episodes(), said, tmp_path / "run").read_text()
    assert "<script" not in page
    assert page.count(html.escape(EVIL)) > 10
    assert f"{html.escape(EVIL)} 12" in page, "a prompt"
    assert f"{html.escape(EVIL)} 8" in page, "an answer"
    assert "data:image/png;base64," in page
    assert (tmp_path / "run" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_gains_of_seeds_and_their_interval(tmp_path):
    runs = [
        [
            {"step": 1, "reward": 0.1, "held_out_before": 0.1 * seed},
            {"step": 2, "reward": 0.5, "nll0": 3.0, "held_out": 0.5 + 0.2 * seed},
        ]
        for seed in range(3)
    ]
    assert gains(runs) == pytest.approx([0.5, 0.6, 0.7])
    low, high = interval(gains(runs))
    assert 0 < low < 0.6 < high
    plot_seeds(runs, tmp_path / "seeds.png")
    assert (tmp_path / "seeds.png").stat().st_size > 5000
    with pytest.raises(InputError, match="eval_every"):
        gains([[{"step": 1}]])


def test_the_live_view_shows_the_course_and_what_is_odd():
    out = io.StringIO()
    row = {
        "step": 1, "stage": 1, "reward": 0.25, "length": 9.0, "entropy": 1.5, "merge": 3.0,
        "tokens_per_second": 77.0, "anomalies": [], "seconds_engine": 1.25,
    }  # fmt: skip
    with TrainView(8, Console(file=out, force_terminal=True, width=100)) as view:
        assert view.picture() is view.spinner
        view.add(row)
        view.add({**row, "step": 2, "reward": 0.75, "anomalies": ["look [red]here[/red]"]})
    said = out.getvalue()
    for text in ("step 2 of 8", "0.75", "▁█", "engine 1.2", "77", "look [red]here[/red]"):
        assert text in said


async def test_tensorboard_holds_the_rows(tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    cfg = config(tmp_path, steps=3).replace(log=["tensorboard"])
    trainer = LocalTrainer(cfg, HookedModel(tiny(initializer_range=0.1)), prompts())
    rows = (await trainer.run()).rows
    found = events.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [e.step for e in found.Scalars("reward")] == [1, 2, 3]
    assert [e.value for e in found.Scalars("reward")] == pytest.approx([r["reward"] for r in rows])


def test_a_sink_whose_package_is_absent_says_what_to_install(tmp_path):
    absent = [name for name in KINDS if importlib.util.find_spec(name) is None]
    for name in absent or pytest.skip("all of them are installed here"):
        cfg = config(tmp_path / name).replace(log=[name])
        with pytest.raises(InputError, match=f"pip install {name}"):
            LocalTrainer(cfg, HookedModel(tiny()), prompts())
        assert not (tmp_path / name).exists(), "nothing was begun"


async def test_a_task_that_always_fails_and_nan_are_named(tmp_path):
    """One task never succeeds, another gives NaN now and then: the run goes on and says so."""

    def reward(task, ids):
        if task == "t0":
            return 0.0
        return math.nan if task == "t1" and ids[0] % 2 else share(task, ids) + ids[0] % 2

    trainer = LocalTrainer(
        config(tmp_path, steps=8, group_size=4), HookedModel(tiny(initializer_range=0.1)),
        prompts(reward),
    )  # fmt: skip
    rows = (await trainer.run()).rows
    said = [told for row in rows for told in row["anomalies"]]
    assert any(
        "task 't0': all attempts were equal 3 times running (it always fails)" in t for t in said
    )
    assert any("episodes were masked: " in t and "reward nan" in t for t in said)
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["anomalies"] for r in written] == [r["anomalies"] for r in rows]


def test_groups_that_always_agree_are_counted_apart():
    seen = EqualTasks()
    for _ in range(2):
        assert seen.add("a", [1.0, 1.0]) is None
        assert seen.add("b", [0.0, 1.0]) is None
    assert seen.add("a", [1.0, 1.0]) == (1.0, 3)
    calm = {"step": 1, "grad_norm": 1.0, "groups": 2, "groups_equal": 0, "length": 10, "entropy": 2}
    (told,) = anomalies({**calm, "equal": {"a": (1.0, 3)}}, [])
    assert "always 1" in told
    (told,) = anomalies({**calm, "oom": 2.0}, [])
    assert "micro_tokens" in told
