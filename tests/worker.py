"""What each worker process of a test does; they import this file alone, not transformers."""

from pathlib import Path

import torch

from harness.nano.team import Team


def write_team(folder: Path, team: Team) -> None:
    """Write the sum over the team, what it agreed on, whether this worker is the first, and the size into a file."""
    total = team.total(torch.tensor([1.0 + team.rank]))
    (folder / str(team.rank)).write_text(f"{total.item()} {team.agreed(5.0 + team.rank)} {team.first} {team.size}")
