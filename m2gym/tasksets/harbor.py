"""``task.toml`` of Harbor task folders (schemas 1.0 to 1.4), read strictly.

Every field is either used, known to be without effect here, or refused by name; a field nobody
knows is refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from m2gym.core.errors import InputError
from m2gym.core.task import Limits, Network

VERSIONS = ("1.0", "1.1", "1.2", "1.3", "1.4")

_KNOWN: dict[str, tuple[str, ...]] = {
    "": ("schema_version", "version", "task", "metadata", "environment", "agent", "verifier",
         "solution", "artifacts", "steps", "source", "multi_step_reward_strategy"),
    "task": ("name", "description", "authors", "keywords"),
    "environment": ("docker_image", "cpus", "memory_mb", "storage_mb", "gpus", "gpu_types",
                    "network_mode", "allowed_hosts", "build_timeout_sec", "workdir", "env",
                    "healthcheck", "memory", "storage", "allow_internet", "mcp_servers",
                    "skills_dir", "os", "tpu"),
    "agent": ("timeout_sec", "user", "network_mode", "allowed_hosts"),
    "verifier": ("timeout_sec", "env", "user", "environment_mode", "environment", "network_mode",
                 "allowed_hosts", "collect", "service"),
    "solution": ("env",),
}  # fmt: skip

_REFUSED: dict[str, tuple[str, ...]] = {
    "": ("steps",),
    "environment": ("gpus", "gpu_types", "allowed_hosts", "healthcheck",
                    "mcp_servers", "skills_dir", "tpu"),
    "agent": ("network_mode", "allowed_hosts"),
    "verifier": ("environment", "allowed_hosts", "collect", "service"),
}  # fmt: skip

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_MIB = {"": 1 / 2**20, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}
_VARIABLE = re.compile(r"\$\{")


@dataclass(frozen=True)
class Settings:
    """What a ``task.toml`` says, in the project's words."""

    limits: Limits
    network: Network
    workdir: str | None = None
    image: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    verifier_env: dict[str, str] = field(default_factory=dict)
    solution_env: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def read_settings(path: Path) -> Settings:
    """Read and check a ``task.toml``.

    Raises:
        InputError: it is no TOML, or a field is unknown, unsupported or wrong; the message has the
            file and the field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    reader = _Reader(path, data)
    reader.check()
    version = str(data.get("schema_version", data.get("version", "1.0")))
    if version not in VERSIONS:
        raise InputError(f"{path}: schema_version is one of {', '.join(VERSIONS)}, got {version!r}")
    return reader.settings()


class _Reader:
    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self.path, self.data = path, data

    def table(self, name: str) -> Mapping[str, Any]:
        value = self.data.get(name, {}) if name else self.data
        if not isinstance(value, Mapping):
            raise InputError(f"{self.path}: [{name}] is a table, got {value!r}")
        return value

    def check(self) -> None:
        for name, known in _KNOWN.items():
            where = f"{self.path}: [{name}]" if name else f"{self.path}:"
            for key, value in self.table(name).items():
                if key not in known:
                    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                    raise InputError(f"{where} has no field {key!r}; {hint}")
                if key in _REFUSED.get(name, ()) and value not in (0, "", [], {}, None):
                    raise InputError(f"{where} the field {key!r} = {value!r:.80} is not supported")
        for name in ("agent", "verifier"):
            user = self.table(name).get("user")
            if user not in (None, "root", "agent", 0):
                raise InputError(
                    f"{self.path}: [{name}] the field 'user' = {user!r} is not supported"
                )
        system = self.table("environment").get("os")
        if system not in (None, "linux"):
            raise InputError(f"{self.path}: [environment] the field 'os' = {system!r}: only linux")

    def settings(self) -> Settings:
        environment = self.table("environment")
        values = {
            "seconds": self.table("agent").get("timeout_sec"),
            "grade_seconds": self.table("verifier").get("timeout_sec"),
            "memory_mb": self._mib("memory_mb", "memory"),
            "disk_mb": self._mib("storage_mb", "storage"),
        }
        try:
            limits = Limits(**{k: v for k, v in values.items() if v is not None})
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{self.path}: {first['loc'][0]}: {first['msg']}") from error
        metadata = dict(self.table("metadata"))
        if metadata.get("split") not in (None, "train", "test"):
            raise InputError(
                f"{self.path}: [metadata] split is train or test, got {metadata['split']!r}"
            )
        for key in ("name", "description", "keywords"):
            if key in self.table("task"):
                metadata.setdefault(key, self.table("task")[key])
        if "cpus" in environment:
            metadata.setdefault("cpus", environment["cpus"])
        workdir = environment.get("workdir")
        if workdir is not None and (not isinstance(workdir, str) or not workdir.startswith("/")):
            raise InputError(f"{self.path}: [environment] workdir is an absolute folder")
        return Settings(
            limits=limits,
            network=self._network(),
            workdir=workdir,
            image=environment.get("docker_image") or None,
            env=self._env("environment"),
            verifier_env=self._env("verifier"),
            solution_env=self._env("solution"),
            metadata=metadata,
        )

    def _network(self) -> Network:
        environment = self.table("environment")
        if "network_mode" in environment:
            mode = environment["network_mode"]
            if mode not in ("public", "no-network"):
                raise InputError(
                    f"{self.path}: [environment] the field 'network_mode' = {mode!r} is not "
                    "supported; expected 'public' or 'no-network'"
                )
            return "public" if mode == "public" else "none"
        return "public" if environment.get("allow_internet", True) else "none"

    def _env(self, name: str) -> dict[str, str]:
        env = self.table(name).get("env", {})
        if not isinstance(env, Mapping):
            raise InputError(f"{self.path}: [{name}] env is a table, got {env!r}")
        for key, value in env.items():
            if _VARIABLE.search(str(value)):
                raise InputError(
                    f"{self.path}: [{name}] env.{key} = {value!r} takes a variable of the host, "
                    "which a box never sees"
                )
        return {str(key): str(value) for key, value in env.items()}

    def _mib(self, exact: str, old: str) -> int | None:
        environment = self.table("environment")
        if exact in environment:
            value = environment[exact]
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(
                    f"{self.path}: [environment] {exact} is a whole number, got {value!r}"
                )
            return value
        if old not in environment:
            return None
        match = _SIZE.fullmatch(str(environment[old]).strip())
        if match is None:
            raise InputError(
                f"{self.path}: [environment] {old} is a size such as '4G', got {environment[old]!r}"
            )
        return max(1, round(float(match[1]) * _MIB[match[2].upper()]))
