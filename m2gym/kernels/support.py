"""What every kernel needs to know about where it runs, and how it says no."""

from __future__ import annotations

import functools
import math

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

# Programs of a persistent kernel under the interpreter: more than one, so that the stride over
# tiles is exercised.
_INTERPRETED_PROGRAMS = 3
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class KernelRefusal(ValueError):
    """A kernel cannot do what was asked; the message says what it needs and what to use instead."""


def interpreting() -> bool:
    """Whether Triton kernels run on the CPU, in Triton's interpreter."""
    return bool(triton.knobs.runtime.interpret)


def check_runnable(kernel: str, *tensors: torch.Tensor) -> None:
    """Refuse tensors that lie where kernels cannot run, or apart from each other.

    Raises:
        KernelRefusal: another device than an NVIDIA GPU (or a CPU under the interpreter), or
            several devices.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        names = ", ".join(sorted(str(device) for device in devices))
        raise KernelRefusal(f"{kernel}: all tensors must lie on one device, got {names}")
    device = devices.pop()
    if device.type == "cuda" and torch.version.cuda is not None and not interpreting():
        return
    if device.type == "cpu" and interpreting():
        return
    raise KernelRefusal(
        f"{kernel}: needs an NVIDIA GPU, got tensors on {device}; on a CPU set TRITON_INTERPRET=1 "
        "before triton is imported (slow: for tests), or use m2gym.kernels.reference"
    )


def check_float(kernel: str, **tensors: torch.Tensor) -> torch.dtype:
    """The one floating type of ``tensors``: bfloat16, float16 or float32.

    Raises:
        KernelRefusal: another type, or several.
    """
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    first = next(iter(dtypes.values()))
    if any(dtype != first for dtype in dtypes.values()) or first not in _FLOATS:
        got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise KernelRefusal(
            f"{kernel}: needs one of bfloat16, float16 or float32 for all, got {got}; cast first"
        )
    return first


def check_rank(kernel: str, rank: int, **tensors: torch.Tensor) -> None:
    """Refuse tensors of another number of dimensions than ``rank``.

    Raises:
        KernelRefusal: the first such tensor, with its shape.
    """
    for name, tensor in tensors.items():
        if tensor.dim() != rank:
            raise KernelRefusal(
                f"{kernel}: {name} must have {rank} dimensions, got {tuple(tensor.shape)}"
            )


def check_integers(kernel: str, **tensors: torch.Tensor) -> None:
    """Refuse ids that are no integers: a kernel would cut a fraction off.

    Raises:
        KernelRefusal: the first tensor of floats or truth values.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _INTEGERS:
            raise KernelRefusal(f"{kernel}: {name} must be integers, got {tensor.dtype}")


@functools.cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def programs(device: torch.device) -> int:
    """How many programs a persistent kernel starts: one a multiprocessor."""
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return _multiprocessors(device.index if device.index is not None else 0)


def precision(dtype: torch.dtype) -> str:
    """How a kernel multiplies: fp32 exactly, 16 and 8 bits on tensor cores; upcast if interpreted.

    The interpreter's ``tl.dot`` takes bf16 and 8-bit floats for integers.
    """
    if dtype in (torch.bfloat16, torch.float8_e4m3fn) and interpreting():
        return "upcast"
    return "ieee" if dtype == torch.float32 else "tf32"


def descriptor(tensor: torch.Tensor, *block: int) -> TensorDescriptor:
    """A tensor-memory-access descriptor of a contiguous ``tensor``, read in ``block``s.

    Raises:
        KernelRefusal: the tensor is a view that starts where no such copy can.
    """
    if tensor.data_ptr() % 16:
        raise KernelRefusal(
            f"an operand of {tuple(tensor.shape)} must start at a multiple of 16 bytes in memory; "
            "it is a view from an odd place: .clone() it"
        )
    return TensorDescriptor.from_tensor(tensor, list(block))


def fit(block: int, size: int) -> int:
    """The largest power of two that is at most ``block`` and divides ``size``.

    >>> fit(128, 3072), fit(128, 48), fit(256, 768)
    (128, 16, 256)
    """
    return math.gcd(1 << (block.bit_length() - 1), size)
