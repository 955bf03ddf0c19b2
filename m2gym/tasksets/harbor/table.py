"""One table of a Harbor ``task.toml``: every field is used, of no effect here, or refused by name.

A field nobody knows is refused with the nearest known one; each error has the file and the table.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from m2gym.core.errors import InputError
from m2gym.core.task import Network
from m2gym.workspaces.allowlist import Allowlist

_NETWORK = ("network_mode", "allowed_hosts")

KNOWN: dict[str, tuple[str, ...]] = {
    "": ("schema_version", "version", "task", "metadata", "environment", "agent", "verifier",
         "solution", "artifacts", "steps", "source", "multi_step_reward_strategy"),
    "task": ("name", "version", "description", "authors", "keywords"),
    "environment": ("docker_image", "cpus", "memory_mb", "storage_mb", "gpus", "gpu_types",
                    *_NETWORK, "build_timeout_sec", "workdir", "env", "healthcheck", "memory",
                    "storage", "allow_internet", "mcp_servers", "skills_dir", "os", "tpu"),
    "agent": ("timeout_sec", "user", *_NETWORK),
    "verifier": ("timeout_sec", "env", "user", "environment_mode", "environment", "collect",
                 "service", *_NETWORK),
    "solution": ("env",),
    "step": ("name", "agent", "verifier", "min_reward", "healthcheck", "artifacts"),
    "artifact": ("source", "destination", "exclude", "service"),
}  # fmt: skip
"""Kind of table → the fields of schemas 1.0 to 1.4."""

REFUSED: dict[str, tuple[str, ...]] = {
    "environment": ("gpus", "gpu_types", "healthcheck", "mcp_servers", "skills_dir", "tpu"),
    "verifier": ("collect", "service"),
    "step": ("healthcheck",),
    "artifact": ("exclude", "service"),
}

_MODES: dict[str, Network] = {"public": "public", "no-network": "none", "allowlist": "allowlist"}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_MIB = {"": 1 / 2**20, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
_VARIABLE = re.compile(r"\$\{")


@dataclass(frozen=True)
class Policy:
    """What a box may reach; ``hosts`` of an allowlist."""

    network: Network = "public"
    hosts: tuple[str, ...] = ()


class Table:
    """A table by its ``name`` in the file, read as one of a ``kind`` of `KNOWN`."""

    def __init__(self, path: Path, name: str, data: Any, kind: str) -> None:
        self.path, self.name, self.kind = path, name, kind
        self.where = f"{path}: [{name}]" if name else f"{path}:"
        if not isinstance(data, Mapping):
            raise InputError(f"{path}: [{name}] is a table, got {data!r:.80}")
        self.data: Mapping[str, Any] = data
        known, refused = KNOWN.get(kind, ()), REFUSED.get(kind, ())
        for key, value in data.items():
            if known and key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise InputError(f"{self.where} has no field {key!r}; {hint}")
            if key in refused and value not in (0, "", [], {}, None, "main"):
                raise self.error(key, "is not supported")

    def error(self, key: str, problem: str) -> InputError:
        """The error that a field has a problem."""
        value = self.data.get(key)
        return InputError(f"{self.where} the field {key!r} = {value!r:.80} {problem}")

    def table(self, key: str, kind: str | None = None) -> Table:
        """A table below this one; empty where it is absent."""
        name = f"{self.name}.{key}" if self.name else key
        return Table(self.path, name, self.data.get(key, {}), key if kind is None else kind)

    def tables(self, key: str, kind: str) -> list[Table]:
        """A list of tables."""
        found = self.data.get(key) or []
        if not isinstance(found, list):
            raise self.error(key, f"is a list of tables, [[{key}]]")
        return [
            Table(self.path, f"{key} {number}", value, kind)
            for number, value in enumerate(found, 1)
        ]

    def text(self, key: str) -> str | None:
        """A string, ``None`` where it is absent or empty."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "is a string")
        return value or None

    def number(self, key: str) -> float | None:
        """A number, ``None`` where it is absent."""
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "is a number")
        return float(value)

    def choice(self, key: str, *choices: str) -> str | None:
        """One of some words, ``None`` where it is absent."""
        value = self.data.get(key)
        if value is not None and value not in choices:
            raise self.error(key, f"is not supported; expected {' or '.join(map(repr, choices))}")
        return value

    def env(self) -> dict[str, str]:
        """The variables of a table."""
        env = self.data.get("env", {})
        if not isinstance(env, Mapping):
            raise self.error("env", "is a table")
        for key, value in env.items():
            if _VARIABLE.search(str(value)):
                raise InputError(
                    f"{self.where} env.{key} = {value!r} takes a variable of the host, "
                    "which a box never sees"
                )
        return {str(key): str(value) for key, value in env.items()}

    def user(self) -> Literal["agent", "root"] | None:
        """Who runs the commands; ``None`` where it is not said."""
        value = self.data.get("user")
        if value not in (None, "root", "agent", 0, "0"):
            raise self.error("user", "is not supported; a box has the users 'root' and 'agent'")
        return None if value is None else "agent" if value == "agent" else "root"

    def policy(self) -> Policy | None:
        """What may be reached; ``None`` where it is not said."""
        hosts = self.data.get("allowed_hosts") or []
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise self.error("allowed_hosts", "is a list of host names")
        mode = self.choice("network_mode", *_MODES)
        if hosts and mode != "allowlist":
            raise self.error("allowed_hosts", "goes with network_mode = 'allowlist'")
        try:
            Allowlist(hosts)
        except InputError as error:
            raise InputError(f"{self.where} {error}") from error
        if mode is not None:
            return Policy(_MODES[mode] if hosts or mode != "allowlist" else "none", tuple(hosts))
        if self.data.get("allow_internet") is None:
            return None
        return Policy("public" if self.data["allow_internet"] else "none")

    def mib(self, exact: str, old: str) -> int | None:
        """A size in MiB under its present name, or its older spelling (``4G``)."""
        if exact in self.data:
            value = self.data[exact]
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(f"{self.where} {exact} is a whole number, got {value!r}")
            return value
        if old not in self.data:
            return None
        match = _SIZE.fullmatch(str(self.data[old]).strip())
        if match is None:
            raise InputError(f"{self.where} {old} is a size such as '4G', got {self.data[old]!r}")
        return max(1, round(float(match[1]) * _MIB[match[2].upper()]))
