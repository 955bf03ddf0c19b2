"""The tools every workspace environment offers beside plain shell commands."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from m2gym.core.errors import InputError
from m2gym.core.tools import Tool

if TYPE_CHECKING:
    from m2gym.envs.episode import WorkspaceEpisode


AGENT_ERRNOS = frozenset(
    {
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
        errno.ENAMETOOLONG, errno.EROFS, errno.ELOOP, errno.EINVAL, errno.ETXTBSY, errno.EXDEV,
    }
)  # fmt: skip
"""What a wrong path of the agent's gives; any other error is the machine's."""


def encode(text: str) -> bytes:
    """UTF-8 of an agent's text; `InputError` for surrogates that stand for no byte."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InputError(f"the text is no valid Unicode: {error}") from None


@contextmanager
def _agents_path(verb: str, path: str) -> Iterator[None]:
    encode(path)
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.errno not in AGENT_ERRNOS:
            raise
        why = error.strerror or str(error)
        raise InputError(f"cannot {verb} {path[:200]!r}: {why}") from None


def workspace_tools(episode: WorkspaceEpisode) -> list[Tool]:
    """``bash``, ``read_file``, ``write_file``, ``replace`` and ``submit`` bound to an episode."""

    async def bash(command: str) -> str:
        """Run a command in the persistent shell; cd, export and functions survive."""
        return await episode.run_command(command)

    async def read_file(path: str, first: int = 1, lines: int = 400) -> str:
        """Show lines of a text file, numbered, from line `first` on."""
        if first < 1 or lines < 1:
            raise InputError(f"first and lines start at 1, got {first} and {lines}")
        text = (await _read(episode, path)).decode("utf-8", "replace").splitlines()
        shown = text[first - 1 : first - 1 + lines]
        body = "\n".join(f"{number:6d}\t{line}" for number, line in enumerate(shown, first))
        rest = len(text) - (first - 1 + len(shown))
        return body + (f"\n[{rest} more lines]" if rest > 0 else "")

    async def write_file(path: str, content: str) -> str:
        """Write a whole text file, making its folders."""
        data = encode(content)
        with _agents_path("write", path):
            await episode.workspace.write(path, data)
        return f"wrote {len(data)} bytes to {path}"

    async def replace(path: str, old: str, new: str) -> str:
        """Replace the one place where `old` stands in a text file by `new`."""
        text = (await _read(episode, path)).decode("utf-8", "surrogateescape")
        count = text.count(old) if old else 0
        if count != 1:
            raise InputError(f"`old` must stand exactly once in {path}; it stands {count} times")
        with _agents_path("write", path):
            await episode.workspace.write(path, encode(text.replace(old, new)))
        return f"replaced one place in {path}"

    async def submit() -> str:
        """End the episode: the work is done and is graded now."""
        await episode.submit()
        return "submitted"

    return [Tool(function) for function in (bash, read_file, write_file, replace, submit)]


async def _read(episode: WorkspaceEpisode, path: str) -> bytes:
    with _agents_path("read", path):
        return await episode.workspace.read(path)
