"""Metrics in Weights & Biases (offline), MLflow (a folder) and TensorBoard: `make test-peers`."""

from __future__ import annotations

import time

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]
wandb = pytest.importorskip("wandb", reason="run by `make test-peers`")
mlflow = pytest.importorskip("mlflow", reason="run by `make test-peers`")

from m2gym.backends.local.sinks import KINDS  # noqa: E402
from m2gym.backends.train_config import TrainConfig  # noqa: E402

ROWS = [
    {"step": n, "reward": 0.25 * n, "loss": float("nan"), "anomalies": ["x"]} for n in (1, 2, 3)
]


def written(name, tmp_path):
    config = TrainConfig(env="e", model="m", train={"lr": 0.125}, out=tmp_path / "run")
    sink = KINDS[name](config, tmp_path, 0)
    for row in ROWS:
        sink.write(row)
    sink.close()


def test_mlflow_holds_settings_and_numbers(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "m2gym"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["train.lr"] == "0.125"
    found = client.get_metric_history(run.info.run_id, "reward")
    assert [(m.step, m.value) for m in found] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert "loss" not in run.data.metrics
    assert (tmp_path / "mlflow").is_dir()


def test_wandb_writes_an_offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    written("wandb", tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    for _ in range(60):  # its service writes in a process of its own
        if b"reward" in file.read_bytes():
            return
        time.sleep(1)
    pytest.fail(f"{file} holds no rewards")
