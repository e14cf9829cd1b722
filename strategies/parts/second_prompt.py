"""A second prompt to write against: the first one with its instruction taken away, garbled or turned round.

The noisy instructions of Instructive Decoding (Kim et al. 2023, arXiv 2311.00233, §2.3). The instruction is the first
paragraph of a prompt of several, else the first line of several, else the whole prompt; the rest stays as it is.
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
    """The instruction of a prompt, and the rest with the empty lines before it."""
    for gap in ("\n\n", "\n"):
        start = len(prompt) - len(prompt.lstrip())
        place = prompt.find(gap, start)
        if place >= 0 and prompt[place:].strip():
            return prompt[:place], prompt[place:]
    return prompt, ""


def noisy(prompt: str, noise: str, dropped: float, stream: Stream) -> str:
    """The prompt with noise in place of its instruction.

    "none" leaves it out, "shuffled" keeps all but the share `dropped` of its words in a random order, "random" is a
    word that has nothing to do with it, "opposite" asks for the opposite of whatever is asked.
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
    """Token ids of the noisy prompt, the last ones if the text could else not grow to its full length in `room`."""
    words = request.as_text
    return words.encode(noisy(words.prompt, noise, dropped, request.stream))[-max(1, room - request.max_new_tokens):]


def against(session: Session, request: Request, prompt: Sequence[int], scores: Callable[[Tensor, Tensor], Tensor]
            ) -> Scorer:
    """Scores from the logits (V,) after the text and after `prompt` with the same tokens written below it."""
    other, start = session.new_sequence(), len(request.prompt)

    def scored(text: Sequence[int]) -> Scored:
        other.follow([*prompt, *text[start:]])
        minus = other.read().logits[0]
        session.follow(text)
        plus = session.read().logits[0]
        return Scored(scores(plus, minus), plus)
    return scored
