"""Where a run's metrics go beside ``metrics.jsonl``: TensorBoard, Weights & Biases, MLflow.

Each takes a step's row as it comes; what is no finite number is left out. Their packages are
imported when the sink is made.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from m2gym.backends.train_config import TrainConfig
from m2gym.core.errors import InputError


class Sink(Protocol):
    """Takes rows of metrics."""

    def write(self, row: Mapping[str, Any]) -> None:
        """A step's row; a step that is written again (after a resume) replaces the old one where
        the service can."""
        ...

    def close(self) -> None:
        """No more rows."""
        ...


class TensorBoard:
    """Event files in ``OUT/tensorboard``."""

    def __init__(self, config: TrainConfig, out: Path, step: int) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self.writer: Any = module.SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of project ``m2gym`` under the folder's name; the service's own settings
    (``WANDB_MODE=offline``, ``WANDB_PROJECT`` …) hold. Its files lie in ``OUT/wandb``.
    """

    def __init__(self, config: TrainConfig, out: Path, step: int) -> None:
        self.run: Any = importlib.import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", "m2gym"),
            name=out.name,
            dir=str(out),
            config=config.model_dump(mode="json"),
        )

    def write(self, row: Mapping[str, Any]) -> None:
        self.run.log(numbers(row), step=int(row["step"]))

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """A run of experiment ``m2gym``: where ``MLFLOW_TRACKING_URI`` says, else in
    the folder ``OUT/mlflow``.
    """

    def __init__(self, config: TrainConfig, out: Path, step: int) -> None:
        self.mlflow: Any = importlib.import_module("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # The small package has no database, and MLflow asks for this word before it takes a
            # folder.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            self.mlflow.set_tracking_uri((out / "mlflow").resolve().as_uri())
        self.mlflow.set_experiment("m2gym")
        self.mlflow.start_run(run_name=out.name)
        self.mlflow.log_params(flat(config.model_dump(mode="json")))

    def write(self, row: Mapping[str, Any]) -> None:
        self.mlflow.log_metrics(numbers(row), step=int(row["step"]))

    def close(self) -> None:
        self.mlflow.end_run()


KINDS: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[Mlflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": Mlflow,
}


def check_sinks(names: Sequence[str]) -> None:
    """Before a run begins: whether what its metrics go to is installed.

    Raises:
        InputError: it is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"log: {name} is not installed: pip install {name}")


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, and how many anomalies it names.

    >>> numbers({"step": 3, "reward": 0.5, "loss": float("nan"), "anomalies": ["a", "b"]})
    {'step': 3.0, 'reward': 0.5, 'anomalies': 2.0}
    """
    found = {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    return {**found, "anomalies": float(len(row.get("anomalies", ())))}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested settings as ``a.b``.

    >>> flat({"train": {"lr": 0.1}, "model": "m"})
    {'train.lr': '0.1', 'model': 'm'}
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = str(value)[:500]
    return found
