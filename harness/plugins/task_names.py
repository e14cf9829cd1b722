"""Names of tasks as reports and progress lines show them: a task file is called by its own name."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from harness.plugins.spec import Spec, shortened
from harness.plugins.task_file import own_name


def task_names(specs: Iterable[str]) -> dict[str, str]:
    """Return the name of each task: its spec, but for a task file the file's own name, if no other task has it."""
    return {text: str(spec) for text, spec in _named_by_file(specs).items()}


def short_task_names(specs: Iterable[str]) -> dict[str, str]:
    """Return a short label for each task: its name, and the knobs that distinguish it from others of that name."""
    return shortened(_named_by_file(specs))


def _named_by_file(specs: Iterable[str]) -> dict[str, Spec]:
    """Return the specs, with a task file's own name in place of `task_file` and the knob `file`."""
    parsed = {text: Spec.parse(text) for text in specs}
    named = {text: Spec.of(own_name(Path(file)), **{key: value for key, value in spec.knobs.items() if key != "file"})
             if spec.name == "task_file" and (file := spec.knobs.get("file")) else spec
             for text, spec in parsed.items()}
    taken, others = Counter(map(str, named.values())), {spec.name for spec in parsed.values()}
    return {text: spec if taken[str(spec)] == 1 and spec.name not in others else parsed[text]
            for text, spec in named.items()}
