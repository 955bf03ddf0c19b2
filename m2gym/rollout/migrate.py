"""Run folders of older schema versions, as the present one reads them.

| version | what changed |
|---|---|
| 1 | the first |
| 2 | `waited`, `cause` and `retries` of an episode; `limits` in a run's configuration |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from m2gym.core.errors import InputError
from m2gym.core.trajectory import SCHEMA_VERSION

Record = dict[str, Any]


def _record_2(record: Record) -> Record:
    """Infrastructure's failures get a cause from the type that their error text begins with."""
    if record.get("verdict", {}).get("status") in ("infra_error", "verifier_error"):
        kind = str(record.get("error") or "").partition(":")[0]
        words = {"WorkspaceLostError": "box", "DownloadError": "download", "OSError": "system"}
        record["cause"] = words.get(
            kind, "infra" if record["verdict"]["status"] == "infra_error" else "verifier"
        )
    return record


def _info_2(info: Record) -> Record:
    info.get("config", {}).setdefault("limits", {})
    return info


RECORD: dict[int, Callable[[Record], Record]] = {2: _record_2}
INFO: dict[int, Callable[[Record], Record]] = {2: _info_2}


def migrate(data: Record, steps: dict[int, Callable[[Record], Record]]) -> Record:
    """``data`` in the present schema version; changes it in place.

    Raises:
        InputError: it is of a newer version.
    """
    version = data.get("schema_version", 1)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(
            f"this has schema version {version}, this m2gym reads up to {SCHEMA_VERSION}; "
            "upgrade m2gym"
        )
    for number in range(version + 1, SCHEMA_VERSION + 1):
        data = steps[number](data)
    data["schema_version"] = SCHEMA_VERSION
    return data
