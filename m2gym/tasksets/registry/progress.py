"""A progress bar for people, to be passed where a progress hook is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from m2gym.tasksets.registry.cache import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Shows downloads and builds on stderr while it is entered; nothing where there are none.

    >>> with progress_bar() as progress:
    ...     progress("fetched a", 1, 1)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("tasks", total=None, visible=False)

        def show(what: str, done: int, total: int) -> None:
            bar.update(shown, description=what, completed=done, total=total, visible=done < total)

        yield show
