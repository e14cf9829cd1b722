"""Peak memory since the last reset: torch's on a GPU, else that of the whole process."""

from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def reset_peak(*devices: str) -> None:
    """Reset the peak memory; on systems that cannot, the earlier peak remains."""
    if all(device.startswith("cuda") for device in devices):
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")  # Linux: resets only the peak of the resident set


def peak_bytes(*devices: str) -> int | None:
    """Return the peak memory in bytes, the sum of several GPUs; None if the system does not report it."""
    if all(device.startswith("cuda") for device in devices):
        return sum(torch.cuda.max_memory_allocated(device) for device in devices)
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
