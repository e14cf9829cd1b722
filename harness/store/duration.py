"""Durations as text: `90s`, `30m`, `1h30m`."""

import re

from harness.errors import UserError

UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> float:
    """Return the seconds of a duration; raises `UserError` for another text, and for nothing."""
    parts = re.findall(r"(\d+)([hms])", text) if re.fullmatch(r"(\d+h)?(\d+m)?(\d+s)?", text) else []
    total = sum(int(number) * UNITS[unit] for number, unit in parts)
    if not total:
        raise UserError(f"--budget must be like 90s, 30m or 1h30m, not '{text}'.")
    return float(total)
