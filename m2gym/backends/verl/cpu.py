"""verl on a machine without a GPU: a platform ``cpu`` (verl ships none), and gloo asked for once.

`m2gym.backends.verl.api` makes a platform of verl's of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _zero(*args: Any, **kwargs: Any) -> int:
    return 0


class CpuDevice:
    """What verl asks of a platform: one logical device, whose memory is reported as 0."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = SimpleNamespace(
        empty_cache=_nothing,
        synchronize=_nothing,
        set_device=_nothing,
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        current_device=_zero,
        device_count=lambda: 1,
        is_available=lambda: True,
        memory_allocated=_zero,
        memory_reserved=_zero,
        max_memory_allocated=_zero,
        max_memory_reserved=_zero,
        reset_peak_memory_stats=_nothing,
        mem_get_info=lambda *a: (0, 0),
        get_device_name=lambda *a: "cpu",
        get_rng_state=torch.get_rng_state,
        set_rng_state=torch.set_rng_state,
        ipc_collect=_nothing,
    )

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        """verl moves tensors to it by this: the name, since a number would mean a GPU."""
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        """Ray's logical GPUs stand for slots of a worker; `ray.init` is told how many."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


def gloo_once() -> None:
    """verl asks for "cpu:gloo,cpu:gloo" here, which torch refuses: a duplicate is dropped."""
    inner = torch.distributed.init_process_group
    if getattr(inner, "m2gym", False):
        return

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        if backend is not None and "," in backend:
            backend = ",".join(dict.fromkeys(backend.split(",")))
        return inner(backend, *args, **kwargs)

    init_process_group.m2gym = True  # type: ignore[attr-defined]
    torch.distributed.init_process_group = init_process_group
