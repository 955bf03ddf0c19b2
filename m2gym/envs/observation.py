"""What an agent sees of a command's output: whole when short, cut in the middle when long."""

from __future__ import annotations

from m2gym.core.workspace import ExecResult


def cut_middle(text: str, limit: int, whole: str | None) -> str:
    """``text`` in at most about ``limit`` characters; ``whole`` says where all of it lies.

    >>> print(cut_middle("a" * 10 + "b" * 10, 8, "/tmp/out.txt"))
    aaaa
    [… 12 of 20 characters left out; the whole is in /tmp/out.txt …]
    bbbb
    """
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 2, limit // 2
    left_out = len(text) - head - tail
    where = f"the whole is in {whole}" if whole else "the whole could not be kept in the box"
    note = f"[… {left_out} of {len(text)} characters left out; {where} …]"
    return f"{text[:head]}\n{note}\n{text[len(text) - tail :]}"


def notes(result: ExecResult, timeout: float) -> str:
    """Lines about how the command ended, empty when it simply succeeded."""
    lines = []
    if result.truncated:
        lines.append("[the output was longer than the box keeps; its rest is lost]")
    if result.timed_out:
        lines.append(f"[killed after {timeout:g} s; the shell was restarted]")
    elif result.oom:
        lines.append("[killed: the box ran out of memory]")
    elif result.exit_code:
        lines.append(f"[exit code {result.exit_code}]")
    return "\n".join(lines)
