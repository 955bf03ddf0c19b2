"""What a scripted model says to each agent, in the tools that agent offers, so that it fixes a bug.

Every agent finds ``calc.py`` with a wrong operator and corrects it through its own edit tool where
it has one, else through its shell.
"""

from __future__ import annotations

from m2gym.core.protocols import ModelRequest
from m2gym.models.scripted import Call, Turn

WRONG, RIGHT = "    return a - b\n", "    return a + b\n"
SOURCE = "def add(a, b):\n" + WRONG
PATH = "/workspace/calc.py"
OLD, NEW = WRONG.strip(), RIGHT.strip()
SED = f"sed -i 's/{OLD}/{NEW}/' calc.py && cat calc.py"

BLOCK = f"""The operator is wrong.

calc.py
```python
<<<<<<< SEARCH
{WRONG}=======
{RIGHT}>>>>>>> REPLACE
```
"""

TURNS: dict[str, list[Turn]] = {
    "mini-swe-agent": [
        Turn(thinking="I mend it.", calls=(Call(name="bash", arguments={"command": SED}),)),
        Turn(
            calls=(
                Call(
                    name="bash",
                    arguments={"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"},
                ),
            )
        ),
    ],
    "aider": [Turn(text=BLOCK)],
    "openhands": [
        Turn(
            text="I mend it.",
            calls=(
                Call(
                    name="file_editor",
                    arguments={
                        "command": "str_replace",
                        "path": PATH,
                        "old_str": OLD,
                        "new_str": NEW,
                        "security_risk": "LOW",
                    },
                ),
            ),
        ),
        Turn(
            calls=(
                Call(name="terminal", arguments={"command": "cat calc.py", "security_risk": "LOW"}),
            )
        ),
        Turn(calls=(Call(name="finish", arguments={"message": "Done."}),)),
    ],
    "codex": [
        Turn(thinking="I mend it.", calls=(Call(name="exec_command", arguments={"cmd": SED}),)),
        Turn(text="Done."),
    ],
    "claude-code": [
        Turn(thinking="I look.", calls=(Call(name="Read", arguments={"file_path": PATH}),)),
        Turn(
            calls=(
                Call(
                    name="Edit",
                    arguments={"file_path": PATH, "old_string": OLD, "new_string": NEW},
                ),
                Call(name="Bash", arguments={"command": "cat calc.py"}),
            )
        ),
        Turn(text="Done."),
    ],
    "gemini-cli": [
        Turn(
            thinking="I mend it.",
            calls=(
                Call(
                    name="replace",
                    arguments={
                        "file_path": PATH,
                        "instruction": "Mend the operator.",
                        "old_string": OLD,
                        "new_string": NEW,
                    },
                ),
            ),
        ),
        Turn(text="Done."),
    ],
    "opencode": [
        Turn(thinking="I look.", calls=(Call(name="read", arguments={"filePath": PATH}),)),
        Turn(
            calls=(
                Call(
                    name="edit",
                    arguments={"filePath": PATH, "oldString": OLD, "newString": NEW},
                ),
            )
        ),
        Turn(text="Done."),
    ],
    "qwen-code": [
        Turn(thinking="I look.", calls=(Call(name="read_file", arguments={"file_path": PATH}),)),
        Turn(
            calls=(
                Call(
                    name="edit",
                    arguments={"file_path": PATH, "old_string": OLD, "new_string": NEW},
                ),
            )
        ),
        Turn(text="Done."),
    ],
}


def answers(turns: list[Turn], *, tools: bool = True):
    """A function that says the turns in order, and a line of text to calls that offer no tools."""

    def answer(request: ModelRequest) -> Turn:
        if tools and not request.tools:
            return Turn(text="Mend the operator")
        said = sum(message["role"] == "assistant" for message in request.messages)
        if not tools:  # aider
            asked = request.messages[0]["content"]
            return turns[0] if "SEARCH/REPLACE" in asked else Turn(text="Mend the operator")
        return turns[said] if said < len(turns) else Turn(text="Done.")

    return answer
