"""The model with random weights: the same numbers in another order, for every adapter."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

import cellcircuits as cc
from cellcircuits.errors import ModelError
from cellcircuits.models.randomized import randomized
from cellcircuits.models.toy import ToyModel

pytestmark = pytest.mark.usefixtures("one_thread")


def last_states(model: cc.Model, cells: cc.Tokens) -> torch.Tensor:
    *_, (_, hidden) = model.run_layers(model.embed(cells), cells, 0, model.n_layers)
    return hidden


def test_the_same_numbers_in_another_order(demo_model, demo_tokens):
    before, cells = demo_model.fingerprint(), demo_tokens.take([0, 1])
    found = randomized(demo_model, seed=3)
    own = dict(demo_model.named_parameters())
    assert set(own) == set(dict(found.named_parameters()))
    for name, weights in found.named_parameters():
        flat, other = (w.detach().numpy().ravel() for w in (weights, own[name]))
        assert np.array_equal(np.sort(flat), np.sort(other))
        if len(np.unique(other)) > 10:
            assert not np.array_equal(flat, other), name
    assert demo_model.fingerprint() == before != found.fingerprint()
    clean, random = last_states(demo_model, cells), last_states(found, cells)
    assert torch.isfinite(random).all()
    assert abs(np.corrcoef(clean.ravel(), random.ravel())[0, 1]) < 0.5


def test_every_tensor_has_a_permutation_of_its_own(demo_model):
    """Two tensors of one shape and the same content do not stay the same."""
    model = deepcopy(demo_model)
    model.get_parameter("blocks.1.out.weight").copy_(model.get_parameter("blocks.0.out.weight"))
    found = randomized(model, seed=0)
    first, second = (found.get_parameter(f"blocks.{layer}.out.weight") for layer in (0, 1))
    assert not torch.equal(first, second)


def test_the_seed_decides():
    model = ToyModel()
    first, again, other = (randomized(model, seed).fingerprint() for seed in (0, 0, 1))
    assert first == again != other


def test_the_copy_is_a_model_of_its_family(demo_model, demo_tokens):
    """It passes the check of adapters, and is traced in both contexts."""
    found = randomized(demo_model, seed=0)
    cc.check_model(found, demo_tokens)
    assert found.has_frozen_context and found.device == demo_model.device
    assert not any(weights.requires_grad for weights in found.parameters())


def test_weights_that_are_shared_stay_shared():
    class Tied(ToyModel):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.drive

    found = randomized(Tied(), seed=0)
    assert found.again is found.drive


def test_a_model_without_weights_to_permute():
    model = ToyModel()
    for weights in model.parameters():
        weights.fill_(1.0)
    with pytest.raises(ModelError, match=r"parameters of the model 'toy' changes nothing.*train\.random_weights"):
        randomized(model, seed=0)
