"""Geneformer: tiny checkpoints in the published formats compute what transformers' `BertForMaskedLM` computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM

import cellcircuits as cc
from cellcircuits.checkpoints import read_json
from cellcircuits.errors import DataError, ModelError
from cellcircuits.models.geneformer import CONFIG_DEFAULTS, Geneformer, load_geneformer
from cellcircuits.tokens import Tokens

V1, V2 = ("<pad>", "<mask>"), ("<pad>", "<mask>", "<cls>", "<eos>")
N_GENES = 56
CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.02,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.02,
    "hidden_size": 16,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 24,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": N_GENES + 4,
}
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    """transformers' own model with weights large enough for every part to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(**CONFIG)).eval().requires_grad_(False)
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return model


def stored_weights(
    bert: BertForMaskedLM, *, position_ids: bool = False, decoder: bool = False
) -> dict[str, torch.Tensor]:
    """The weights as the published files hold them: V1 with position ids, some files with the tied decoder."""
    weights = {key: value.clone() for key, value in bert.state_dict().items() if decoder or key not in TIED}
    if position_ids:
        weights["bert.embeddings.position_ids"] = torch.arange(CONFIG["max_position_embeddings"])[None]
    return weights


def write_checkpoint(
    folder: Path, weights: dict[str, torch.Tensor], form: str = ".safetensors", **changes: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    if form == ".safetensors":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return folder


def ragged_tokens(lengths: tuple[int, ...] = (24, 7, 1, 15)) -> Tokens:
    rng = np.random.default_rng(0)
    return Tokens.from_ids([rng.permutation(np.arange(4, N_GENES + 4))[:n] for n in lengths])


@torch.no_grad()
def hidden_states(model: Geneformer, tokens: Tokens) -> list[torch.Tensor]:
    return [h for _, h in model.run_layers(model.embed(tokens), tokens, 0, model.n_layers)]


@pytest.mark.parametrize("form", [".safetensors", ".bin"])
@pytest.mark.parametrize("position_ids", [True, False], ids=["V1 file", "V2 file"])
@pytest.mark.parametrize("decoder", [True, False], ids=["tied decoder stored", "no decoder"])
def test_every_published_file_computes_what_transformers_computes(
    tmp_path: Path, bert: BertForMaskedLM, form: str, position_ids: bool, decoder: bool
) -> None:
    weights = stored_weights(bert, position_ids=position_ids, decoder=decoder)
    model = load_geneformer(write_checkpoint(tmp_path, weights, form))
    tokens = ragged_tokens()
    ids = torch.from_numpy(tokens.ids).long()
    expected = bert(ids, attention_mask=(ids != 0).long(), output_hidden_states=True)
    real = ids != 0
    torch.testing.assert_close(model.embed(tokens)[real], expected.hidden_states[0][real], atol=1e-5, rtol=0)
    states = hidden_states(model, tokens)
    # block l of ours is entry l + 1 of transformers', whose entry 0 is the embedding
    for ours, theirs in zip(states, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.logits(states[-1])[real], expected.logits[real], atol=1e-5, rtol=0)


def test_a_folder_written_by_transformers_itself_is_read(tmp_path: Path, bert: BertForMaskedLM) -> None:
    bert.save_pretrained(tmp_path)
    model = load_geneformer(tmp_path)
    assert (
        model.fingerprint() == load_geneformer(write_checkpoint(tmp_path / "other", stored_weights(bert))).fingerprint()
    )


def test_safetensors_are_preferred_to_a_pickled_file(tmp_path: Path, bert: BertForMaskedLM) -> None:
    write_checkpoint(tmp_path, stored_weights(bert))
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert load_geneformer(tmp_path).n_layers == 3


def test_weights_come_back_under_the_published_names(tmp_path: Path, bert: BertForMaskedLM) -> None:
    weights = stored_weights(bert)
    again = load_geneformer(write_checkpoint(tmp_path, weights)).to_checkpoint()
    assert sorted(again) == sorted(weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def test_half_precision_weights_are_read_as_single(tmp_path: Path, bert: BertForMaskedLM) -> None:
    weights = {key: value.half() for key, value in stored_weights(bert).items()}
    model = load_geneformer(write_checkpoint(tmp_path, weights))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("cls.predictions.bias", None, "1 missing"),
        ("bert.encoder.layer.2.attention.self.key.weight", None, "1 missing"),
        ("bert.encoder.layer.3.output.dense.bias", torch.zeros(16), "1 unknown"),
        ("classifier.weight", torch.zeros(2, 16), "1 unknown"),
        ("bert.embeddings.word_embeddings.weight", torch.zeros(50, 16), "1 misshapen"),
        ("bert.encoder.layer.0.output.LayerNorm.bias", torch.full((16,), torch.nan), "1 not finite"),
        ("bert.encoder.layer.1.attention.self.query.bias", torch.full((16,), -torch.inf), "1 not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, bert: BertForMaskedLM, key: str, value, problem: str
) -> None:
    weights = {k: v for k, v in (stored_weights(bert) | {key: value}).items() if v is not None}
    with pytest.raises(ModelError, match=rf"model\.safetensors does not fit .*{problem}: {key}.*Nothing was loaded"):
        load_geneformer(write_checkpoint(tmp_path, weights))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "Geneformer uses relu; .* asks for 'gelu'"),
        ({"num_hidden_layers": 2}, "16 unknown: bert.encoder.layer.2"),
        ({"vocab_size": 70}, r"word_embeddings.weight \(60, 16\) instead of \(70, 16\)"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    tmp_path: Path, bert: BertForMaskedLM, changes: dict, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_geneformer(write_checkpoint(tmp_path, stored_weights(bert), **changes))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot read .*config\.json"):
        load_geneformer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        load_geneformer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "hidden_size": 16}')
    with pytest.raises(ModelError, match=r"lacks num_hidden_layers, num_attention_heads, .*is it a Geneformer"):
        load_geneformer(tmp_path)


def cells_of(genes: list[str]) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(1.0, size=(5, len(genes))).astype(np.float32)
    return ad.AnnData(counts, var=pd.DataFrame(index=genes))


@pytest.mark.parametrize(("special", "version"), [(V2, "_gc104M"), (V1, "_gc30M")])
def test_dictionaries_beside_the_checkpoint_are_used(
    tmp_path: Path, bert: BertForMaskedLM, write_dictionaries: Callable, special: tuple, version: str
) -> None:
    genes = write_dictionaries(tmp_path, N_GENES + 4 - len(special), special, version)
    tokens = load_geneformer(write_checkpoint(tmp_path, stored_weights(bert))).tokenize(cells_of(genes))
    assert tokens.ids.shape == (5, CONFIG["max_position_embeddings"])
    assert (tokens.ids[:, 0] == 2).all() == (special == V2)


def test_dictionaries_can_be_in_a_folder_of_their_own(
    tmp_path: Path, bert: BertForMaskedLM, write_dictionaries: Callable
) -> None:
    genes = write_dictionaries(tmp_path / "dictionaries", N_GENES)
    folder = write_checkpoint(tmp_path / "a" / "b", stored_weights(bert))
    assert load_geneformer(folder, tmp_path / "dictionaries").tokenize(cells_of(genes)).gene_mask.any()


def test_dictionaries_of_another_vocabulary_are_refused(
    tmp_path: Path, bert: BertForMaskedLM, write_dictionaries: Callable
) -> None:
    write_dictionaries(tmp_path / "dictionaries", N_GENES + 1)
    folder = write_checkpoint(tmp_path / "a" / "b", stored_weights(bert))
    with pytest.raises(ModelError, match=r"The checkpoint has 60 tokens, the dictionaries .* have .*: 61"):
        load_geneformer(folder, tmp_path / "dictionaries")


def test_a_checkpoint_without_dictionaries_runs_but_does_not_tokenise(tmp_path: Path, bert: BertForMaskedLM) -> None:
    model = load_geneformer(write_checkpoint(tmp_path / "a" / "b", stored_weights(bert)))
    assert len(hidden_states(model, ragged_tokens())) == 3
    with pytest.raises(ModelError, match="Geneformer needs its gene dictionaries to tokenise"):
        model.tokenize(cells_of(["A"]))


def test_cells_longer_than_the_model_reads_are_refused(tmp_path: Path, bert: BertForMaskedLM) -> None:
    model = load_geneformer(write_checkpoint(tmp_path, stored_weights(bert)))
    with pytest.raises(DataError, match="Cells have 25 tokens; this Geneformer reads at most 24"):
        model.embed(ragged_tokens((25, 3)))


def test_a_tiny_checkpoint_passes_the_adapter_check(tmp_path: Path, bert: BertForMaskedLM) -> None:
    report = cc.check_model(load_geneformer(write_checkpoint(tmp_path, stored_weights(bert))), ragged_tokens())
    assert set(report) == {"replay", "reference", "batch"}
    assert max(report.values()) < 1e-5


def test_the_position_of_a_gene_matters(tmp_path: Path, bert: BertForMaskedLM) -> None:
    model = load_geneformer(write_checkpoint(tmp_path, stored_weights(bert)))
    tokens = ragged_tokens((6,))
    turned = replace(tokens, ids=tokens.ids[:, ::-1].copy())
    gap = hidden_states(model, tokens)[-1] - hidden_states(model, turned)[-1].flip(1)
    assert float(gap.abs().max()) > 0.1


@pytest.mark.parametrize(
    ("name", "n_layers", "d_model", "n_heads", "longest", "n_parameters"),
    [
        ("V1-10M", 6, 256, 4, 2048, 10_290_770 - 2048),
        ("V1-12L-30M", 12, 512, 8, 2048, None),
        ("V2-104M", 12, 768, 12, 4096, 104_386_867),
        ("V2-104M_CLcancer", 12, 768, 12, 4096, 104_386_867),
        ("V2-316M", 18, 1152, 18, 4096, 316_354_867),
    ],
)
def test_the_published_configurations_give_the_published_sizes(
    real_data: Path, name: str, n_layers: int, d_model: int, n_heads: int, longest: int, n_parameters: int | None
) -> None:
    config = CONFIG_DEFAULTS | read_json(real_data / "geneformer" / f"Geneformer-{name}.config.json")
    with torch.device("meta"):
        model = Geneformer(config)
        weights = model.to_checkpoint()
    assert (model.n_layers, model.d_model, model.max_length) == (n_layers, d_model, longest)
    assert model.blocks[0].n_heads == n_heads
    assert len(weights) == 5 + 16 * n_layers + 5
    # the count that reproduces the size of the published file; V1 also stores its position ids
    assert n_parameters in (None, sum(value.numel() for value in weights.values()))
