"""``m2gym eval``: let an agent attempt tasks, and record every episode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json, split_name, stopped
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
    "limits",
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
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limits",
            help="KEY=NUMBER[,…]: bounds of an episode in the place of the task's own: start, "
            "agent, working (agent without waiting), grade, wall (seconds), steps.",
        ),
    ] = None,
    at_once: Annotated[
        list[str] | None,
        typer.Option(
            "--at-once",
            help="KEY=NUMBER[,…]: boxes, creations (a second), model_calls, graders; "
            "`m2gym ctl` changes them while it runs.",
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            "--retries",
            min=0,
            help="Most further tries, in the whole run, of episodes that infrastructure failed "
            "[default: a tenth of the episodes, at least 8].",
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="local, ray, or ray:ADDRESS of a cluster.")
    ] = "local",
    keep_artifacts: Annotated[
        bool,
        typer.Option(
            "--artifacts/--no-artifacts", help="Keep what episodes left, for regrade and diffs."
        ),
    ] = True,
    estimate: Annotated[
        Path | None,
        typer.Option(
            "--estimate-from",
            help="Run nothing: say what it would take, judged by an earlier run (such as one of "
            "`--limit 3`).",
        ),
    ] = None,
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
    from m2gym.rollout.control import parse_at_once
    from m2gym.rollout.evaluation import evaluate, next_folder
    from m2gym.rollout.limits import Retries, parse_limits

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
            "limits": parse_limits(options.pairs("--limits", limits)) if limits else None,
        }
    wanted = parse_at_once(options.pairs("--at-once", at_once))
    if estimate is not None:
        say_estimate(estimate, settings, concurrency, json)
        return
    path = out if out is not None else next_folder(settings["env"], named(settings["agent"]))
    try:
        run = evaluate(
            **settings,
            concurrency=concurrency,
            at_once=wanted,
            retries=Retries(budget=retries),
            executor=executor,
            keep_artifacts=keep_artifacts,
            out=path,
            resume=resume,
            progress=not json,
        )
    except KeyboardInterrupt:
        stopped(f"finish with: m2gym eval --resume --out {path}")
    if json:
        show_json({**run.summary.as_dict(), "path": str(run.path), "complete": run.complete})
    else:
        show(str(run))
        for sentence in run.summary.warnings:
            note(sentence)
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
    from m2gym.rollout.limits import EpisodeLimits
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
    if config.limits:
        settings["limits"] = EpisodeLimits.model_validate(config.limits)
    return {**settings, "tasks": list(config.tasks)}


def say_estimate(
    earlier: Path, settings: dict[str, Any], concurrency: int | None, json: bool
) -> None:
    """What the evaluation would take, judged by an earlier run."""
    import os
    from dataclasses import asdict

    from m2gym.envs.catalog import env_entry
    from m2gym.report.forecast import forecast
    from m2gym.rollout.evaluation import choose
    from m2gym.rollout.run import load_run

    run = load_run(earlier)
    taskset = env_entry(settings["env"]).taskset()
    chosen = choose(taskset, settings["split"], settings.get("limit"), settings["tasks"])
    episodes = len(chosen) * settings["attempts"]
    found = forecast(run, episodes, concurrency or os.cpu_count() or 1)
    if json:
        show_json({"from": str(earlier), **asdict(found)})
    else:
        show(found.text())
    differing = [
        name for name in ("env", "model") if getattr(run.config, name) != settings.get(name)
    ]
    if differing:
        note(f"the earlier run differs in: {', '.join(differing)}")


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
