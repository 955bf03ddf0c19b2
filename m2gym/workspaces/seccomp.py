"""A seccomp filter for boxes: system calls that no agent needs and that reach into the kernel.

The program is classic BPF, written out by hand (``seccomp(2)``, "Filters"): a denied call returns
EPERM; ``clone3``, whose flags a filter cannot see, returns ENOSYS so that the C library falls back
to ``clone``; calls of a foreign architecture return ENOSYS.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_NEW_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_COMMON = (425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 443)
"""io_uring, the new mount calls and quotactl_fd: numbered alike on every architecture."""


@dataclass(frozen=True)
class _Table:
    audit: int
    clone: int
    ioctl: int
    denied: tuple[int, ...]
    x32: bool = False


_TABLES = {
    "x86_64": _Table(
        audit=0xC000003E,
        clone=56,
        ioctl=16,
        denied=(
            *(103, 155, 163, 164, 165, 166, 167, 168, 169, 172, 173, 175, 176, 179),
            *(227, 246, 248, 249, 250, 272, 298, 304, 308, 313, 320, 321, 323),
        ),
        x32=True,
    ),
    "aarch64": _Table(
        audit=0xC00000B7,
        clone=220,
        ioctl=29,
        denied=(
            *(39, 40, 41, 60, 89, 97, 104, 105, 106, 112, 116, 142, 170, 217, 218, 219),
            *(224, 225, 241, 265, 268, 273, 280, 282, 294),
        ),
    ),
}
"""syslog, pivot_root, acct, clock setting, mount, umount, swap, reboot, port access, modules,
quota, kexec, keyrings, unshare, perf, open_by_handle_at, setns, bpf, userfaultfd."""


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def program(machine: str | None = None) -> bytes | None:
    """The filter for an architecture (default: this one); ``None`` where no table is known."""
    table = _TABLES.get(machine or platform.machine())
    if table is None:
        return None
    deny, lacking = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, table.audit, 1, 0),
        _step(_RETURN, lacking),
        _step(_LOAD, _NUMBER),
    ]
    if table.x32:
        steps += [_step(_AT_LEAST, 0x40000000, 0, 1), _step(_RETURN, lacking)]
    steps += [_step(_EQUAL, 435, 0, 1), _step(_RETURN, lacking)]
    for number in (*table.denied, *_COMMON):
        steps += [_step(_EQUAL, number, 0, 1), _step(_RETURN, deny)]
    steps += [
        _step(_EQUAL, table.clone, 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
        _step(_RETURN, deny),
        _step(_RETURN, _ALLOW),
        _step(_EQUAL, table.ioctl, 0, 4),
        _step(_LOAD, _SECOND_ARGUMENT),
        _step(_EQUAL, _TIOCSTI, 1, 0),
        _step(_EQUAL, _TIOCLINUX, 0, 1),
        _step(_RETURN, deny),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)
