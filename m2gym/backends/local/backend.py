"""``local``: models from a folder, in this process."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from m2gym.backends.local.engine import LocalEngine
from m2gym.backends.local.gguf import model_folder
from m2gym.backends.local.hooked import HookedModel, load_causal, set_experts
from m2gym.backends.local.m2_layers import use_layers
from m2gym.backends.local.metrics import Row
from m2gym.backends.local.page import write_page
from m2gym.backends.local.rollouts import EpisodeRollouts, Rollouts
from m2gym.backends.local.trainer import LocalTrainer, TrainResult
from m2gym.backends.local.worlds import in_process
from m2gym.backends.train_config import LocalConfig, LoraConfig, TrainConfig, local_config
from m2gym.core.blocking import run_blocking
from m2gym.core.errors import InputError, UnknownIdError
from m2gym.core.protocols import Model, Scaffold
from m2gym.core.task import Split
from m2gym.envs.catalog import env_entry, taskset_of
from m2gym.models.chat_format import TurnFormat
from m2gym.models.formats import FORMATS, guess_format, load_format
from m2gym.models.token_model import TokenModel
from m2gym.models.tokenizer import HfTokenizer
from m2gym.rollout.driver import Attempt
from m2gym.rollout.evaluation import next_folder
from m2gym.rollout.limits import EpisodeLimits
from m2gym.scaffolds.agents import make_scaffold


class LocalBackend:
    """Generate and train in this process; see `m2gym.backends.local`."""

    def model(self, spec: str) -> Model:
        """``spec`` is a folder in Hugging Face's format, a training run's, or ``gguf:…``."""
        folder = Path(model_folder(spec))
        if (folder / "config.yaml").is_file() and not (folder / "model").is_dir():
            raise InputError(
                f"{folder} is a run without weights: its training has not ended; go on with "
                f"m2gym train CONFIG --out {folder} --resume"
            )
        folder = folder / "model" if (folder / "model").is_dir() else folder
        config = LocalConfig()
        loaded = load_causal(str(folder), device=device_of(config))
        hooked = HookedModel(loaded)
        hooked.check()
        use_layers(hooked)
        format = format_of(folder, config)
        return TokenModel(
            engine_of(hooked, format, config), format, name=spec, context=hooked.context
        )

    def translated(self, config: TrainConfig) -> dict[str, Any]:
        """All settings of this backend, those that the configuration leaves out too."""
        return local_config(config.backend).model_dump(mode="json")

    def train(
        self,
        config: TrainConfig,
        *,
        resume: bool = False,
        told: Callable[[Row], None] = lambda row: None,
    ) -> TrainResult:
        """Train as configured; see `m2gym.backends.local.trainer`. Also inside a notebook's loop.

        SIGINT and SIGTERM end the run after the update under way, saved; then `KeyboardInterrupt`.
        """
        local = local_config(config.backend)
        if config.out is None:
            config = config.replace(out=next_folder(config.env.id, "train"))
        source = model_folder(config.model)
        hooked = prepared(load_causal(source, dtype=_dtype(local)), config)
        hooked.check()
        format = format_of(Path(source), local)
        engine = engine_of(hooked, format, local)
        rollouts = rollouts_of(config, format, engine.context)
        trainer = LocalTrainer(config, hooked, rollouts, engine=engine, resume=resume, told=told)
        try:
            result = run_blocking(trainer.run())
        finally:
            engine.close()
            if trainer.rows and _can_draw():
                decode = format.tokenizer.decode
                write_page(config, trainer.rows, trainer.episodes(), decode, trainer.out)
        tokenizer = format.tokenizer
        if isinstance(tokenizer, HfTokenizer):
            tokenizer.tokenizer.save_pretrained(result.model)
        return result


def prepared(model: Any, config: TrainConfig) -> HookedModel:
    """A model on its device, with adapters and recomputation where the configuration wants them."""
    local = local_config(config.backend)
    model = model.to(device_of(local))
    if local.experts is not None:
        set_experts(model, local.experts)
    if local.lora is not None:
        model = _adapted(model, local.lora)
    hooked = HookedModel(model)
    if local.checkpointing:
        enable = getattr(hooked.base, "activation_checkpointing_enable", None)
        enable = enable or hooked.base.gradient_checkpointing_enable  # its older name
        enable({"use_reentrant": False})
        if local.lora is not None:
            hooked.base.enable_input_require_grads()
    elif local.experts is None:
        use_layers(hooked)
    return hooked


def engine_of(model: HookedModel, format: TurnFormat, config: LocalConfig) -> LocalEngine:
    """The engine for a chat format."""
    return LocalEngine(
        model,
        stop_ids=format.stop_ids,
        decode=format.tokenizer.decode,
        rows=config.rows,
        kv_tokens=config.kv_tokens,
        context=config.context,
    )


def format_of(folder: Path, config: LocalConfig) -> TurnFormat:
    """The chat format of a model's tokenizer.

    Raises:
        InputError: its tokens tell of none, and ``config`` names none.
    """
    tokenizer = HfTokenizer.load(folder)
    if config.format:
        return load_format(config.format, tokenizer)
    try:
        return guess_format(tokenizer)
    except UnknownIdError as error:
        raise InputError(
            f"the tokenizer in {folder} has no end of a turn that is known here, so how chats are "
            f"written cannot be told; train a chat model, or name one of {', '.join(FORMATS)} as "
            "backend.format"
        ) from error


def rollouts_of(config: TrainConfig, format: TurnFormat, context: int | None) -> Rollouts:
    """Episodes of the configured environment and agent."""
    entry = env_entry(config.env.id)
    taskset = taskset_of(entry, config.env.settings)
    tasks = chosen(taskset.ids(config.env.split), config.env.tasks)
    other: Split = "test" if config.env.split == "train" else "train"
    first = Attempt(
        env=entry,
        taskset=taskset,
        task=taskset.task(tasks[0]),
        scaffold=scaffold_of(config),
        agent=config.agent.id,
        workspace=config.env.workspace,
        limits=EpisodeLimits(agent=config.train.episode_seconds),
    )
    if config.env.id == "tool-worlds" and config.agent.id == "shots":
        return in_process(config, taskset, format, tasks)
    held_out = tuple(taskset.ids(other))
    if config.env.tasks is not None:
        names = {name.partition("/")[0] for name in config.env.tasks}
        held_out = tuple(i for i in held_out if i.partition("/")[0] in names)
    own = [scaffold_of(config, stage.agent) for stage in config.stages]
    return EpisodeRollouts(
        first, format, tasks, held_out, context, stages=own, process=config.algorithm.process
    )


def chosen(ids: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Those of ``ids`` that are wanted, by id or by the part before a slash.

    >>> chosen(["gcd/0", "gcd/1", "lcm/0"], ["gcd"])
    ('gcd/0', 'gcd/1')
    """
    if wanted is None:
        return tuple(ids)
    for name in wanted:
        if not any(i == name or i.startswith(f"{name}/") for i in ids):
            raise UnknownIdError("task", name, {*ids, *(i.partition("/")[0] for i in ids)})
    return tuple(i for i in ids if i in wanted or i.partition("/")[0] in wanted)


