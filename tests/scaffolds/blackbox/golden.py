"""A real task's reference change, said by a scripted model in each agent's own edit tool."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Mapping

from m2gym.core.task import PreparedTask
from m2gym.models.scripted import Call, Turn
from m2gym.rewards.grading import tree


def changes(prepared: PreparedTask) -> dict[str, tuple[str, str]]:
    """Path → text before and after the reference change."""
    before = tree(prepared.workspace.root)
    return {
        path: (before[path].read_text("utf-8"), data.decode())
        for path, data in prepared.reference.files.items()
    }


def edits(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Replacements of whole lines that, one after another, make ``after`` of ``before``.

    What is replaced occurs once in the text as it is then.
    """
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    text, limit = before, len(old)
    for tag, a, b, c, d in reversed(matcher.get_opcodes()):
        if tag == "equal":
            continue
        wide = 1
        while not _once(was := "".join(old[max(0, a - wide) : min(limit, b + wide)]), text):
            wide += 1
        before_it, behind = old[max(0, a - wide) : a], old[b : min(limit, b + wide)]
        becomes = "".join([*before_it, *new[c:d], *behind])
        text = text.replace(was, becomes)
        limit = a
        yield was, becomes
    assert text == after


def _once(part: str, text: str) -> bool:
    return text.find(part) == text.rfind(part) >= 0


def turns(name: str, prepared: PreparedTask, check: str) -> list[Turn]:
    """What the model says to agent ``name``: the edits, ``check`` in its shell, its last word."""
    changed = changes(prepared)
    workdir = prepared.workspace.workdir
    if name == "aider":
        return [Turn(text="\n".join(blocks(changed)))]
    said = []
    for path, (before, after) in changed.items():
        full = f"{workdir}/{path}"
        if name in READ:
            tool, key = READ[name]
            said.append(calls((tool, {key: full})))
        if name in EDIT:
            said += [calls(EDIT[name](full, *edit)) for edit in edits(before, after)]
        else:
            said.append(calls(SHELL[name](patch(path, before, after))))
    said.append(calls(SHELL[name](check)))
    if name == "mini-swe-agent":
        return [*said, calls(SHELL[name]("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"))]
    if name == "openhands":
        return [*said, calls(("finish", {"message": "Done."}))]
    return [*said, Turn(text="Done.")]


def calls(*said: tuple[str, dict[str, str]]) -> Turn:
    return Turn(calls=tuple(Call(name=name, arguments=arguments) for name, arguments in said))


def blocks(changed: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for path, (before, after) in changed.items():
        for was, becomes in edits(before, after):
            block = f"<<<<<<< SEARCH\n{was}=======\n{becomes}>>>>>>> REPLACE"
            yield f"{path}\n```python\n{block}\n```\n"


def patch(path: str, before: str, after: str) -> str:
    """A shell command that applies the change as a patch."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    return f"printf %s {shlex.quote(''.join(lines))} | git apply -v -"


READ = {
    "claude-code": ("Read", "file_path"),
    "opencode": ("read", "filePath"),
    "qwen-code": ("read_file", "file_path"),
}

EDIT = {
    "claude-code": lambda path, was, becomes: (
        "Edit", {"file_path": path, "old_string": was, "new_string": becomes}
    ),
    "opencode": lambda path, was, becomes: (
        "edit", {"filePath": path, "oldString": was, "newString": becomes}
    ),
    "qwen-code": lambda path, was, becomes: (
        "edit", {"file_path": path, "old_string": was, "new_string": becomes}
    ),
    "gemini-cli": lambda path, was, becomes: (
        "replace",
        {
            "file_path": path,
            "instruction": "Make the change.",
            "old_string": was,
            "new_string": becomes,
        },
    ),
    "openhands": lambda path, was, becomes: (
        "file_editor",
        {
            "command": "str_replace",
            "path": path,
            "old_str": was,
            "new_str": becomes,
            "security_risk": "LOW",
        },
    ),
}  # fmt: skip

SHELL = {
    "claude-code": lambda command: ("Bash", {"command": command}),
    "opencode": lambda command: ("bash", {"command": command, "description": "Run it"}),
    "qwen-code": lambda command: (
        "run_shell_command", {"command": command, "is_background": False}
    ),
    "gemini-cli": lambda command: ("run_shell_command", {"command": command}),
    "openhands": lambda command: ("terminal", {"command": command, "security_risk": "LOW"}),
    "codex": lambda command: ("exec_command", {"cmd": command}),
    "mini-swe-agent": lambda command: ("bash", {"command": command}),
}  # fmt: skip
