"""All commands in one application."""

from __future__ import annotations

from typing import Annotated

import typer

from m2gym import __version__
from m2gym.cli.bench import bench
from m2gym.cli.compare import compare
from m2gym.cli.ctl import ctl
from m2gym.cli.demo import demo
from m2gym.cli.doctor import doctor
from m2gym.cli.eval_ import eval_
from m2gym.cli.export import export
from m2gym.cli.list_ import list_
from m2gym.cli.regrade import regrade
from m2gym.cli.serve import serve
from m2gym.cli.tasks import tasks
from m2gym.cli.train import train
from m2gym.cli.validate import validate
from m2gym.cli.view import view

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"m2gym {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Executable workspaces for LLM agents: tasks, boxes, rewards, runs.

    Start with `m2gym demo`; `m2gym doctor` says what this machine can do.
    """


app.command()(demo)
app.command("list")(list_)
app.command()(doctor)
app.command()(validate)
app.command("eval")(eval_)
app.command()(compare)
app.command()(ctl)
app.command()(regrade)
app.command()(bench)
app.command()(export)
app.command()(view)
app.command()(train)
app.command()(serve)
app.add_typer(tasks, name="tasks")
