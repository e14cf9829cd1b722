"""`decodebench list`: list strategies, tasks, studies, models, heads and backends without importing them."""

import ast
import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from harness import nano
from harness.cli import complete
from harness.errors import UserError, suggestion
from harness.plugins.registry import STRATEGIES, STUDIES, TASKS, Registry, add_plugin
from harness.store.config import BACKENDS

Rows = list[dict[str, str]]


def command(
    kind: Annotated[str, Argument(metavar="KIND", help="strategies, tasks, studies, models, heads or backends",
                                  show_default=False, autocompletion=complete.kinds)],
    as_json: Annotated[bool, Option("--json", help="print JSON")] = False,
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py", help="include this plugin")] = None,
) -> None:
    """List strategies, tasks, studies, models, heads or backends."""
    for path in plugins or ():
        add_plugin(path)
    if kind not in KINDS:
        raise UserError(f"There is no list of '{kind}'.{suggestion(kind, KINDS)}")
    rows = KINDS[kind]()
    if as_json:
        return typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    if not rows:
        raise UserError(f"There are no {kind} here.")
    left, columns = max(len(row["name"]) for row in rows) + 2, min(shutil.get_terminal_size().columns, 120)
    for row in rows:
        parts = (f"{row['name']:{left - 1}}", row["idea"], f"({row['origin']})" if row["origin"] else "")
        text = " ".join(filter(None, parts))
        typer.echo(textwrap.fill(text, columns, subsequent_indent=" " * left, break_on_hyphens=False))


def _plugins(registry: Registry[Any]) -> Rows:
    return [{"name": name, "idea": registry.idea(name),
             "origin": "" if name in registry.built_in() else registry.origin(name)} for name in registry.names()]


def _models() -> Rows:
    notes = {name: nano.weights(name) / "training.json" for name in nano.NAMES}
    sizes = {name: json.loads(note.read_text())["parameters"] / 1e6 for name, note in notes.items() if note.exists()}
    known = {name: f"embedded, {sizes[name]:.1f} M parameters" if name in sizes else "embedded; `make nano` trains it"
             for name in nano.NAMES}
    known |= {"FOLDER": "a saved transformers model", "OWNER/NAME": "a model on the Hugging Face hub"}
    return [{"name": name, "idea": idea, "origin": ""} for name, idea in known.items()]


def _heads() -> Rows:
    """The heads of nano, and those in the folder `heads`, where `train-head` writes them."""
    folders = nano.heads() | {str(card.parent): card.parent for card in sorted(Path("heads").glob("*/head.json"))}
    return [{"name": name} | _about(folder / "head.json") for name, folder in folders.items()]


def _about(file: Path) -> dict[str, str]:
    try:
        card = json.loads(file.read_text("utf-8"))
        right, size = " ".join(f"{row[0]:.2f}" for row in card["ranks"]), card["parameters"] / 1e6
        about = f"{card['kind']} for {card['target']}, {size:.1f} M parameters, right by depth {right}"
        return {"idea": about, "origin": card["licence"]}
    except (OSError, ValueError, LookupError, TypeError):
        return {"idea": f"broken: {file.name} is no card of a head", "origin": ""}


def _backends() -> Rows:
    files = {name: Path(__file__).parents[1] / "backends" / f"{name}.py" for name in sorted(BACKENDS)}
    docs = {name: ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "" for name, file in files.items()}
    return [{"name": name, "idea": doc.partition("\n")[0], "origin": ""} for name, doc in docs.items()]


KINDS: dict[str, Callable[[], Rows]] = {"strategies": lambda: _plugins(STRATEGIES), "tasks": lambda: _plugins(TASKS),
                                        "studies": lambda: _plugins(STUDIES),
                                        "models": _models, "heads": _heads, "backends": _backends}
