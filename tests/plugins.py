"""Source texts of plugins that tests write to a file and pass to the command line."""

TASK = '''"""Words to go on from."""
from dataclasses import dataclass
from harness.plugins.task import Example, Task

@dataclass(frozen=True)
class Words(Task):
    version = 1
    source = "test"
    headline = "length"
    max_new_tokens = 6

    def examples(self, data):
        return [Example(str(i), (text,)) for i, text in enumerate(("one two", "three", "four"))]

    def score(self, example, answers):
        return {"length": float(len(answers[0]))}
'''
BROKEN = '''"""Fails at once."""
from dataclasses import dataclass
from harness.plugins.strategy import Strategy

@dataclass(frozen=True)
class Broken(Strategy):
    paper = "none"
    family = "test"
    guarantee = "changes-output"

    def generate(self, session, request):
        raise RuntimeError("on purpose")
        yield
'''
