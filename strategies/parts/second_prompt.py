"""A second prompt to contrast with: the first one without its instruction, or with a garbled or opposite one.

The noisy instructions of Instructive Decoding (Kim et al. 2023, arXiv 2311.00233, §2.3). The instruction is the first
paragraph of a prompt of several, else the first line of several, else the whole prompt; the rest is unchanged.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from harness.decoding.contrast import Scored, Scorer
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.plugins.strategy import Request

NOISES = ("none", "shuffled", "random", "opposite")
OPPOSITE = "Whatever you are asked below, answer the very opposite of what is right."
RANDOM = ("window", "purple", "seventeen", "gently", "harbour", "because", "copper", "yesterday", "triangle", "whistle",
          "under", "marble", "forty", "breathe", "lantern", "seldom", "gravel", "orchestra", "perhaps", "velvet")


def parted(prompt: str) -> tuple[str, str]:
    """Split a prompt into its instruction and the rest, which begins with the line breaks between them."""
    for gap in ("\n\n", "\n"):
        start = len(prompt) - len(prompt.lstrip())
        index = prompt.find(gap, start)
        if index >= 0 and prompt[index:].strip():
            return prompt[:index], prompt[index:]
    return prompt, ""


def noisy(prompt: str, noise: str, dropped: float, stream: Stream) -> str:
    """Replace the instruction of a prompt by noise.

    "none" leaves it out, "shuffled" keeps all but the share `dropped` of its words in a random order, "random" is a
    unrelated word, "opposite" asks for the opposite of the instruction.
    """
    instruction, rest = parted(prompt)
    if noise == "none":
        return rest.lstrip("\n")
    if noise == "opposite":
        return OPPOSITE + rest
    words = instruction.split()
    order = [int(i) for i in stream.uniform(max(1, len(words)) if noise == "shuffled" else len(RANDOM)).argsort()]
    if noise == "random":
        return RANDOM[order[0]] + rest
    return " ".join(words[i] for i in order[:max(1, round((1 - dropped) * len(words)))] if words) + rest


def second(request: Request, noise: str, dropped: float, room: int) -> list[int]:
    """Return the token ids of the noisy prompt, cut at the left so that prompt and output fit into `room` tokens."""
    text = request.as_text
    return text.encode(noisy(text.prompt, noise, dropped, request.stream))[-max(1, room - request.max_new_tokens):]


def against(session: Session, request: Request, prompt: Sequence[int], scores: Callable[[Tensor, Tensor], Tensor]
            ) -> Scorer:
    """Return a scorer over the logits (V,) after the sequence and after `prompt` followed by the same output."""
    other, start = session.new_sequence(), request.start

    def scored(sequence: Sequence[int]) -> Scored:
        other.follow([*prompt, *sequence[start:]])
        minus = other.read().logits[0]
        session.follow(sequence)
        plus = session.read().logits[0]
        return Scored(scores(plus, minus), plus)
    return scored
