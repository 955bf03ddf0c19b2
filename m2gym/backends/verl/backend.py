"""``verl``: `m2gym.train` with ``backend={"id": "verl"}``, from configuration to weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2gym.backends.local.backend import chosen
from m2gym.backends.local.gguf import model_folder
from m2gym.backends.local.metrics import MetricsFile, Row
from m2gym.backends.local.trainer import TrainResult, changes
from m2gym.backends.train_config import TrainConfig
from m2gym.backends.verl.checkpoint import checkpointed
from m2gym.backends.verl.compose import compose
from m2gym.backends.verl.environment import check_found, environment, prepare
from m2gym.backends.verl.translate import fields, flat, refuse, verl_config
from m2gym.backends.verl.versions import require_verl
from m2gym.backends.verl.watch import Watch, named
from m2gym.core.errors import InfraError, InputError
from m2gym.envs.catalog import env_entry, taskset_of
from m2gym.rollout.evaluation import next_folder

LOOK = 0.5
"""Seconds between two looks for new rows; the project's choice."""

GRACE = 20.0
"""Seconds that a run may take to end once one of its processes is gone; the project's choice."""


class VerlBackend:
    """Train under verl; see docs/verl.md."""

    def train(
        self,
        config: TrainConfig,
        *,
        resume: bool = False,
        told: Callable[[Row], None] = lambda row: None,
    ) -> TrainResult:
        """Train as configured. Ray is started for the run and ended with it, whatever happens.

        Raises:
            InputError: verl is missing or of another version, a setting that cannot be
                translated, a folder that holds a run, or none to resume.
            InfraError: what failed in verl's processes, or which of them died.
        """
        require_verl()
        out = (config.out or next_folder(config.env.id, "train")).resolve()
        config = config.replace(out=out)
        tree = self.dry_run(config)
        check_found(config.env.id, config.agent.id)
        rows = _begin(config, out, resume)
        from m2gym.backends.verl.api import OmegaConf

        if resume:
            tree.trainer.resume_mode = "auto"
        OmegaConf.save(tree, out / "verl.yaml")
        with _ray(tree, out, verl_config(config.backend).verbose) as ray:
            from m2gym.backends.verl.api import TaskRunnerV1

            runner = TaskRunnerV1.remote()
            done, watch = runner.run.remote(tree), Watch(ray)
            wrong: str | None = None
            try:
                while not ray.wait([done], timeout=LOOK)[0]:
                    _new_rows(out, rows, told)
                    wrong = watch.look()
                    # A process may also be gone because the run ends, well or not: that says more.
                    if wrong is not None and not ray.wait([done], timeout=GRACE)[0]:
                        raise InfraError(f"training under verl was ended: {wrong}; {_go_on(out)}")
                ray.get(done)
            except ray.exceptions.RayError as error:
                # That a process died may reach the run before the watch, or after it.
                cause = wrong or named(error) or _cause(error)
                raise InfraError(f"training under verl failed: {cause}; {_go_on(out)}") from error
            finally:
                _new_rows(out, rows, told)
        if not (out / "model").is_dir():
            raise InfraError(f"verl ended after {len(rows)} steps without weights in {out}/model")
        return TrainResult(out, tuple(rows), None)

    def translated(self, config: TrainConfig) -> dict[str, Any]:
        """Our fields under verl's names, ``backend.verl`` over them; needs no verl.

        Raises:
            InputError: a setting that cannot be translated, no such model, task or environment.
        """
        refuse(config)
        folder = str(Path(model_folder(config.model)).resolve())
        context = verl_config(config.backend).context or _context(folder)
        taskset = taskset_of(env_entry(config.env.id), config.env.settings)
        tasks = chosen(taskset.ids(config.env.split), config.env.tasks)
        ours = fields(config, folder=folder, context=context, tasks=tasks)
        return {**ours, **dict(flat(verl_config(config.backend).verl))}

    def dry_run(self, config: TrainConfig) -> Any:
        """verl's whole configuration for a run, checked by verl; nothing is started."""
        require_verl()
        ours = self.translated(config)
        prepare(config.out or Path("run"))
        return compose(ours, config)


def _begin(config: TrainConfig, out: Path, resume: bool) -> list[Row]:
    """Make the run's folder, or go on in it: the rows up to its last checkpoint."""
    path = out / "config.yaml"
    if not resume:
        if path.exists():
            raise InputError(f"{out} holds a run already; resume it, or name another folder")
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(config.text(), "utf-8")
        return []
    if not path.exists():
        raise InputError(f"{out} holds no run to resume")
    if config.algorithm.schedule.lag:
        raise InputError(
            "backend 'verl' cannot resume a run whose generation runs ahead yet "
            "(algorithm.schedule.lag above 0): begin a new one from its weights, model=RUN/model"
        )
    changed = changes(TrainConfig.load(path), config)
    if changed:
        raise InputError(f"the run in {out} had other values of {', '.join(changed)}")
    return MetricsFile(out / "metrics.jsonl").keep(checkpointed(out))


def _go_on(out: Path) -> str:
    step = checkpointed(out)
    return f"step {step} is saved: go on with --resume" if step else "no step was saved yet"


def _context(folder: str) -> int:
    try:
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"expected a folder with config.json and weights, got {folder!r}"
        ) from error
    length = config.get("max_position_embeddings")
    if not isinstance(length, int):
        raise InputError(f"{folder}/config.json names no context length: set backend.context")
    return length


@contextmanager
def _ray(tree: Any, out: Path, verbose: bool) -> Iterator[Any]:
    """A Ray of this run's own, gone with it."""
    from m2gym.backends.verl.api import get_ppo_ray_runtime_env, ray

    if ray.is_initialized():
        raise InputError("Ray runs in this process already; end it first: ray.shutdown()")
    runtime = get_ppo_ray_runtime_env(tree)
    runtime["env_vars"] = {
        **runtime.get("env_vars", {}),
        **environment(out),
        "TRANSFER_QUEUE_ENABLE": "1",
    }
    ray.init(
        address="local",
        num_cpus=int(tree.ray_kwargs.ray_init.num_cpus),
        num_gpus=int(tree.trainer.n_gpus_per_node) * int(tree.trainer.nnodes),
        include_dashboard=False,
        log_to_driver=verbose,
        configure_logging=verbose,
        runtime_env=runtime,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


def _new_rows(out: Path, rows: list[Row], told: Callable[[Row], None]) -> None:
    path = out / "metrics.jsonl"
    if not path.exists():
        return
    whole = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line[-1] == "\n"]
    for line in whole[len(rows) :]:
        rows.append(json.loads(line))
        told(rows[-1])


def _cause(error: BaseException) -> str:
    """The last line of what a remote process raised, and where the whole is."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{lines[-1].strip()} (set backend.verbose to see all that verl's processes print)"
