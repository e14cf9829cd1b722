"""JSON schema: any strategy, restricted to answers that are JSON and fit a schema.

The library llguidance (github.com/guidance-ai/llguidance) says which tokens may follow the answer so far, as in
`grammar`, whose remarks hold here too. `file` is a JSON schema. Without one, the schema of the task's example counts
(`nano_json`, `json_file`), and without that any JSON. Properties come in the order of the schema. With `spaces=False`
the only white space is one space after each comma and colon, as `json.dumps` writes; a small model may otherwise go on
with white space for ever. Written `speculative+json_schema:file=s.json`.
"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.decoding.grammar import Structured, library
from harness.errors import UserError
from harness.plugins.data import read_text
from harness.plugins.strategy import Request, knob

NARROW = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class JsonSchema(Structured):
    """Every answer that ends by itself is JSON that fits the schema."""

    file: str = knob("", "file with a JSON schema [the example's, else any JSON]", file=True)
    spaces: bool = knob(True, "whether any white space may stand between the parts", sweep=(True, False))

    paper: ClassVar[str] = "github.com/guidance-ai/llguidance"

    def grammar(self, request: Request) -> str:
        """Return the grammar of the schema; raises `UserError` if it is not JSON."""
        text = read_text(self.file) if self.file else request.as_text.schema or "{}"
        try:
            schema: Any = json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.file or 'The schema of the example'} is not JSON ({error}).") from None
        grammar: str = library().LLMatcher.grammar_from_json_schema(json.dumps(schema),
                                                                    overrides={} if self.spaces else NARROW)
        return grammar
