"""The knobs that a plugin's file declares, read without importing it, so that a misspelt one is told at once."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plugins.plugin import unknown_knob
from harness.plugins.registry import STRATEGIES, TASKS, Registry, parsed
from harness.plugins.spec import Spec

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ("Strategy", "Task", "Over")  # they have no knobs of their own


@dataclass(frozen=True)
class Module:
    """The classes and functions of a Python file by name, and the modules from which it imports others."""

    classes: dict[str, ast.ClassDef]
    functions: dict[str, ast.FunctionDef]
    imported: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Module":
        """Parse a file; raises `UserError` if it is not Python."""
        body = parsed(path).body
        return cls({node.name: node for node in body if isinstance(node, ast.ClassDef)},
                   {node.name: node for node in body if isinstance(node, ast.FunctionDef)},
                   {alias.asname or alias.name: node.module for node in body
                    if isinstance(node, ast.ImportFrom) and node.module for alias in node.names})

    def origin(self, name: str) -> "Module":
        """Return the module that defines a name; raises LookupError if it is no file of this project."""
        if name in self.classes or name in self.functions:
            return self
        path = ROOT.joinpath(*self.imported[name].split(".")).with_suffix(".py")
        if not path.is_file():
            raise LookupError(name)
        return Module.read(path).origin(name)


def check_specs(strategies: Iterable[str], tasks: Iterable[str]) -> None:
    """Raise `UserError` for an unknown name or knob, without an import; what cannot be told in this way is left open.
    """
    kinds: tuple[tuple[Registry[Any], Iterable[str]], ...] = ((STRATEGIES, strategies), (TASKS, tasks))
    for registry, texts in kinds:
        for stage in (stage for text in texts for stage in Spec.parse(text).stages):
            if stage.name not in registry.names():
                raise registry.unknown(stage.name)
            file = registry.file(stage.name)
            if file is None or (known := declared(file)) is None:
                continue
            if wrong := [given for given in stage.knobs if given not in known]:
                raise unknown_knob(stage.name, wrong[0], set(known.values()))


def declared(path: Path) -> dict[str, str] | None:
    """Return the knobs of the plugin in a file by each name that they can be given by; None if that cannot be told.

    A knob is an annotated field of a dataclass, the plugin's own or one from which it inherits.
    """
    module, found = Module.read(path), list[dict[str, str]]()
    for name, node in module.classes.items():
        try:
            knobs = dict(_knobs(node, module))
        except LookupError:  # a class that is no plugin, or one with a base from elsewhere
            continue
        if not name.startswith("_"):
            found.append(knobs)
    return found[0] if len(found) == 1 else None


def _knobs(node: ast.ClassDef, module: Module) -> Iterator[tuple[str, str]]:
    """Yield names and knobs of a class and of those from which it inherits; LookupError without a contract among them.
    """
    if not node.bases:
        raise LookupError(node.name)
    for base in node.bases:
        plain = base.value if isinstance(base, ast.Subscript) else base
        name = plain.id if isinstance(plain, ast.Name) else ""
        if name not in (*CONTRACTS, "Generic"):
            origin = module.origin(name)
            yield from _knobs(origin.classes[name], origin)
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            knob = ast.unparse(field.target)
            yield knob, knob
            for also in _also(field.value, module):
                yield also, knob


def _also(value: ast.expr | None, module: Module) -> Iterator[str]:
    """Yield the other name that `knob(…)`, or a function that returns it, gives a knob."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name):
        return
    if value.func.id == "knob":
        yield from (str(word.value.value) for word in value.keywords
                    if word.arg == "also" and isinstance(word.value, ast.Constant))
        return
    origin = module.origin(value.func.id)
    for node in ast.walk(origin.functions[value.func.id]):
        if isinstance(node, ast.Return):
            yield from _also(node.value, origin)
