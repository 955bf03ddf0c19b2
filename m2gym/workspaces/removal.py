"""Removal of folders of any depth, by descriptors.

What a box wrote may be nested thousands of levels deep, beyond the longest path and beyond what
recursion bears. Down to `LEVELS` folders are emptied in place; the folders below are first moved
up to that level, so that the number of open descriptors and of frames stays bounded. No link is
followed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat

LEVELS = 32
"""Levels emptied in place before deeper folders are moved up; the project's choice."""

ROUNDS = 1_000_000
"""How often a folder is looked through again while deeper ones move up into it, at most, should
somebody go on nesting; the project's choice."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def empty(folder: int, depth: int = 0) -> bool:
    """Remove what lies in an open folder, whatever the modes; whether all of it went."""
    for _ in range(ROUNDS):
        gone, moved = True, False
        for name, is_folder in _entries(folder):
            if not is_folder:
                gone &= _unlink(folder, name)
                continue
            fd = _open(folder, name)
            if fd < 0:
                gone &= _absent(folder, name)
                continue
            try:
                if depth < LEVELS:
                    empty(fd, depth + 1)
                else:
                    moved |= _move_up(fd, folder, depth)
            finally:
                os.close(fd)
            gone &= _rmdir(folder, name)
        if not moved:
            return gone
    return False


def _move_up(folder: int, above: int, depth: int) -> bool:
    """Empty a folder by moving its folders up; whether any was moved."""
    prefix, moved = f".m2gym-{secrets.token_hex(8)}-", False
    number = itertools.count()
    for name, is_folder in _entries(folder):
        if not is_folder:
            _unlink(folder, name)
            continue
        fd = _open(folder, name)
        try:
            os.rename(name, f"{prefix}{next(number)}", src_dir_fd=folder, dst_dir_fd=above)
            moved = True
        except OSError:
            # An overlay does not move folders of its lower layers; those are of bounded depth.
            if fd >= 0:
                empty(fd, depth + 1)
                _rmdir(folder, name)
        finally:
            if fd >= 0:
                os.close(fd)
    return moved


def _entries(folder: int) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError:
        return []


def _open(parent: int, name: str) -> int:
    """A folder's descriptor, made readable and writable first; -1 where it cannot be had."""
    try:
        look = os.open(name, _PATH, dir_fd=parent)
    except OSError:
        return -1
    try:
        if os.fstat(look).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):
                os.chmod(f"/proc/self/fd/{look}", stat.S_IRWXU)  # noqa: PTH101
        return os.open(".", _FOLDER, dir_fd=look)
    except OSError:
        return -1
    finally:
        os.close(look)


def _unlink(parent: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=parent)
    except OSError:
        return _absent(parent, name)
    return True


def _rmdir(parent: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError:
        return _absent(parent, name)
    return True


def _absent(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
