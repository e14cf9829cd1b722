"""A copy of a run to publish: without prompts and expected answers, which may belong to others, in whole microseconds.

`report`, `compare` and `check` read it like the run itself; its page shows the answers alone. Verdicts of a judge are
left out, because they may quote prompts.
"""

from pathlib import Path

from harness.errors import UserError
from harness.export import ExportedFiles
from harness.store.files import replace_file
from harness.store.folder import Store
from harness.store.schema import Record, Turn

DIGITS = 6  # of a second


def write(store: Store, folder: Path) -> ExportedFiles:
    """Write the copy to `folder`; raises `UserError` if it is the run itself or holds another one."""
    if folder.resolve() == store.folder.resolve():
        raise UserError(f"{folder} is the run itself; choose another folder with -o.")
    with Store.begin(folder, store.manifest) as copy:
        replace_file(copy.path, (_without_prompts(record).model_dump_json() + "\n" for record in store.records()))
        copy.write_divergences(store.divergences())
        if texts := store.text_metrics():
            copy.write_text_metrics(texts)
        if limits := store.limits():
            copy.write_limits(limits)
    return ExportedFiles(sorted(path for path in folder.rglob("*.json*") if path.is_file()))


def _without_prompts(record: Record) -> Record:
    turns = [_turn(turn) for turn in record.turns]
    return record.model_copy(update={"turns": turns, "seconds": _rounded(record.seconds), "reason": ""})


def _turn(turn: Turn) -> Turn:
    steps = turn.steps.model_copy(update={"seconds": [_rounded(one) for one in turn.steps.seconds]})
    return turn.model_copy(update={"prompt": "", "steps": steps})


def _rounded(seconds: float) -> float:
    return round(seconds, DIGITS)
