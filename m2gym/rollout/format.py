"""Writes ``docs/run-format.md`` from the models: ``python -m m2gym.rollout.format > FILE``."""

from __future__ import annotations

import json
from typing import Any

from m2gym.core.trajectory import SCHEMA_VERSION, Trajectory
from m2gym.rollout.run_info import RunInfo

_PAGE = """# The format of a run folder

Schema version {version}. This page is written by `python -m m2gym.rollout.format`; a test keeps it
in step with the code.

| file | holds |
|---|---|
| `run.json` | the resolved configuration, each task's content hash, versions, machine |
| `trajectories.jsonl` | one JSON object a line and episode, only ever appended to |
| `lock` | the process id of the writer, which holds an `flock` on it |
| `torn.jsonl` | what a kill left of a last line, moved aside by a resume |
| `artifacts/ID.tar.gz` | what an episode left that differs from its task's files (below) |
| `gradings.jsonl` | further gradings (`m2gym regrade`), one a line, sealed like the records |
| `status.json` | for onlookers: how far the driver is, its limits; no part of the record |
| `control.json` | the limits that `m2gym ctl` asks for; no part of the record |

**Checksums.** The last key of each line is `sha256`: the SHA-256 of the line's text without that
key (the bytes before `,"sha256":"…"}}`, then `}}`). A line is written and synced before its episode
counts as done; lines that are ready at the same time go to the disk by one `write` and one sync.

**Older versions.** Version 1 had no `waited`, `cause`, `retries` and `limits`. An older folder is
read as it is; resuming one writes its `run.json` anew, so that an older m2gym refuses it.

**Which record counts.** A task and attempt that infrastructure failed is tried again, first within
the run (`retries` of the one record that is written tell of the tries before it), then by
`--resume`, which writes another line; the last line of a task and attempt counts. A last line that
is torn is no record; a damaged line before it is an error that names the line.

**Artifacts.** `files.tar` (changed and new files and links, with modes), `deleted.txt` (a path a
line) and `changes.diff` (unified, of the text files); empty where nothing differs, absent where the
episode was never graded. Written before the record; what belongs to no record goes on a resume.

**What a resumed run may change.** Concurrency, versions and machine; not the configuration and not
the content of a task: that is refused with the difference shown.

**Rewards.** `verdict.reward` is null unless `verdict.status` is `ok`, `agent_error` or `forged`.
Leave the others out of every mean, and say how many they were.

**Seeds.** `seed` of an episode is the first 31 bits of SHA-256 of `SEED/TASK/ATTEMPT`.

**Seconds.** `start`: files at hand and box open; `agent`: the scaffold ran; `grade`: the verdict.
`waited` says how much of `agent` (`model`) and `grade` (`grader`) was waiting for a turn, and how
long the episode waited for its box before `start`. Working time is the one less the other.

## `run.json`
```json
{info}
```

## A line of `trajectories.jsonl`
```json
{record}
```
"""


def record_schema() -> dict[str, Any]:
    """JSON schema of a line: a trajectory and its checksum."""
    schema = Trajectory.model_json_schema(mode="serialization")
    schema["title"] = "Record"
    schema["properties"]["sha256"] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    schema["required"] = [*schema["required"], "sha256"]
    return schema


def page() -> str:
    """The whole document."""
    return _PAGE.format(
        version=SCHEMA_VERSION,
        info=json.dumps(RunInfo.model_json_schema(mode="serialization"), indent=1),
        record=json.dumps(record_schema(), indent=1),
    )


if __name__ == "__main__":
    print(page(), end="")
