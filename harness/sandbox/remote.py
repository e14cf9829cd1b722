"""Both ends of the pipe between a program and its judge: the judge sends requests, the program's process replies.

Messages are pickled. The judge accepts data only: numbers, strings, Python's containers, dates, decimals. Any other
object stays in the program's process, and the judge refers to it by a number (`Proxy`). The program may send any bytes:
`DataUnpickler` creates only those types, all of which are implemented in C and cannot be patched.
"""

import builtins
import importlib
import io
import operator
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn

SAFE = {
    "builtins": {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "range", "set",
                 "slice", "str", "tuple"},
    "collections": {"deque"}, "decimal": {"Decimal"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
}
PLAIN = (int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
CHANGEABLE = (list, dict, set, bytearray)
ASK: dict[str, Callable[..., Any]] = {
    "call": lambda it, given, named: it(*given, **named), "get": getattr, "set": setattr, "list": list, "len": len,
    "item": operator.getitem,
}
LONGEST = 300  # characters of a message


def describe(error: BaseException, file: str = "program.py", place: str = "") -> str:
    """Describe an error in one short line: its type, its text, and the last line of `file` in its traceback."""
    try:
        line, step = 0, error.__traceback__
        while step:
            line = step.tb_lineno if step.tb_frame.f_code.co_filename == file else line
            step = step.tb_next
        text = " ".join(str(error).split())[:LONGEST]
        return f"{type(error).__name__}{': ' if text else ''}{text}" + (f" (line {line}{place})" if line else "")
    except BaseException:
        return "an error that cannot be described"


def _is_safe(kind: type) -> bool:
    return kind.__name__ in SAFE.get(kind.__module__, ())


class ProgramPickler(pickle.Pickler):
    """The program's end: sends data as it is, instances of subclasses as the plain type, other objects as numbers."""

    def __init__(self, file: Any, kept: list[Any]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.kept = kept

    def persistent_id(self, value: Any) -> Any:
        """Return the number of an object that is not data, the name of a module, None for data."""
        kind = type(value)
        if value is None or value is ... or isinstance(value, PLAIN) or _is_safe(kind) or (
                isinstance(value, type) and _is_safe(value)):
            return None
        if kind is ModuleType:
            return value.__name__
        self.kept.append(value)
        return len(self.kept) - 1

    def reducer_override(self, value: Any) -> Any:
        """Reduce an instance of a subclass of a plain type to the plain type."""
        plain = next((one for one in PLAIN if isinstance(value, one) and type(value) is not one), None)
        return (plain, (plain(value),)) if plain else NotImplemented


class ProgramUnpickler(pickle.Unpickler):
    """The program's end: turns numbers back into the program's objects."""

    kept: list[Any]

    def persistent_load(self, number: Any) -> Any:
        """Return the object with this number."""
        return self.kept[number]


def serve(requests: Any, answers: Any) -> NoReturn:
    """Run the program that the judge sends, then serve its requests; never returns."""
    kept: list[Any] = []
    source = pickle.load(requests)
    try:
        names: dict[str, Any] = {}
        exec(compile(source, "program.py", "exec"), names)
        answer: Any = {name: _parcel(value, kept) for name, value in names.items()
                       if isinstance(name, str) and not (name.startswith("__") and name.endswith("__"))}
    except BaseException as error:
        answer = describe(error)
    while True:
        answers.write(_parcel(answer, kept))
        answers.flush()
        unpickler = ProgramUnpickler(requests)
        unpickler.kept = kept
        operation, target, *arguments = unpickler.load()
        try:
            value = ASK[operation](target, *arguments)
            after = [one if type(one) in CHANGEABLE else None for one in arguments[0]] if operation == "call" else []
            answer = ("value", value, after)
        except BaseException as error:
            answer = ("error", [one.__name__ for one in type(error).__mro__], " ".join(str(error).split())[:LONGEST])


def _parcel(value: Any, kept: list[Any]) -> bytes:
    """Pickle the value, or the error that pickling raised."""
    file = io.BytesIO()
    try:
        ProgramPickler(file, kept).dump(value)
    except Exception as error:
        return pickle.dumps(("error", ["TypeError", "Exception"], f"a result cannot be handed over: {error}"[:LONGEST]))
    return file.getvalue()


class Proxy:
    """The judge's proxy of an object of the program: forwards operations to it, and equals only itself."""

    __slots__ = ("_judge", "_number")
    _judge: "Judge"
    _number: int

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call the program's function."""
        return self._judge.call(self, given, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._judge.ask("get", self, name)[0]

    def __setattr__(self, name: str, value: Any) -> None:
        self._judge.ask("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._judge.ask("list", self)[0])

    def __len__(self) -> int:
        return int(self._judge.ask("len", self)[0])

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self._judge.ask("item", self, key)[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxy) and self._number == other._number

    def __hash__(self) -> int:
        return hash(self._number)


class DataUnpickler(pickle.Unpickler):
    """The judge's end: creates types of `SAFE`, proxies for numbers, standard library modules, and nothing else."""

    judge: "Judge"

    def find_class(self, module: str, name: str) -> Any:
        """Return a type of `SAFE`; raises `UnpicklingError` for anything else."""
        if name not in SAFE.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is no data")
        return getattr(importlib.import_module(module), name)

    def persistent_load(self, number: Any) -> Any:
        """Return the proxy of an object of the program, or a module."""
        if type(number) is int:
            proxy = Proxy.__new__(Proxy)
            object.__setattr__(proxy, "_judge", self.judge)
            object.__setattr__(proxy, "_number", number)
            return proxy
        if number in sys.stdlib_module_names:
            return importlib.import_module(number)
        raise pickle.UnpicklingError("this is no data")


class JudgePickler(pickle.Pickler):
    """The judge's end: sends a proxy as the number of its object."""

    def persistent_id(self, value: Any) -> Any:
        """Return the number of a proxy, None for data."""
        return value._number if type(value) is Proxy else None


class Judge:
    """Runs the tests of a program in another process, and writes one verdict."""

    def __init__(self, answers: Any, requests: Any, verdict: int) -> None:
        self.answers, self.requests, self.verdict, self.reading = answers, requests, verdict, False

    def run(self, job: dict[str, Any]) -> NoReturn:
        """Run the program, then the tests; the verdict is `passed` or `failed: ` and the reason."""
        self._send(job["program"])
        names = self._receive()
        if not isinstance(names, dict):
            self._end(f"failed: {names if isinstance(names, str) else 'the program answered nonsense'}"[:LONGEST + 90])
        try:
            exec(compile(job["tests"], "tests.py", "exec"), self._namespace(names, job))
        except BaseException as error:
            self._end(f"failed: {describe(error, 'tests.py', ' of the tests')}")
        self._end("passed")

    def say(self, line: str) -> None:
        """Write a line to the harness."""
        os.write(self.verdict, line.encode("utf-8", "replace") + b"\n")

    def call(self, function: Proxy, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the program; its changes to mutable arguments are copied back."""
        value, after = self.ask("call", function, given, named)
        for one, now in zip(given, after, strict=False):
            if type(one) in CHANGEABLE and type(now) is type(one) and now != one:
                one.clear()
                (one.extend if isinstance(one, list | bytearray) else one.update)(now)
        return value

    def ask(self, operation: str, *operands: Any) -> tuple[Any, list[Any]]:
        """Send a request to the program; raises the built-in exception that it raised."""
        if self.reading:  # a proxy that unpickling calls, not a test
            raise pickle.UnpicklingError("this is no data")
        self._send((operation, *operands))
        answer = self._receive()
        if not (isinstance(answer, tuple) and len(answer) == 3):
            self._end("failed: the program answered nonsense")
        kind, value, rest = answer
        if kind == "value":
            return value, rest if isinstance(rest, list) else []
        names = value if isinstance(value, list) else []
        known = (getattr(builtins, name, None) for name in names if isinstance(name, str))
        raised = next((kind for kind in known if isinstance(kind, type) and issubclass(kind, BaseException)), Exception)
        try:
            error = raised(str(rest)[:LONGEST])
        except TypeError:  # UnicodeDecodeError and others need more arguments
            error = ValueError(str(rest)[:LONGEST])
        raise error

    def _namespace(self, names: dict[Any, Any], job: dict[str, Any]) -> dict[str, Any]:
        """Return the tests' namespace: names of the set-up, then the program's, which win for names in `own`."""
        try:
            setup = compile(job["setup"], "setup.py", "exec")
        except (SyntaxError, ValueError):  # a prompt that ends in the middle of something
            setup = compile("", "setup.py", "exec")
        space: dict[str, Any] = {}
        exec(setup, space)
        for name in job["own"]:
            space.pop(name, None)
        for name, parcel in names.items():
            known = name in space or (hasattr(builtins, name) and name not in job["own"])  # neither can be replaced
            if not known and isinstance(parcel, bytes):
                value = self._load(io.BytesIO(parcel))
                if not isinstance(value, ModuleType) or value.__name__ == name:  # no other module by a known name
                    space[name] = value
        return space

    def _send(self, value: Any) -> None:
        file = io.BytesIO()
        JudgePickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
        try:
            self.requests.write(file.getvalue())
            self.requests.flush()
        except OSError:
            self._end("failed: the program's process ended before its tests did")

    def _receive(self) -> Any:
        return self._load(self.answers)

    def _load(self, file: Any) -> Any:
        data = DataUnpickler(file)
        data.judge, self.reading = self, True
        try:
            return data.load()
        except EOFError:
            self._end("failed: the program's process ended before its tests did")
        except BaseException as error:
            self._end(f"failed: what the program answered is no data ({describe(error)})")
        finally:
            self.reading = False

    def _end(self, verdict: str) -> NoReturn:
        """Write the verdict and exit, whatever exceptions the tests catch."""
        self.say(verdict)
        os._exit(0)
