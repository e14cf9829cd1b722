"""Output layers of two models of one tokenizer, which families pad to different sizes."""

from torch import Tensor, nn

from harness.engine.engine import Engine


class CutHead(nn.Module):
    """An output layer without the logits from number `size` on, which no token of the tokenizer has."""

    def __init__(self, head: nn.Module, size: int) -> None:
        super().__init__()
        self.head, self.size = head, size
        self.weight = head.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (…, D) to (…, size)."""
        logits: Tensor = self.head(hidden)[..., :self.size]
        return logits


def share(target: Engine, draft: Engine) -> None:
    """Cut the larger of two output layers to the size of the other, so that their logits can be compared."""
    size = min(target.vocab, draft.vocab)
    for engine in (target, draft):
        if engine.vocab > size:
            engine.model.set_output_embeddings(CutHead(engine.model.get_output_embeddings(), size))
            engine.vocab = size
            if (bias := getattr(engine.model, "final_logits_bias", None)) is not None:  # of BART and its kin
                engine.model.final_logits_bias = bias[..., :size]
