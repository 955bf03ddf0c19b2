"""``m2gym eval``: let an agent attempt tasks, and record every episode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, split_name
from m2gym.core.errors import InputError

CONFIGURED = (
    "agent_cmd",
    "agent_install",
    "agent_file",
    "model",
    "tokens",
    "cost",
    "model_context",
    "split",
    "task",
    "limit",
    "attempts",
    "workspace",
    "seed",
)
"""Options that belong to a run's configuration."""


def eval_(
    context: typer.Context,
    env: Annotated[
        str | None, typer.Argument(help="Environment id; see `m2gym list envs`.")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            "-a",
            help="gold, react, codex, scripted:FILE, … (see `m2gym list scaffolds`) or "
            "module:Class.",
        ),
    ] = None,
    agent_cmd: Annotated[
        str | None,
        typer.Option(
            "--agent-cmd",
            help="Any program instead: a line of bash in which {base_url}, {key}, {model}, "
            "{instruction_file}, {instruction}, {workdir} are filled in.",
        ),
    ] = None,
    agent_install: Annotated[
        list[str] | None,
        typer.Option(
            "--agent-install",
            help="What that program needs: pip:NAME==VERSION or npm:NAME@VERSION (repeatable).",
        ),
    ] = None,
    agent_file: Annotated[
        list[str] | None,
        typer.Option(
            "--agent-file",
            help="PATH=FILE: written before it starts, filled in like the command (repeatable); "
            "~/ is its home.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="For agents that call one: scripted:FILE, replay:RUN, "
            "openai-compatible:URL#NAME, or a provider's name as LiteLLM has it.",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens a model may generate in an episode.")
    ] = None,
    cost: Annotated[
        float | None, typer.Option(min=0, help="Most that an episode's calls may cost, USD.")
    ] = None,
    model_context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Most tokens of one call, prompt and answer."),
    ] = None,
    split: options.SplitName = "test",
    task: options.TaskIds = None,
    limit: options.Limit = None,
    attempts: Annotated[int, typer.Option("--attempts", "-k", min=1, help="Episodes a task.")] = 1,
    concurrency: options.Concurrency = None,
    workspace: options.WorkspaceKind = "auto",
    seed: Annotated[int, typer.Option(help="Episode seeds follow from it.")] = 0,
    out: options.Out = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out, with its own configuration; ENV, --agent and "
            "the rest are left out, or given whole and must be the same.",
        ),
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Let an agent attempt tasks of an environment and print its score.

    Every episode is recorded in a run folder. Ctrl-C stops all boxes; --resume finishes the run.
    Episodes that infrastructure failed have no score; --resume tries them again.
    """
    from m2gym.models.budget import Budget
    from m2gym.rollout.evaluation import evaluate, next_folder

    if agent_cmd is not None:
        if agent is not None:
            raise InputError("--agent or --agent-cmd, not both")
        chosen: Any = command_agent(agent_cmd, agent_install, agent_file)
    else:
        if agent_install or agent_file:
            raise InputError("--agent-install and --agent-file belong to --agent-cmd")
        chosen = agent
    if resume and env is None and chosen is None:
        settings = recorded(out)
        changing = [f"--{name}" for name in CONFIGURED if given(context, name)]
        if changing:
            raise InputError(
                f"--resume uses the run's own configuration: leave out {', '.join(changing)}"
            )
    elif env is None or chosen is None:
        raise InputError("say what to run: m2gym eval ENV --agent AGENT (or --resume --out RUN)")
    else:
        budget = Budget(tokens=tokens, cost_usd=cost, context=model_context)
        settings = {
            "env": env,
            "agent": chosen,
            "model": model,
            "budget": None if budget == Budget() else budget,
            "split": split_name(split),
            "tasks": task or None,
            "limit": limit,
            "attempts": attempts,
            "workspace": workspace,
            "seed": seed,
        }
    path = out if out is not None else next_folder(settings["env"], named(settings["agent"]))
    try:
        run = evaluate(
            **settings, concurrency=concurrency, out=path, resume=resume, progress=not json
        )
    except KeyboardInterrupt:
        note(f"m2gym: stopped; finish with: m2gym eval --resume --out {path}")
        raise typer.Exit(130) from None
    if json:
        show_json({**run.summary.as_dict(), "path": str(run.path), "complete": run.complete})
    else:
        show(str(run))
        note(f"run: {run.path}")
    if run.summary.estimate is None:
        error = next((t.error for t in run if t.error), "no episode")
        raise InputError(f"no episode could be graded; the first says: {error}")


def given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def recorded(out: Path | None) -> dict[str, Any]:
    """The settings of the run in ``out``."""
    from m2gym.models.budget import Budget
    from m2gym.rollout.run_folder import read_info
    from m2gym.scaffolds.blackbox.command import CommandAgent

    if out is None:
        raise InputError("--resume needs the run's folder: --out RUN")
    config = read_info(out).config
    names = ("env", "agent", "model", "split", "attempts", "workspace", "seed")
    settings = {name: getattr(config, name) for name in names}
    if config.scaffold.get("class") == COMMAND:
        settings["agent"] = CommandAgent.from_settings(config.scaffold["settings"])
    if config.budget:
        settings["budget"] = Budget(**config.budget)  # type: ignore[arg-type]
    return {**settings, "tasks": list(config.tasks)}


COMMAND = "m2gym.scaffolds.blackbox.command:CommandAgent"


def named(agent: Any) -> str:
    """How an agent is named in a folder's name."""
    return agent if isinstance(agent, str) else str(agent.name)


def command_agent(command: str, install: list[str] | None, files: list[str] | None) -> Any:
    """The agent of --agent-cmd."""
    from m2gym.scaffolds.blackbox.command import CommandAgent

    texts = {}
    for entry in files or ():
        place, equals, local = entry.partition("=")
        if not equals:
            raise InputError(f"--agent-file is PATH=FILE, got {entry!r}")
        try:
            texts[place] = Path(local).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--agent-file: cannot read {local!r}: {error}") from error
    return CommandAgent(command, install=install or (), files=texts)
