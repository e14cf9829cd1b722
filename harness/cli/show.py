"""`decodebench show`: describe one strategy, task or study, its knobs and how to call it."""

import inspect
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from harness.cli import complete
from harness.errors import UserError, suggestion
from harness.plugins.plugin import Plugin, knob_rows
from harness.plugins.registry import STRATEGIES, STUDIES, TASKS, Registry, add_plugin
from harness.plugins.spec import Spec
from harness.plugins.strategy import Over

KINDS: dict[str, Registry[Any]] = {"strategy": STRATEGIES, "task": TASKS, "study": STUDIES}
CALLS = {"strategy": "run -s", "task": "run -t", "study": "study"}
FACTS = {"strategy": ("paper", "family", "guarantee", "needs", "stateful"), "study": ("paper",),
         "task": ("source", "version", "headline", "unscored", "max_new_tokens", "stop", "executes_code", "open_ended")}


def command(
    words: Annotated[list[str], Argument(metavar="NAME", show_default=False, autocompletion=complete.plugins,
                                         help="a strategy, task or study; the word 'strategy', 'task' or 'study' may "
                                              "stand before its name")],
    plugins: Annotated[list[Path] | None, Option("--plugin", metavar="FILE.py", help="include this plugin")] = None,
) -> None:
    """Describe a strategy, task or study: knobs, paper, example call."""
    from rich.console import Console

    for path in plugins or ():
        add_plugin(path)
    console = Console(highlight=False, markup=False)
    for plugin in _named(words):
        width, doc = min(console.width, 100), inspect.getdoc(sys.modules[plugin.__module__]) or ""
        for part in doc.split("\n\n"):
            text = part if part.startswith(" ") else textwrap.fill(part, width, break_on_hyphens=False)
            console.print(text, end="\n\n", soft_wrap=True)
        console.print(_facts(plugin, "".join(f" --plugin {path}" for path in plugins or ())), soft_wrap=True)
        if plugin.knobs():
            console.print(f"\n{_knobs(plugin, width)}", soft_wrap=True)


def _named(words: list[str]) -> list[type[Plugin]]:
    """Return what has this name, of the kind that stands before it if there is one."""
    *kind, name = [*words[:-1], Spec.parse(words[-1]).name]
    if kind and (len(kind) > 1 or kind[0] not in KINDS):
        raise UserError(f"show describes one strategy, task or study: write show NAME, or its kind before the name, "
                        f"not 'show {' '.join(words)}'.")
    registries = [KINDS[kind[0]]] if kind else list(KINDS.values())
    if not (found := [registry.get(name) for registry in registries if name in registry.names()]):
        known = {known for registry in registries for known in registry.names()}
        wanted = kind[0] if kind else "strategy, task or study"
        raise UserError(f"There is no {wanted} '{name}'.{suggestion(name, known)}")
    return found


def _facts(plugin: type[Any], files: str) -> str:
    """Return the plugin's declarations that are not empty, an example call and its file, one per line."""
    kind = next(kind for kind, registry in KINDS.items() if issubclass(plugin, registry.base))
    names = FACTS[kind]
    facts = {name.replace("_", " "): value for name in names if (value := getattr(plugin, name))}
    if issubclass(plugin, Over):
        facts["over"] = f"any strategy [{plugin.default_over}]"
    facts["call"] = f"decodebench {CALLS[kind]} {_example(plugin)}{files}"
    facts["file"] = inspect.getsourcefile(plugin)
    lines = []
    for name, value in facts.items():
        several = sorted(value) if isinstance(value, frozenset) else value if isinstance(value, tuple) else [value]
        text = ", ".join(repr(item) if name == "stop" else "yes" if item is True else str(item) for item in several)
        line = f"{name:16}{text}"
        lines.append(_wrapped(line) if name == "stop" else line)
    return "\n".join(lines)


def _example(plugin: type[Plugin]) -> str:
    """Return an example spec: the name with one knob changed, over `top_p` if it wraps another strategy."""
    below = "top_p+" if issubclass(plugin, Over) else ""
    for key, about in plugin.knobs().items():
        if getattr(plugin, key) == "":
            return f"{below}{plugin.name}:{key}={key.upper()}"
        if others := [value for value in about.sweep if value != getattr(plugin, key)]:
            return f"'{below}{plugin.name}:{key}={others[0]}'"
    return f"{below}{plugin.name}"


def _knobs(plugin: type[Plugin], width: int) -> str:
    """Return each knob with what it does, and below it the default, the allowed and the usual values."""
    blocks = []
    for name, default, allowed, sweep, description in knob_rows(plugin):
        also = plugin.knobs()[name].also
        values = [f"{also} in transformers" if also else "", f"default {default}" if default else "", allowed]
        if sweep not in ("", allowed):
            values.append(f"sweep {sweep}")
        blocks.append(_wrapped(f"{name:15} {description}", width))
        if any(values):
            blocks.append(_wrapped(" " * 16 + "; ".join(filter(None, values)), width))
    return "\n".join(blocks)


def _wrapped(line: str, width: int = 80) -> str:
    return textwrap.fill(line, width, subsequent_indent=" " * 16, break_long_words=False, break_on_hyphens=False)
