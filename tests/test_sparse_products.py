"""Gathered products of TopK training against dense ones that autograd differentiates."""

from __future__ import annotations

import pytest
import torch

from cellcircuits import sparse_products
from cellcircuits.autoencoders import TopKSAE
from cellcircuits.learners import TopKLearner, _dense, _gathered
from cellcircuits.settings import TrainSettings

CPU = torch.device("cpu")


def learner(n_features: int, k: int, seed: int = 0) -> TopKLearner:
    settings = TrainSettings(expansion=n_features // 8, k=k, learning_rate=1e-2, dead_after_positions=100)
    made = TopKLearner(8, settings, CPU)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n_features, 8, generator=generator)
    made.begin(torch.randn(50, 8, generator=generator), rows / rows.norm(dim=1, keepdim=True))
    return made


def gradients(sae: TopKSAE, hidden: torch.Tensor, products) -> dict[str, torch.Tensor]:
    """Of some loss of reconstruction and values."""
    sae.zero_grad(set_to_none=True)
    decoded, values, _ = products(sae, hidden)
    ((hidden - decoded - sae.b_dec).square().sum() + 0.3 * values.square().sum()).backward()
    return {name: value.grad.clone() for name, value in sae.named_parameters()}


@pytest.mark.parametrize("n_positions", [1, 7, 600])
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_equal_those_of_dense_products(n_positions, shared):
    sae = learner(160, 5).module
    if not shared:
        sae.b_in = torch.nn.Parameter(torch.randn(8, generator=torch.Generator().manual_seed(5)))
    hidden = torch.randn(n_positions, 8, generator=torch.Generator().manual_seed(1))
    dense, gathered = (gradients(sae, hidden, products) for products in (_dense, _gathered))
    assert set(dense) == set(gathered) == {"W_enc", "b_enc", "W_dec", "b_dec"} | (set() if shared else {"b_in"})
    for name, value in dense.items():
        torch.testing.assert_close(gathered[name], value, atol=1e-4, rtol=1e-4)
        assert value.abs().sum() > 0


def test_the_same_training_either_way():
    """Also while dead features are revived; the weights stay together for some steps, then rounding adds up."""
    hidden = torch.randn(300, 8, generator=torch.Generator().manual_seed(2))
    gathered, dense = learner(160, 5), learner(160, 5)
    dense.gathers = False
    assert gathered.gathers
    with torch.no_grad():
        for one in (gathered, dense):
            one.module.b_enc[100:] = -50  # dead from the start
    for _ in range(8):
        for one in (gathered, dense):
            one.step(hidden, 0.0)
    assert dense.dead().any() and torch.equal(dense.silent_for, gathered.silent_for)
    for name, value in dense.module.state_dict().items():
        torch.testing.assert_close(gathered.module.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_where_it_pays():
    assert sparse_products.pays(1024, 32, CPU) and sparse_products.pays(4608, 32, CPU)
    assert not sparse_products.pays(384, 16, CPU) and not sparse_products.pays(4608, 32, torch.device("cuda"))
