"""`decodebench doctor`: check this machine and say how to install what is missing."""

import os
import platform
import shutil
import sys
import textwrap
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from typer import Option


class _Missing(Exception):
    """An optional component is missing; the arguments are a description and how to install it."""


def command(
    model: Annotated[str | None, Option("-m", "--model", metavar="MODEL", help="also check a model: its size, and how "
                                        "fast it is here")] = None,
    dtype: Annotated[str, Option(metavar="D", help="precision of the model")] = "float32",
) -> int:
    """Check this machine, and print how to install what is missing."""
    broken, checks = 0, dict(CHECKS)
    if model:
        checks |= {"model": (partial(_size, model, dtype), "give another model, or another --dtype"),
                   "speed": (partial(_speed, model, dtype), "see 'model'")}
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    for name, (check, repair) in checks.items():
        try:
            state, text, advice = "ok", check(), ""
        except _Missing as missing:
            state, (text, advice) = "missing", missing.args
        except Exception as error:  # any error is reported as the result of its check
            state, text, advice, broken = "broken", next(iter(str(error).splitlines()), repr(error)), repair, 1
        for line in (f"{state:9}{name:10}{text}", *([f"{'':19}→ {advice}"] if advice else [])):
            typer.echo(textwrap.fill(line, width, subsequent_indent=" " * 19, break_on_hyphens=False))
    return broken


def _packages() -> str:
    """Compare the installed version of every requirement with the tested one; raises ValueError outside the range."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    lines = files("harness.cli").joinpath("constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    tested = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    required = [Requirement(line) for line in requires("decodebench") or () if "extra ==" not in line]
    different: dict[str, list[str]] = {"newer": [], "older": []}
    for one in required:
        installed = Version(version(one.name))
        if not one.specifier.contains(installed, prereleases=True):
            raise ValueError(f"{one.name} {installed} is outside the supported range {one.specifier}")
        if installed.public != tested[one.name]:
            order = "newer" if installed > Version(tested[one.name]) else "older"
            different[order].append(f"{one.name} {installed} ({tested[one.name]})")
    same = len(required) - sum(map(len, different.values()))
    return "; ".join([f"{same} of {len(required)} are the tested versions",
                      *(f"{order} than tested: {', '.join(names)}" for order, names in different.items() if names)])


def _torch() -> str:
    import torch

    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{torch.__version__}, {', '.join(cards) or 'no CUDA'}, CPU threads: {torch.get_num_threads()}"


def _nano() -> str:
    """Load the embedded models and generate a few tokens with each."""
    from harness import nano
    from harness.engine.random_stream import PhiloxStream
    from harness.engine.session import Session
    from harness.models.loading import load
    from harness.plugins.registry import STRATEGIES
    from harness.plugins.strategy import Request

    answers = []
    for model in map(load, nano.CAUSAL):
        request = Request(tuple(model.tokenizer("Question: Sam has 2")["input_ids"]), 4, PhiloxStream(0))
        steps = islice(STRATEGIES.build("greedy").generate(Session(model.engine), request), 4)
        answers.append(model.tokenizer.decode([token for step in steps for token in step]).strip())
    return " and ".join(f"{name} says {text!r}" for name, text in zip(nano.CAUSAL, answers, strict=True))


def _evaluate() -> str:
    from harness.plugins.data import DataSource
    from harness.plugins.registry import TASKS

    task = TASKS.build("nano_math")
    task.score(task.examples(DataSource())[0], ["1"])
    return f"{version('evaluate')} scores an answer"


def _sandbox() -> str:
    from harness.sandbox import active_protections, isolation

    if not {"seccomp", "landlock"} <= set(active_protections()):
        raise _Missing(isolation(), "use Linux 5.13 or later, or execute only programs of models that you trust")
    return isolation()


def _vllm() -> str:
    """Return the version of vLLM, and whether the package for suffix decoding is installed."""
    from harness.backends.vllm_options import COMMANDS, TESTED, package

    installed = package()
    if installed is None:
        raise _Missing("optional, a second backend", COMMANDS["vllm"])
    name, number = installed
    if not number.startswith(f"{TESTED}."):
        raise _Missing(f"{name} {number} is not the version that was tested ({TESTED})", COMMANDS["vllm"])
    if find_spec("arctic_inference") is None:
        raise _Missing(f"{name} {number}, without suffix decoding", COMMANDS["suffix"])
    return f"{name} {number}, with suffix decoding"


def _openai() -> str:
    try:
        return version("openai")
    except PackageNotFoundError:
        raise _Missing("optional, judges behind an endpoint", "pip install 'decodebench[judge]'") from None


def _data() -> str:
    folder = Path(os.environ.get("DECODEBENCH_DATA") or "DIR")
    if not folder.is_dir():
        raise _Missing("no local data sets: they are downloaded from the Hugging Face hub",
                       f"put {folder}/gsm8k/test.jsonl there and export DECODEBENCH_DATA={folder}")
    return f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or 'empty'}"


def _size(name: str, dtype: str) -> str:
    """Return what a model needs, before its weights are loaded."""
    from harness.engine.cache import free_bytes
    from harness.models.loading import outline, torch_dtype
    from harness.models.size import CONTEXT, size_of
    from harness.models.source import split_dtype

    own = split_dtype(name)[1] or dtype
    known, free = outline(name), free_bytes("cpu")
    model = known.engine.model.to(torch_dtype(own))
    size = size_of(model, known.engine.max_len)
    template = "a chat template" if getattr(known.tokenizer, "chat_template", None) else "no chat template"
    return (f"{type(model).__name__}, {size.parameters / 1e6:,.1f} M parameters, {size.weights / 1e9:.3g} GB in "
            f"{own}; reads {size.longest:,} tokens, {template}, {len(known.eos)} EOS; KV cache "
            f"{size.token / 1e3:.3g} kB a token; {free / 1e9:.3g} GB are free, enough for {size.rows(free):,} "
            f"sequences of {min(CONTEXT, size.longest):,} tokens at once")


def _speed(name: str, dtype: str) -> str:
    """Load a model, and time forward passes over one and over eight tokens."""
    from statistics import median

    from harness.models.loading import load
    from harness.verify.forwards import forward_seconds

    model = load(name, dtype=dtype)
    (taken,) = forward_seconds([model.engine], [5, 2] * 64, (1, 8), 5)
    one, eight = (median(taken[width]) for width in (1, 8))
    return (f"{1000 * one:.3g} ms a token, so 1,000 tokens take {1000 * one:,.0f} s; a forward over 8 tokens takes "
            f"{eight / one:.2f} times as long as one over a single token")


CHECKS = {
    "python": (platform.python_version, ""),
    "packages": (_packages, "make setup in a checkout, otherwise pip install --upgrade decodebench"),
    "torch": (_torch, "pip install --force-reinstall torch"),
    "nano": (_nano, "make nano (trains them again)"),
    "evaluate": (_evaluate, "pip install --force-reinstall evaluate"),
    "sandbox": (_sandbox, "leave out tasks that run code"),
    "vllm": (_vllm, ""),
    "openai": (_openai, ""),
    "data": (_data, ""),
}
