"""A task that writes a text about another one: a translation, a summary, a text about facts."""

from dataclasses import dataclass

from harness.plugins.plugin import per_instance
from harness.plugins.task import Task, knob

FORMS = ("text", "chat", "source")


@dataclass(frozen=True)
class SourceTask(Task):
    """A task whose prompt is a question about a source, the same in the chat template, or the source alone.

    An answer to the question as text ends with its line.
    """

    form: str = knob("text", "the question as text, the question in the chat template, or the source without a "
                     "question, for models that were trained so", choices=FORMS, sweep=FORMS)
    prefix: str = knob("", "words before the source in place of the question, such as 'summarize:'")

    stop = per_instance((), lambda task: ("\n",) if task.form == "text" and not task.prefix else ())
    chat = per_instance(False, lambda task: task.form == "chat")

    def asked(self, source: str, question: str) -> str:
        """Return the source after the prefix, or else the whole `question` about it, or the source alone."""
        if self.prefix:
            return f"{self.prefix.rstrip()} {source}"
        return source if self.form == "source" else question
