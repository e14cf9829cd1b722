"""Names of options in other tools, which work here too; help shows our own."""

from harness.store.config import ALIASES

OPTIONS = {"strategies": "strategy", "tasks": "task", "heads": "head", "objective": "by", "update-baseline": "write",
           **{theirs.replace("_", "-"): ours.replace("_", "-") for theirs, ours in ALIASES.items()}}


def our_name(option: str) -> str:
    """Return our name of an option, without its dashes: `max-tokens` → `max-new-tokens`."""
    return OPTIONS.get(option, option)
