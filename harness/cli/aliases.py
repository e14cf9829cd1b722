"""Names of options in other tools, which work here too; help shows our own."""

from typing import Any

from typer.core import TyperCommand

from harness.store.config import ALIASES

OPTIONS = {"strategies": "strategy", "tasks": "task", "heads": "head", "objective": "by", "update-baseline": "write",
           **{theirs.replace("_", "-"): ours.replace("_", "-") for theirs, ours in ALIASES.items()}}


def our_name(option: str) -> str:
    """Return our name of an option, without its dashes: `max-tokens` → `max-new-tokens`."""
    return OPTIONS.get(option, option)


class WithBareRay(TyperCommand):
    """A command whose option `--ray` may come without an address; then it is `local`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with the address in its place."""
        given = list(args)
        for place in reversed(range(len(given))):
            if given[place] == "--ray" and (given[place + 1:place + 2] or ["-"])[0].startswith("-"):
                given.insert(place + 1, "local")
        return super().parse_args(ctx, given)
