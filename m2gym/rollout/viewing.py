"""Run folders for the viewer: as one file, or served and followed while they grow."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from m2gym.core.errors import InputError
from m2gym.core.trajectory import Trajectory
from m2gym.report.viewer import ViewedRun, detail, live_page, row, static_page
from m2gym.report.viewer.data import Left, comparisons, head
from m2gym.rollout.artifacts import ArtifactStore
from m2gym.rollout.records import decode, index
from m2gym.rollout.run import Run
from m2gym.rollout.run_folder import RECORDS

Decode = Callable[[int], str]


def viewed(run: Run, decode: Decode | None = None) -> ViewedRun:
    """A run for the page."""
    store = ArtifactStore(run.path)

    def left(id: str) -> Left | None:
        delta = store.load(id)
        return None if delta is None else Left(delta.files, delta.deleted, delta.diff)

    info = run.info.model_dump(mode="json")
    return ViewedRun(run.path.name, info, run.summary, run, left, decode)


def write_page(
    paths: Sequence[str | Path], target: Path, *, decode: Decode | None = None
) -> tuple[int, int]:
    """Write runs into one HTML file; returns trajectories and bytes.

    Raises:
        InputError: a folder is no run, or the file cannot be written.
    """
    runs = [viewed(Run(path), decode) for path in paths]
    try:
        with target.open("w", encoding="utf-8", errors="replace") as file:
            for piece in static_page(runs):
                file.write(piece)
    except OSError as error:
        raise InputError(f"cannot write to {target}: {error.strerror or error}") from error
    return sum(run.summary.episodes for run in runs), target.stat().st_size


class FollowedRun:
    """A run folder that may grow: rows of its counting records, each found again in the file."""

    def __init__(self, path: Path, number: int, decode: Decode | None = None) -> None:
        self.path, self.number, self._decode = path, number, decode
        self._places: dict[str, tuple[int, int]] = {}
        self._size = -1
        self.run = Run(path)
        self.rows: list[dict[str, Any]] = []

    def refresh(self) -> bool:
        """Read the folder again if it has grown; whether rows were replaced, not only added."""
        file = self.path / RECORDS
        size = file.stat().st_size if file.exists() else 0
        if size == self._size:
            return False
        self._size, self.run = size, Run(self.path)
        places: dict[tuple[str, int], tuple[int, int]] = {}
        begin = 0
        for entry, end in index(file):
            places.pop(entry.key, None)
            places[entry.key] = (begin, end)
            begin = end
        before = [one["id"] for one in self.rows]
        rows, self._places = [], {}
        for begin, end in places.values():
            one = self._read(begin, end)
            self._places[one.id] = (begin, end)
            rows.append(row(self.number, one))
        self.rows = rows
        return [one["id"] for one in rows[: len(before)]] != before

    def detail(self, id: str) -> dict[str, Any] | None:
        """The whole of an episode."""
        place = self._places.get(id)
        if place is None:
            return None
        return detail(viewed(self.run, self._decode), self._read(*place))

    def head(self) -> dict[str, Any]:
        """Name, configuration and numbers as of the last refresh."""
        return head(viewed(self.run, self._decode))

    def _read(self, begin: int, end: int) -> Trajectory:
        with (self.path / RECORDS).open("rb") as file:
            file.seek(begin)
            return decode(file.read(end - begin - 1))


class Viewer:
    """The HTTP side: the page, rows since a number, one episode. Only for this machine's names."""

    def __init__(self, paths: Sequence[str | Path], decode: Decode | None = None) -> None:
        self.runs = [FollowedRun(Path(path), n, decode) for n, path in enumerate(paths)]
        self.epoch = uuid.uuid4().hex
        self._order: list[dict[str, Any]] = []
        self._turn = asyncio.Lock()

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[_local_only])
        app.router.add_get("/", self._page)
        app.router.add_get("/api/index", self._index)
        app.router.add_get("/api/episode/{run}/{id}", self._episode)
        return app

    async def _page(self, request: web.Request) -> web.Response:
        title = ", ".join(run.path.name for run in self.runs)
        return web.Response(text=live_page(title), content_type="text/html")

    async def _index(self, request: web.Request) -> web.Response:
        async with self._turn:
            heads = await asyncio.to_thread(self._refresh)
        same = request.query.get("epoch") == self.epoch
        since = int(request.query.get("since", "0")) if same else 0
        found = {"epoch": self.epoch, "rows": self._order[since:], **heads}
        return web.json_response(found)

    async def _episode(self, request: web.Request) -> web.Response:
        number = request.match_info["run"]
        if not number.isdigit() or int(number) >= len(self.runs):
            raise web.HTTPNotFound(text="no such run")
        run = self.runs[int(number)]
        found = await asyncio.to_thread(run.detail, request.match_info["id"])
        if found is None:
            raise web.HTTPNotFound(text="no such episode")
        return web.json_response(found)

    def _refresh(self) -> dict[str, Any]:
        replaced = True in [run.refresh() for run in self.runs]
        seen = {(one["run"], one["id"]) for one in self._order}
        fresh = [one for one in self._all() if (one["run"], one["id"]) not in seen]
        if replaced:
            self.epoch, self._order, fresh = uuid.uuid4().hex, [], list(self._all())
        self._order += fresh
        return {
            "runs": [run.head() for run in self.runs],
            "comparisons": comparisons(self._order, len(self.runs)),
        }

    def _all(self) -> Iterator[dict[str, Any]]:
        for run in self.runs:
            yield from run.rows


@web.middleware
async def _local_only(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refuse other hosts' names: a page elsewhere must not read runs by rebinding its name."""
    host = (request.host or "").rpartition(":")[0] or request.host
    if host.strip("[]") not in ("127.0.0.1", "localhost", "::1"):
        raise web.HTTPForbidden(text="this server answers to localhost only")
    response: web.StreamResponse = await handler(request)
    response.headers.update(
        {
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "X-Frame-Options": "DENY",
        }
    )
    return response
