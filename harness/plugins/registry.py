"""Finds strategies, tasks and studies: built-in ones by file name, third parties' by entry point, a user's by path."""

import ast
import dataclasses
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from harness.errors import UserError, suggestion
from harness.plugins.plugin import Plugin
from harness.plugins.spec import Spec
from harness.plugins.strategy import Over, Strategy
from harness.plugins.study import Study
from harness.plugins.task import Task

P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """The plugins of one kind; listing them imports none, `get` imports one.

    Two plugins of the same name raise `UserError` with both files. Entry points belong to the group
    `decodebench.<package>`; `$DECODEBENCH_PLUGINS` (comma-separated distribution names) restricts them.
    """

    def __init__(self, kind: str, package: str, base: type[P]) -> None:
        self.kind, self.package, self.base = kind, package, base
        self._files: dict[str, Path] = {}

    def built_in(self) -> dict[str, Path]:
        """Return the files of the built-in plugins by name."""
        return dict(_modules(Path(__file__).resolve().parents[2] / self.package))

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({*self.built_in(), *self._files, *self._foreign()})

    def file(self, name: str) -> Path | None:
        """Return the file of a plugin, None if it comes from an entry point or does not exist."""
        return self._files.get(name) or self.built_in().get(name)

    def origin(self, name: str) -> str:
        """Return the file of a plugin, or a description of its entry point."""
        path = self.file(name)
        return str(path) if path else _describe(self._foreign()[name])

    def idea(self, name: str) -> str:
        """Return the first line of a plugin's docstring without importing it; empty if it has no local file."""
        path = self.file(name)
        if path is None:
            return ""
        return (ast.get_docstring(parsed(path)) or "").partition("\n")[0]

    def add_file(self, path: Path) -> str:
        """Register the plugin in a Python file and return its name; raises `UserError` if the name is taken."""
        name, path = path.stem, path.resolve()
        if not path.is_file():
            raise UserError(f"There is no plugin file {path}.")
        if self._files.get(name) != path and name in self.names():
            raise UserError(f"The {self.kind} '{name}' is defined twice: in {self.origin(name)} and in {path}; "
                            "give your file another name.")
        self._files[name] = path
        return name

    def get(self, name: str) -> type[P]:
        """Return the class of a plugin; raises `UserError` if there is none of this name or it cannot be loaded."""
        if name in self._files:
            return self._class(_load_file(self._files[name]), name)
        foreign = self._foreign()
        if name in self.built_in():
            return self._class(importlib.import_module(f"{self.package}.{name}"), name)
        if name in foreign:
            try:
                loaded = foreign[name].load()
            except Exception as error:
                raise UserError(f"The {self.kind} '{name}' from {_describe(foreign[name])} "
                                f"cannot be loaded: {error}.") from error
            return self._class(loaded, name)
        raise self.unknown(name)

    def unknown(self, name: str) -> UserError:
        """Return the error for a name that no plugin has."""
        return UserError(f"There is no {self.kind} '{name}'.{suggestion(name, self.names())}")

    def build(self, text: str | Spec) -> P:
        """Create a plugin from `name:k=v,k=v`, or a strategy that wraps another one from `other:k=v+name:k=v`."""
        spec = Spec.parse(text) if isinstance(text, str) else text
        cls = self.get(spec.name)
        if issubclass(cls, Over):
            return cls.configured(spec.knobs, over=self.build(spec.wrapped or cls.default_over))
        if spec.wrapped:
            raise UserError(f"The {self.kind} '{spec.name}' cannot wrap another one: "
                            f"write '{spec.stages[-1]}' instead of '{spec}'.")
        return cls.configured(spec.knobs)

    def _foreign(self) -> dict[str, EntryPoint]:
        allowed = os.environ.get("DECODEBENCH_PLUGINS")
        listed = None if allowed is None else {_normal(name) for name in allowed.split(",")}
        points: dict[str, EntryPoint] = {}
        for point in _entry_points(f"decodebench.{self.package}", tuple(sys.path)):
            if listed is not None and (point.dist is None or _normal(point.dist.name) not in listed):
                continue
            other = points.get(point.name)
            built_in = self.built_in().get(point.name)
            if built_in or (other and other.value != point.value):
                raise UserError(f"The {self.kind} '{point.name}' is defined twice: in "
                                f"{built_in or _describe(other)} and in {_describe(point)}; uninstall one of them.")
            points[point.name] = point
        return points

    def _class(self, loaded: ModuleType | type[P], name: str) -> type[P]:
        """Return the plugin class of a module, or the class itself, with its name; raises `UserError` if invalid."""
        if isinstance(loaded, ModuleType):
            classes = [c for c in vars(loaded).values() if isinstance(c, type) and issubclass(c, self.base)
                   and c.__module__ == loaded.__name__ and not c.__name__.startswith("_")]
            if len(classes) != 1:
                raise UserError(f"{loaded.__file__} must define exactly one subclass of {self.base.__name__}, "
                                f"not {len(classes)}.")
            loaded = classes[0]
        params = getattr(loaded, "__dataclass_params__", None)
        if not (isinstance(loaded, type) and issubclass(loaded, self.base) and dataclasses.is_dataclass(loaded)
                and "__dataclass_params__" in vars(loaded) and params is not None and params.frozen):
            raise UserError(f"The {self.kind} '{name}' must be a subclass of {self.base.__name__} "
                            "decorated with @dataclass(frozen=True).")
        loaded.name = name
        return loaded


def add_plugin(path: Path) -> None:
    """Register a Python file as a task or a study if one of its classes has this base, otherwise as a strategy.

    The file is parsed, not executed. Raises `UserError` if it is not a Python file or its name is taken.
    """
    if not path.is_file():
        raise UserError(f"There is no plugin file {path}.")
    bases = {base.attr if isinstance(base, ast.Attribute) else base.id for node in ast.walk(parsed(path))
             if isinstance(node, ast.ClassDef) for base in node.bases if isinstance(base, ast.Attribute | ast.Name)}
    registry: Registry[Any] = TASKS if "Task" in bases else STUDIES if "Study" in bases else STRATEGIES
    registry.add_file(path)


def parsed(path: Path) -> ast.Module:
    """Return the syntax of a file; raises `UserError` if it is not Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a Python file: {error}.") from None


@cache
def _modules(folder: Path) -> dict[str, Path]:
    """Return the Python files of a package by name, without its subpackages."""
    return {m.name: folder / f"{m.name}.py" for m in pkgutil.iter_modules([str(folder)]) if not m.ispkg}


@cache  # because it reads a file of every installed package
def _entry_points(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of a group in the packages on `path`, which is `sys.path`."""
    return entry_points(group=group)


def _normal(name: str) -> str:
    """Return a distribution's name in the normal form of package indexes."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _load_file(path: Path) -> ModuleType:
    """Import a file once, under a module name that no other module uses."""
    name = f"decodebench_plugin_{path.stem}"
    if (known := sys.modules.get(name)) and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}.") from error
    return module


def _describe(point: EntryPoint | None) -> str:
    if point is None:
        return "?"
    return f"the package '{point.dist.name if point.dist else '?'}' ({point.value})"


STRATEGIES = Registry("strategy", "strategies", Strategy)  # type: ignore[type-abstract]
TASKS = Registry("task", "tasks", Task)  # type: ignore[type-abstract]
STUDIES = Registry("study", "studies", Study)  # type: ignore[type-abstract]
