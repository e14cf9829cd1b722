"""The most memory held since a moment ago: torch's on a GPU, else that of the whole process."""

from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def forget_peak(device: str) -> None:
    """Let the peak begin anew; where the system cannot, it goes on counting from before."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")  # Linux: the peak of the resident set, and nothing else


def peak_bytes(device: str) -> int | None:
    """Bytes at the peak; None where the system does not say."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
