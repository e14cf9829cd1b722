"""Peak memory since the last reset: torch's on a GPU, else that of the whole process."""

from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def reset_peak(device: str) -> None:
    """Reset the peak memory; on systems that cannot, the earlier peak remains."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")  # Linux: resets only the peak of the resident set


def peak_bytes(device: str) -> int | None:
    """Return the peak memory in bytes; None if the system does not report it."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