def scaffold_of(config: TrainConfig, own: Mapping[str, Any] | None = None) -> Scaffold:
    """The agent, made with its settings, and a stage's ``own`` over them."""
    return make_scaffold(config.agent.id, {**config.agent.settings, **(own or {})})


def device_of(config: LocalConfig) -> str:
    """``auto`` is the GPU where there is one.

    Raises:
        InputError: a GPU is asked for and torch sees none, or it is another kind of device.
    """
    there = torch.cuda.is_available()
    if config.device == "auto":
        return "cuda" if there else "cpu"
    if config.device.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"backend.device is auto, cpu or cuda, got {config.device!r}")
    if not config.device.startswith("cpu") and not there:
        raise InputError(
            f"backend.device is {config.device!r}, and PyTorch {torch.__version__} sees no GPU "
            "here; leave it at auto"
        )
    return config.device


def _can_draw() -> bool:
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    warnings.warn("no report.html: pip install 'm2gym[report]'", stacklevel=2)
    return False


def _dtype(config: LocalConfig) -> torch.dtype | None:
    return {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def _adapted(model: Any, config: LoraConfig) -> Any:
    try:
        peft: Any = importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise InputError("backend.lora needs peft: pip install 'm2gym[train]'") from error
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=targets, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise InputError(f"backend.lora: {error}") from error
