"""Is the transformer what it says, and does one seed give one task?"""

import pytest
import torch
from torch import nn

from evohbde import ParameterLayout
from problems import transformer as t
from problems.digits import shifted_splits, splits
from problems.networks import initialised


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_has_the_size_and_the_outputs_that_its_docstring_says(x):
    network = initialised(t.build_transformer, 0)
    assert len(ParameterLayout(network)) == 18_026
    assert network(x).shape == (5, 10)


@torch.no_grad()
def test_attention_is_that_of_pytorch(x):
    ours = initialised(lambda: t.Attention(8, 2), 0)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    roles = ours.query, ours.key, ours.value
    theirs.in_proj_weight.copy_(torch.cat([role.weight for role in roles]))
    theirs.in_proj_bias.copy_(torch.cat([role.bias for role in roles]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_row_counts_where_it_stands(x):
    network = initialised(t.build_transformer, 0).eval()
    assert not torch.allclose(network(x), network(x.flip(1)), atol=1e-3)
    network.embedding.place.zero_()
    torch.testing.assert_close(network(x), network(x.flip(1)), rtol=1e-4, atol=1e-4)


def test_a_seed_gives_one_network_and_the_digits_of_that_seed(monkeypatch):
    monkeypatch.setattr(t, "EPOCHS", 1)
    clean, shifted, other = t.transformer(3), t.shifted_transformer(3), t.transformer(4)
    first, second, third = (ParameterLayout(task.model).flatten(task.model) for task in (clean, shifted, other))
    assert torch.equal(first, second) and not torch.equal(first, third)
    for task, parts in ((clean, splits(3)), (shifted, shifted_splits(3))):
        assert torch.equal(task.train.x, parts.train.x) and torch.equal(task.test.x, parts.test.x)
        assert torch.equal(task.train.y, parts.train.y) and torch.equal(task.test.y, parts.test.y)
