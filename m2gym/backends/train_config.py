"""The configuration of a training run: one YAML file, one pydantic model, whatever the backend.

Every field is settable as ``a.b=c``; an unknown one is an error that names the nearest known.
Defaults that no source gives are the project's choice and say so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m2gym.core.errors import InputError


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Open(BaseModel):
    """A part whose further fields are settings of what ``id`` names."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str

    @property
    def settings(self) -> dict[str, Any]:
        """The further fields."""
        return dict(self.__pydantic_extra__ or {})


class EnvConfig(Open):
    """The environment; its further settings go to its taskset."""

    split: Literal["train", "test"] = "train"
    tasks: tuple[str, ...] | None = Field(None, description="ids; all of the split when left out")
    workspace: str = Field("auto", description="where boxes run")


class AgentConfig(Open):
    """The scaffold; its further settings go to its class."""


class ScheduleConfig(Section):
    """Which finished groups are trained on when [Forge, windowed FIFO]."""

    id: Literal["windowed-fifo"] = "windowed-fifo"
    window: int | float = Field(0.3, description="W: a count of groups, or a fraction of N")
    lag: int = Field(0, ge=0, description="updates by which generation runs ahead; 0: synchronous")


Objective = Literal["cispo", "grpo", "dapo", "gspo"]
Advantage = Literal["normalised", "centred", "leave_one_out"]


class ProcessConfig(Section):
    """Rewards beside the verdict: r = alpha·process + beta·speed + performance [M2 §6].

    Weights are undisclosed; these are the project's (`m2gym.forge.rewards`).
    """

    alpha: float = Field(0.1, ge=0, description="weight of a completion's own reward")
    beta: float = Field(0.0, ge=0, description="weight of speed: the group's median time / own")
    malformed: float = Field(-1.0, description="where all of its tool calls are malformed")
    mixing: float = Field(-0.5, description="where half of its letters are of a foreign script")
    structure: float = Field(0.2, description="for well-formed reasoning")
    scripts: tuple[str, ...] = Field(("LATIN",), description="scripts that are not foreign")


class AlgorithmConfig(Section):
    """Objective and advantages; what is left out has the objective's published value."""

    id: Objective = "cispo"
    epsilon_low: float | None = Field(None, ge=0)
    epsilon_high: float | None = Field(None, ge=0)
    kl: float = Field(0.0, ge=0, description="weight of the KL to the first weights (grpo, dapo)")
    entropy: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    advantage: Advantage = "normalised"
    fraction: float = Field(1.0, ge=0, le=1, description="share of the group's mean subtracted")
    process: ProcessConfig | None = Field(None, description="rewards beside the verdict")
    half_life: float | None = Field(
        None, gt=0, description="updates by which a token lags and counts half"
    )
    importance_cap: float | None = Field(
        None, gt=0, description="largest weight of trainer against engine; the ratio is then 1"
    )
    schedule: ScheduleConfig = ScheduleConfig()


class LoraConfig(Section):
    """Low-rank adapters (arXiv 2106.09685) instead of all weights; by peft."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: str | tuple[str, ...] = Field("all-linear", description="modules that get one")


class BackendConfig(Open):
    """Where models run and learn; its further fields are the backend's own."""

    id: str = "local"


