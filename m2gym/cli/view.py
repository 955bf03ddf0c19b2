"""``m2gym view``: look at runs in a browser."""

from __future__ import annotations

import asyncio
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from m2gym.cli import options
from m2gym.cli.output import note, show, show_json


def view(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; two or more are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file [default: RUN.html].")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page and follow runs that go on.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="For --serve; 0 takes any.")] = 0,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Show token ids as text: a folder with tokenizer.json."),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open it in the browser.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write one self-contained HTML file, or serve it and follow runs as they grow.

    The file needs no network and runs nothing that a trajectory holds. Every row and turn has a
    link of its own. The server answers to this machine only.
    """
    decode = _decoder(tokenizer)
    if serve:
        asyncio.run(_serve(runs, port, open_, decode))
        return
    from m2gym.rollout.viewing import write_page

    target = out or runs[0].with_name(runs[0].name + ".html")
    episodes, size = write_page(runs, target, decode=decode)
    if json:
        show_json({"path": str(target), "trajectories": episodes, "bytes": size})
    else:
        note(f"{episodes} trajectories, {size / 2**20:.1f} MiB")
        show(str(target))
    if open_:
        webbrowser.open(target.resolve().as_uri())


def _decoder(name: str | None) -> Callable[[int], str] | None:
    if name is None:
        return None
    from m2gym.models.tokenizer import HfTokenizer

    tokenizer = HfTokenizer.load(name)
    return lambda id: str(tokenizer.decode([id]))


async def _serve(
    runs: list[Path], port: int, open_: bool, decode: Callable[[int], str] | None
) -> None:
    from aiohttp import web

    from m2gym.rollout.viewing import Viewer

    runner = web.AppRunner(Viewer(runs, decode).app(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        show(address)
        note("Ctrl-C ends it")
        if open_:
            webbrowser.open(address)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note("m2gym: stopped")
    finally:
        await runner.cleanup()
