"""`check_model`: good adapters pass, and each kind of broken adapter fails with the claim that it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

import cellcircuits as cc
from cellcircuits.errors import ModelError
from cellcircuits.models.base import key_padding_mask
from cellcircuits.models.toy import ToyModel
from cellcircuits.tokens import Tokens


def test_the_demo_models_pass(demo_model: cc.Model, demo_tokens: cc.Tokens) -> None:
    report = cc.check_model(demo_model, demo_tokens)
    assert set(report) == {"replay", "reference", "batch"}
    assert max(report.values()) < 1e-4
    assert demo_tokens.has_padding


def test_the_demo_models_equal_the_original_implementation(demo_model: cc.Model, demo_tokens: cc.Tokens) -> None:
    tokens = demo_tokens.take([0, 350, 699])
    with torch.no_grad():
        states = [h for _, h in demo_model.run_layers(demo_model.embed(tokens), tokens, 0, demo_model.n_layers)]
        reference = demo_model.reference_hidden_states(tokens)
    real = torch.from_numpy(tokens.ids != tokens.pad_id)
    assert len(reference) == demo_model.n_layers
    for ours, theirs in zip(states, reference, strict=True):
        torch.testing.assert_close(ours[real], theirs[real], atol=2e-5, rtol=0)


def test_the_toy_model_passes(toy_cells: ad.AnnData) -> None:
    model = cc.load_model("toy")
    assert cc.check_model(model, model.tokenize(toy_cells)) == {"replay": 0.0, "batch": 0.0}


def test_one_cell_is_enough(toy_cells: ad.AnnData) -> None:
    model = cc.load_model("toy")
    assert cc.check_model(model, model.tokenize(toy_cells[:1].copy()))["batch"] == 0.0


class Broken(ToyModel):
    """The toy model with attention-like mixing of positions, so that padding can matter; subclasses break it."""

    name = "broken"

    def block(self, layer: int, hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        mask = key_padding_mask(tokens, hidden.device)
        keep = torch.ones(hidden.shape[:2]) if mask is None else mask[:, 0, 0].float()
        mean = (hidden * keep[..., None]).sum(1, keepdim=True) / keep.sum(1)[:, None, None]
        return hidden + hidden @ self.weights[layer] + 0.1 * mean

    def run_layers(
        self, hidden: torch.Tensor, tokens: Tokens, start: int, stop: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        for layer in range(start, stop):
            hidden = self.block(layer, hidden, tokens)
            yield layer, hidden


class WrongWidth(Broken):
    def embed(self, tokens):
        return super().embed(tokens)[..., :-1]


class EmbedsAllTokensAlike(Broken):
    def embed(self, tokens):
        return torch.ones_like(super().embed(tokens))


class IgnoresItsInput(Broken):
    def run_layers(self, hidden, tokens, start, stop):
        states = list(super().run_layers(self.embed(tokens), tokens, 0, self.n_layers))
        yield from states[start:stop]


class DropsTheLastLayer(Broken):
    def run_layers(self, hidden, tokens, start, stop):
        yield from super().run_layers(hidden, tokens, start, min(stop, self.n_layers - 1))


class NeverStops(Broken):
    def run_layers(self, hidden, tokens, start, stop):
        yield from super().run_layers(hidden, tokens, start, self.n_layers)


class CountsLayersFromOne(Broken):
    def run_layers(self, hidden, tokens, start, stop):
        for layer, state in super().run_layers(hidden, tokens, start, stop):
            yield layer + 1, state


class YieldsWhatEntersABlock(Broken):
    def run_layers(self, hidden, tokens, start, stop):
        for layer in range(start, stop):
            yield layer, hidden
            hidden = self.block(layer, hidden, tokens)


class StartsOneBlockLate(Broken):
    def run_layers(self, hidden, tokens, start, stop):
        for layer in range(start, stop):
            if layer > start or start == 0:
                hidden = self.block(layer, hidden, tokens)
            yield layer, hidden


class IsSlightlyRandom(Broken):
    def block(self, layer, hidden, tokens):
        return super().block(layer, hidden, tokens) + 1e-6 * torch.randn_like(hidden)


class ChangesItsInputInPlace(Broken):
    def block(self, layer, hidden, tokens):
        return hidden.add_(hidden @ self.weights[layer] + 0.1)


class MixesCells(Broken):
    def block(self, layer, hidden, tokens):
        return super().block(layer, hidden, tokens) + 0.01 * hidden.mean(0, keepdim=True)


class AttendsToPadding(Broken):
    def block(self, layer, hidden, tokens):
        return super().block(layer, hidden, tokens) + 0.1 * torch.cos(hidden).mean(1, keepdim=True)


class IsNotANumber(Broken):
    def block(self, layer, hidden, tokens):
        return super().block(layer, hidden, tokens) / (0.0 if layer == 2 else 1.0)


class IsNotANumberAlone(Broken):
    def block(self, layer, hidden, tokens):
        return super().block(layer, hidden, tokens) / (0.0 if len(hidden) == 1 else 1.0)


class LosesTheCells(Broken):
    def block(self, layer, hidden, tokens):
        return super().block(layer, hidden, tokens).sum(0)


class HasAnotherReference(Broken):
    def reference_hidden_states(self, tokens):
        states = [h for _, h in self.run_layers(self.embed(tokens), tokens, 0, self.n_layers)]
        return [self.embed(tokens), *states[:-1]]


class HasABrokenReference(Broken):
    def reference_hidden_states(self, tokens):
        states = [h for _, h in self.run_layers(self.embed(tokens), tokens, 0, self.n_layers)]
        return [*states[:-1], states[-1] * torch.nan]


CLAIMS = {
    WrongWidth: r"embed returns shape .* Found",
    EmbedsAllTokensAlike: "embed depends on the tokens",
    IgnoresItsInput: "the output depends on the input",
    DropsTheLastLayer: r"run_layers\(0, 3\) yields layers 0 to 2 in order. It yielded \[0, 1\]",
    NeverStops: r"run_layers\(0, 1\) yields layers 0 to 0 in order. It yielded \[0, 1, 2\]",
    CountsLayersFromOne: r"yields layers 0 to 2 in order. It yielded \[1, 2, 3\]",
    YieldsWhatEntersABlock: "starting from a stored state equals the tail of a full pass",
    StartsOneBlockLate: "starting from a stored state equals the tail of a full pass",
    IsSlightlyRandom: "a zero change reproduces the clean pass to the bit",
    ChangesItsInputInPlace: "a zero change reproduces the clean pass to the bit",
    MixesCells: "padding and batch mates do not change a cell",
    AttendsToPadding: "padding and batch mates do not change a cell",
    IsNotANumber: "hidden states are finite",
    IsNotANumberAlone: "hidden states are finite",
    LosesTheCells: "hidden states keep their shape. Layer 0 has",
    HasAnotherReference: "blocks run one by one equal the model's own hidden states",
    HasABrokenReference: "blocks run one by one equal the model's own hidden states",
}


def test_the_model_that_is_broken_below_is_whole(toy_cells: ad.AnnData) -> None:
    model = Broken()
    assert max(cc.check_model(model, model.tokenize(toy_cells)).values()) < 1e-5


@pytest.mark.parametrize("kind", CLAIMS, ids=lambda kind: kind.__name__)
def test_a_broken_adapter_fails_with_its_claim(toy_cells: ad.AnnData, kind: type[Broken]) -> None:
    model = kind()
    with pytest.raises(ModelError, match=f"The adapter 'broken' fails its check: .*{CLAIMS[kind]}"):
        cc.check_model(model, model.tokenize(toy_cells))


def test_a_model_of_one_layer_is_refused(toy_cells: ad.AnnData) -> None:
    model = ToyModel(edges=(), n_layers=1)
    with pytest.raises(ModelError, match=r"it has at least two layers\. Found 1"):
        cc.check_model(model, model.tokenize(toy_cells))


@pytest.mark.parametrize(
    ("token", "name", "claim"),
    [
        (7, "", "every gene token has a gene id"),
        (2, "GENE99", "special tokens have no gene id"),
        (7, "GENE5", "gene ids and token ids are one to one"),
    ],
)
def test_gene_names_that_do_not_fit_the_tokens_are_refused(token: int, name: str, claim: str) -> None:
    names = np.array([""] * 4 + [f"GENE{i}" for i in range(40)])
    names[token] = name
    tokens = replace(Tokens.from_ids([[2, 4, 7, 3], [2, 9, 3]]), gene_ids=names)
    with pytest.raises(ModelError, match=claim):
        cc.check_model(ToyModel(), tokens)


def test_the_fingerprint_of_a_model_follows_its_weights() -> None:
    model, same = ToyModel(), ToyModel()
    assert model.fingerprint() == same.fingerprint()
    with torch.no_grad():
        same.weights[2, 3, 4] += 1e-6
    assert model.fingerprint() != same.fingerprint()


def test_models_are_loaded_ready_to_trace(family: str) -> None:
    model = cc.load_model(family, "demo", device="cpu")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.device.type == "cpu"
    assert model.fingerprint() == cc.load_model(family, "demo").fingerprint()


def test_an_unknown_family_is_refused_with_those_installed() -> None:
    with pytest.raises(ModelError, match=r"no model family 'nope'; installed are: .*geneformer, scgpt, toy"):
        cc.load_model("nope")


@pytest.mark.parametrize("name", ["geneformer", "scgpt"])
def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"Cannot read .*Is this the checkpoint's folder"):
        cc.load_model(name, tmp_path / "absent")


def test_both_input_modes_work_on_real_cells_and_say_which_they_are(demo_model: cc.Model, pbmc: ad.AnnData) -> None:
    official, published = (demo_model.tokenize(pbmc[:50].copy(), input_mode=m) for m in ("official", "published"))
    assert (official.info["input_mode"], published.info["input_mode"]) == ("official", "published")
    assert official.fingerprint() != published.fingerprint()
    cc.check_model(demo_model, published)