class LocalConfig(Section):
    """Settings of the backend ``local``."""

    device: str = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: the files'")
    lora: LoraConfig | None = None
    checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    micro_tokens: int = Field(8192, ge=1, description="tokens of a micro-batch after merging")
    rows: int = Field(64, ge=1, description="sequences generated at once")
    kv_tokens: int = Field(262_144, ge=1, description="tokens the engine keeps")
    context: int | None = Field(None, ge=2, description="tokens of prompt and answer")
    format: str | None = Field(None, description="chat format; guessed from the tokenizer")
    experts: str | None = Field(
        None, description="experts of a mixture: m2_triton (m2gym.kernels), or transformers' own"
    )


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainSettings(Section):
    """Steps, batch, optimiser. AdamW's betas and epsilon are M1's (arXiv 2506.13585)."""

    steps: int = Field(60, ge=1)
    groups: int = Field(8, ge=1, description="groups an update")
    group_size: int = Field(8, ge=1, description="episodes of one task in a group")
    lr: float = Field(1e-5, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(1e-15, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; ours")
    warmup: int = Field(0, ge=0, description="updates in which the rate rises")
    decay: Literal["constant", "linear", "cosine"] = Field("constant", description="to a tenth")
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(512, ge=1, description="of one answer")
    seed: int = 0
    save_every: int = Field(10, ge=1, description="updates between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    eval_every: int | None = Field(
        None, ge=1, description="updates between evaluations; without it there is none"
    )
    eval_tasks: int = Field(32, ge=1, description="held-out tasks of an evaluation")
    probe_every: int = Field(1, ge=1, description="updates between measurements of nll0")
    stop_at: float | None = Field(None, description="held-out reward at which training ends")
    concurrency: int = Field(64, ge=1, description="episodes at once")
    episode_seconds: float | None = Field(
        None,
        gt=0,
        description="wall time of an episode's agent, waiting for answers included; the task's own "
        "when left out, which a slow machine may need more than",
    )


class StageConfig(Section):
    """A stage of a curriculum; what is left out is as in the whole run.

    ICRL (arXiv 2603.08068): 3, 2 and 0 examples for 100 updates each, and the reference model and
    the optimiser begin anew with each stage.
    """

    steps: int | None = Field(None, ge=1, description="updates; the last stage's go to train.steps")
    success: float | None = Field(
        None, gt=0, le=1, description="mean success of ten updates that ends it earlier"
    )
    agent: dict[str, Any] = Field(default_factory=dict, description="its settings, e.g. shots")
    objective: Objective | None = None
    epsilon_low: float | None = Field(None, ge=0)
    epsilon_high: float | None = Field(None, ge=0)
    kl: float | None = Field(None, ge=0)
    entropy: float | None = Field(None, ge=0)
    advantage: Advantage | None = None
    fraction: float | None = Field(None, ge=0, le=1)
    temperature: float | None = Field(None, gt=0)
    lr: float | None = Field(None, gt=0)
    step_back: float | None = Field(
        None,
        gt=0,
        description="where nll0 ends more nats above its lowest, the next stage begins there; ours",
    )
    reset_reference: bool = Field(True, description="KL is then to the weights it begins with")
    reset_optimizer: bool = Field(True, description="moments and warm-up begin anew")


class TrainConfig(Section):
    """The whole of it.

    >>> TrainConfig(env={"id": "tool-use"}, model="m").algorithm.id
    'cispo'
    """

    env: EnvConfig
    agent: AgentConfig = AgentConfig(id="icrl")
    model: str
    algorithm: AlgorithmConfig = AlgorithmConfig()
    backend: BackendConfig = BackendConfig()
    train: TrainSettings = TrainSettings()
    stages: tuple[StageConfig, ...] = Field((), description="a curriculum; none: one stage")
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="where metrics go beside metrics.jsonl"
    )
    out: Path | None = Field(None, description="the run's folder; a new one below runs/")

    def __init__(self, **values: Any) -> None:
        if isinstance(values.get("env"), str):
            values["env"] = {"id": values["env"]}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(told(error, type(self))) from None

    def replace(self, **values: Any) -> TrainConfig:
        """A copy with other values; of a part, only the fields given change unless its id does."""
        mine = self.model_dump()
        for key, value in values.items():
            given = value.model_dump() if isinstance(value, BaseModel) else value
            old = mine.get(key)
            mine[key] = given
            if isinstance(given, Mapping) and isinstance(old, dict):
                same = given.get("id", old.get("id")) == old.get("id")
                mine[key] = {**old, **given} if same else dict(given)
        return TrainConfig(**mine)

    def text(self) -> str:
        """As YAML, whole."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def load(cls, path: str | Path, settings: Sequence[str] = ()) -> TrainConfig:
        """From a YAML file, with ``a.b=c`` settings over it.

        Raises:
            InputError: no such file, not YAML, an unknown field or a value that does not fit.
        """
        try:
            data = yaml.safe_load(Path(path).read_text("utf-8"))
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{str(path)!r} is not YAML: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f"{str(path)!r} holds {type(data).__name__}, expected fields")
        for setting in settings:
            _put(data, setting)
        return cls(**data)


def local_config(config: BackendConfig) -> LocalConfig:
    """The backend's own fields; `InputError` names the nearest to an unknown one."""
    try:
        return LocalConfig(**config.settings)
    except ValidationError as error:
        raise InputError(told(error, LocalConfig, "backend.")) from None


EXPECTED = {
    "model_type": "expected fields, {name: value}",
    "dict_type": "expected fields, {name: value}",
    "tuple_type": "expected a list, [value]",
}
"""What pydantic says of Python's types, in YAML's words."""


def told(error: ValidationError, model: type[BaseModel], above: str = "") -> str:
    """What pydantic found, a line each, with the nearest known field."""
    lines = []
    for found in error.errors():
        where = [str(part) for part in found["loc"]]
        name = above + ".".join(where)
        if found["type"] == "extra_forbidden":
            known = sorted(_fields(model, where[:-1]))
            near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            lines.append(f"unknown field {name}; {hint}")
        elif found["type"] == "missing":
            lines.append(f"{name} is missing")
        else:
            expected = EXPECTED.get(found["type"], found["msg"])
            lines.append(f"{name}: {expected}, got {found.get('input')!r}")
    return "; ".join(lines)


def _fields(model: type[BaseModel], where: Sequence[str]) -> set[str]:
    for part in where:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(a for a in options if isinstance(a, type) and issubclass(a, BaseModel))
    return set(model.model_fields)


def _put(data: Any, setting: str) -> None:
    path, equals, value = setting.partition("=")
    if not equals or not path:
        raise InputError(f"a setting is written a.b=c, got {setting!r}")
    *above, last = path.split(".")
    for part in above:
        if isinstance(data, list):
            if not part.isdigit() or int(part) >= len(data):
                raise InputError(f"{setting!r}: {part} is no index of {len(data)} parts")
            data = data[int(part)]
            continue
        inner = data.setdefault(part, {})
        if isinstance(inner, str) and part in ("env", "agent", "algorithm", "backend"):
            inner = data[part] = {"id": inner}
        if not isinstance(inner, dict | list):
            raise InputError(f"{setting!r}: {part} holds {inner!r}, which has no fields")
        data = inner
    data[last] = yaml.safe_load(value)
