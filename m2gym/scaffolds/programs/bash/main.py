"""A loop of shell commands only: for models without tool calling, one fenced block an answer.

Settings: ``system``, ``turns`` (most turns), ``sampling``.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from m2gym_agent import Ended, Refused, connect

SYSTEM = """You work on a task in a shell. Answer with a short thought and then exactly one command
in a block:

```bash
your command
```

You see what it prints; cd and export last. When the task is done, answer with the block

```bash
submit
```"""
MALFORMED = "Expected exactly one ```bash block, found {count}. Answer with one."
PATIENCE = 5
"""Malformed answers in a row, after which the work is submitted; the project's choice."""
BLOCK = re.compile(r"^```(?:bash|sh|shell)[ \t]*\n(.*?)^```[ \t]*$", re.S | re.M)


def main() -> None:
    """Work on the episode until it is over."""
    episode = connect()
    settings = episode.settings
    history: list[dict[str, Any]] = [
        {"role": "system", "content": settings.get("system") or SYSTEM},
        {"role": "user", "content": episode.first_observation},
    ]
    sampling = settings.get("sampling") or {}
    malformed = 0
    for _ in range(int(settings.get("turns", 200))):
        message = episode.complete(history, **sampling).message
        history.append(message)
        blocks = BLOCK.findall(str(message.get("content") or ""))
        malformed = 0 if len(blocks) == 1 else malformed + 1
        if malformed >= PATIENCE:
            break
        if len(blocks) != 1:
            text = MALFORMED.format(count=len(blocks))
        elif blocks[0].strip() == "submit":
            break
        else:
            try:
                seen = episode.act(blocks[0])
            except Refused as error:
                text = f"error: {error}"
            else:
                if seen.done:
                    return
                text = seen.text or "(no output)"
        history.append({"role": "user", "content": text})
    episode.submit()


if __name__ == "__main__":
    with contextlib.suppress(Ended):
        main()
