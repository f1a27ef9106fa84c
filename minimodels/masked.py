"""Transformers that fill in masked tokens, all positions at once (MaskGIT, Muse, Phenaki).

Every layer attends to all tokens, then to the text; the second of Muse's transformers attends to the features of
low-resolution tokens beside the text. Token `vocab` is the mask.

Sources: Chang et al. 2023 (Muse), arXiv 2301.00704, section 2; Villegas et al. 2022 (Phenaki), arXiv 2210.02399.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from minimodels.checks import check_features, check_tokens
from minimodels.token_config import MaskedTransformer as MaskedTransformerConfig
from minimodels.transformer import Cache, Encoder, Stack


class MaskedTransformer(nn.Module):
    """Tokens (b, n), the mask among them, and what they are to show -> logits (b, n, vocab)."""

    def __init__(self, config: MaskedTransformerConfig) -> None:
        super().__init__()
        dim = config.stack.dim
        self.vocab, self.text_dim = config.vocab, config.text_dim
        self.embedding = nn.Embedding(config.vocab + 1, dim)
        self.text = nn.Linear(config.text_dim, dim, bias=False) if config.project_text else None
        self.condition = None
        if config.condition is not None:
            assert config.condition_axes is not None and config.condition_vocab is not None
            self.condition = Encoder(config.condition_vocab, prod(config.condition_axes), config.condition)
        role = "joint" if len(config.axes) == 3 else "self"  # of space and time at once
        context_dim = dim if config.project_text else config.text_dim
        self.stack = Stack(config.stack, *config.axes, causal=False, context_dim=context_dim, role=role)
        self.head = nn.Linear(dim, config.vocab, bias=False)

    def context(self, text: Tensor, condition: Tensor | None = None) -> Cache:
        """Keys and values of all that is attended to beside the tokens, computed once for all steps.

        text: features (b, m, text_dim); condition: low-resolution tokens (b, m').
        """
        check_features("text", text, self.text_dim)
        if (condition is None) != (self.condition is None):
            raise ValueError(
                f"this network is {'not ' * (self.condition is None)}told low-resolution tokens (condition)"
            )
        context = text if self.text is None else self.text(text)
        if self.condition is not None and condition is not None:
            context = torch.cat([context, self.condition(condition)], dim=1)
        return Cache((), self.stack.project_context(context))

    def forward(self, tokens: Tensor, context: Cache) -> Tensor:
        """context: what `context` makes of a text, once for all steps."""
        check_tokens(tokens)
        return self.head(self.stack(self.embedding(tokens), cache=context))
