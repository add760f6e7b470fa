"""How does a small transformer read 8x8 digits, row by row, and what does it do once the camera has moved?

The splits, the shift and the seeds are those of `problems.digits`; a digit is a sequence of 8 rows of 8 pixels.
Macro-F1 held out, mean of seeds 0 to 4: .952 clean and .503 shifted.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from evohbde.data import Task
from evohbde.gradient import pretrain

from .digits import Splits, shifted_splits, splits
from .networks import initialised

NUM_ROWS, NUM_PIXELS, NUM_CLASSES = 8, 8, 10
WIDTH, NUM_HEADS, NUM_BLOCKS = 32, 4, 2
EPOCHS = 60


class Embedding(nn.Module):
    """Rows of pixels to tokens that know their place: `(n, 8, 8) -> (n, 8, width)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.Linear(NUM_PIXELS, width)
        self.place = nn.Parameter(0.02 * torch.randn(NUM_ROWS, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x) + self.place


class Attention(nn.Module):
    """Self-attention with a linear layer of its own for each role: `(n, t, w) -> (n, t, w)`.

    Source: Vaswani et al. (2017), arXiv 1706.03762, section 3.2.2.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        heads = [layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in self._roles()]
        seen = functional.scaled_dot_product_attention(*heads)
        return self.output(seen.transpose(1, 2).flatten(2))

    def _roles(self) -> tuple[nn.Linear, ...]:
        return self.query, self.key, self.value


class Block(nn.Module):
    """Attention and a perceptron per token, each normalised and beside a shortcut: `(n, t, w) -> (n, t, w)`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.inner = nn.Sequential(
            OrderedDict(widen=nn.Linear(width, 2 * width), gelu=nn.GELU(), narrow=nn.Linear(2 * width, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.inner(self.norm2(x))


class Mean(nn.Module):
    """Mean of all tokens: `(n, t, w) -> (n, w)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def build_transformer(width: int = WIDTH, num_blocks: int = NUM_BLOCKS, num_heads: int = NUM_HEADS) -> nn.Sequential:
    """Build the untrained transformer (D = 18,026): `(n, 8, 8) -> (n, 10)`."""
    blocks = [(f"block{number}", Block(width, num_heads)) for number in range(1, num_blocks + 1)]
    ends = [("norm", nn.LayerNorm(width)), ("mean", Mean()), ("head", nn.Linear(width, NUM_CLASSES))]
    return nn.Sequential(OrderedDict([("embedding", Embedding(width)), *blocks, *ends]))


def transformer(seed: int = 0) -> Task:
    """Give the transformer, pre-trained on 600 digits, with unchanged digits."""
    return _task(splits(seed), "digits-transformer", seed)


def shifted_transformer(seed: int = 0) -> Task:
    """Give the same network as `transformer(seed)` with shifted digits to search on and to be tested on."""
    return _task(shifted_splits(seed), "digits-shifted-transformer", seed)


def _task(parts: Splits, name: str, seed: int) -> Task:
    model = pretrain(initialised(build_transformer, seed), parts.pretrain, epochs=EPOCHS, seed=seed)
    return Task(model=model, train=parts.train, test=parts.test, name=name)
