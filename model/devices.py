"""Devices and their precision."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def default_device() -> torch.device:
    """CUDA if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively. Emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def native_precisions(device: torch.device) -> tuple[str, ...]:
    """Names of the precisions that a device computes in natively, the slowest first."""
    return ("float32", "bfloat16") if computes_bfloat16(device) else ("float32",)


def processor_name(device: torch.device) -> str:
    """The kind of processor that a device is: results have the same bytes on the same kind.

    Of a GPU its name; of a CPU also the instructions that torch uses on it, such as AVX2.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor without a name
        pass
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def use_one_thread() -> None:
    """Have torch compute with one thread in this thread, and in those that are started later, from now on."""
    torch.set_num_threads(1)
