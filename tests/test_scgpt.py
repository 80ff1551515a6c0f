"""scGPT: tiny checkpoints under all published names compute what torch's own transformer layers compute."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import cellcircuits as cc
from cellcircuits.errors import DataError, ModelError
from cellcircuits.models.scgpt import ARGUMENT_DEFAULTS, ScGPT, load_scgpt
from cellcircuits.tokens import Tokens
from cellcircuits.value_tokens import Vocabulary

WIDTH, HEADS, FEEDFORWARD, LAYERS, GENES = 16, 4, 24, 3, 30
VOCABULARY = {f"GENE{i}": i for i in range(GENES)} | {"<pad>": GENES, "<cls>": GENES + 1, "<eoc>": GENES + 2}
ARGUMENTS = {
    "nlayers": LAYERS,
    "nheads": HEADS,
    "embsize": WIDTH,
    "d_hid": FEEDFORWARD,
    "dropout": 0.2,
    "n_layers_cls": 3,
    "n_bins": 51,
    "max_seq_len": 20,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "input_style": "binned",
    "input_emb_style": "continuous",
}


class GeneEncoder(nn.Module):
    """Embedding and LayerNorm, under scGPT's names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), WIDTH, padding_idx=VOCABULARY["<pad>"])
        self.enc_norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.enc_norm(self.embedding(ids))


class ValueEncoder(nn.Module):
    """Two layers and LayerNorm, under scGPT's names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear2(torch.relu(self.linear1(values.unsqueeze(-1).clamp(max=512)))))


class OriginalScGPT(nn.Module):
    """scGPT's modules under scGPT's names, written from its description; without flash attention."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.value_encoder = GeneEncoder(), ValueEncoder()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FEEDFORWARD, dropout=0.2, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        slope = nn.LeakyReLU
        self.decoder = nn.ModuleDict(
            {
                "fc": nn.Sequential(
                    nn.Linear(WIDTH, WIDTH), slope(), nn.Linear(WIDTH, WIDTH), slope(), nn.Linear(WIDTH, 1)
                )
            }
        )
        self.mvc_decoder = nn.ModuleDict(
            {"gene2query": nn.Linear(WIDTH, WIDTH), "W": nn.Linear(WIDTH, WIDTH, bias=False)}
        )

    def forward(self, ids: torch.Tensor, values: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """(embedding and block outputs, predicted values, values predicted from the cell)."""
        genes = self.encoder(ids)
        states = [genes + self.value_encoder(values)]
        for layer in self.transformer_encoder.layers:
            states.append(layer(states[-1], src_key_padding_mask=ids == VOCABULARY["<pad>"]))
        query = torch.sigmoid(self.mvc_decoder["gene2query"](genes))
        from_cell = torch.einsum("cgd,cd->cg", self.mvc_decoder["W"](query), states[-1][:, 0])
        return states, self.decoder["fc"](states[-1]).squeeze(-1), from_cell


@pytest.fixture(scope="module")
def original() -> OriginalScGPT:
    """The original with weights large enough for every part to matter; with gradients, so it takes no fused path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OriginalScGPT().eval()
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.2 * torch.randn_like(value))
    return model


def stored_weights(original: OriginalScGPT) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in original.state_dict().items()}


def renamed(change: Callable[[str], str]) -> Callable[[dict], dict]:
    return lambda weights: {change(key): value for key, value in weights.items()}


def without(*starts: str) -> Callable[[dict], dict]:
    return lambda weights: {key: value for key, value in weights.items() if not key.startswith(starts)}


def flash(key: str) -> str:
    return key.replace("in_proj_", "Wqkv.")


def wrapped_flash(key: str) -> str:
    return flash(key).replace("self_attn.", "self_attn._impl.")


FORMS: dict[str, Callable[[dict], dict]] = {
    "plain torch names": lambda weights: weights,
    "released file": renamed(flash),
    "flash attention 2": renamed(wrapped_flash),
    "DataParallel": renamed(lambda key: "module." + wrapped_flash(key)),
    "model_state_dict": lambda weights: {"model_state_dict": renamed(flash)(weights), "epoch": 6},
    "state_dict": lambda weights: {"state_dict": weights},
    "model": lambda weights: {"model": renamed(lambda key: "module." + key)(weights)},
    "with the pretraining flag": lambda weights: weights | {"flag_encoder.weight": torch.zeros(2, WIDTH)},
    "with a classifier": lambda weights: weights | {"cls_decoder.out_layer.weight": torch.zeros(9, WIDTH)},
}


def write_checkpoint(folder: Path, content: dict, vocabulary: dict | None = None, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(ARGUMENTS | changes))
    (folder / "vocab.json").write_text(json.dumps(vocabulary or VOCABULARY))
    torch.save(content, folder / "best_model.pt")
    return folder


def ragged_tokens(lengths: tuple[int, ...] = (20, 7, 2, 15)) -> Tokens:
    rng = np.random.default_rng(0)
    pad, cls = VOCABULARY["<pad>"], VOCABULARY["<cls>"]
    ids = np.full((len(lengths), max(lengths)), pad, dtype=np.int32)
    values = np.full(ids.shape, -2, dtype=np.float32)
    for row, n in enumerate(lengths):
        ids[row, :n] = [cls, *rng.permutation(GENES)[: n - 1]]
        values[row, 1:n] = rng.integers(1, 51, n - 1)
    values[0, 3] = 900.0
    return Tokens(ids=ids, gene_mask=ids < GENES, values=values, pad_id=pad)


@torch.no_grad()
def hidden_states(model: ScGPT, tokens: Tokens) -> list[torch.Tensor]:
    return [h for _, h in model.run_layers(model.embed(tokens), tokens, 0, model.n_layers)]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_published_file_computes_what_torch_computes(tmp_path: Path, original: OriginalScGPT, form) -> None:
    model = load_scgpt(write_checkpoint(tmp_path, form(stored_weights(original))))
    tokens = ragged_tokens()
    ids = torch.from_numpy(tokens.ids).long()
    expected, values, from_cell = original(ids, torch.from_numpy(tokens.values))
    real = ids != VOCABULARY["<pad>"]
    ours = [model.embed(tokens), *hidden_states(model, tokens)]
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine[real], theirs[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.predicted_values(ours[-1])[real], values[real], atol=1e-5, rtol=1e-5)
    mine = model.predicted_values_from_cell(tokens, ours[-1])
    torch.testing.assert_close(mine[real], from_cell[real], atol=1e-5, rtol=1e-5)


def test_unused_weights_are_listed(tmp_path: Path, original: OriginalScGPT) -> None:
    content = FORMS["with the pretraining flag"](stored_weights(original))
    assert load_scgpt(write_checkpoint(tmp_path, content)).unused_weights == ["flag_encoder.weight"]


def test_weights_come_back_under_the_released_names(tmp_path: Path, original: OriginalScGPT) -> None:
    weights = renamed(flash)(stored_weights(original))
    again = load_scgpt(write_checkpoint(tmp_path, weights)).to_checkpoint()
    assert sorted(again) == sorted(weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def test_a_file_without_mvc_decoder_predicts_nothing_from_the_cell(tmp_path: Path, original: OriginalScGPT) -> None:
    weights = without("mvc_decoder.")(stored_weights(original))
    model = load_scgpt(write_checkpoint(tmp_path, weights))
    states = hidden_states(model, ragged_tokens())
    with pytest.raises(ModelError, match="has no mvc_decoder"):
        model.predicted_values_from_cell(ragged_tokens(), states[-1])
    assert not any("mvc" in key for key in model.to_checkpoint())


@pytest.mark.parametrize("starts", [(), ("mvc_decoder.",)])
def test_a_checkpoint_has_the_same_fingerprint_at_every_load(
    tmp_path: Path, original: OriginalScGPT, starts: tuple
) -> None:
    folder = write_checkpoint(tmp_path, without("nothing", *starts)(stored_weights(original)))
    assert load_scgpt(folder).fingerprint() == load_scgpt(folder).fingerprint()


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("decoder.fc.4.bias", None, "1 missing"),
        ("mvc_decoder.W.weight", None, "1 missing"),
        ("transformer_encoder.layers.1.self_attn.in_proj_weight", None, "1 missing"),
        ("transformer_encoder.layers.3.linear1.bias", torch.zeros(24), "1 unknown"),
        ("transformer_encoder.norm.weight", torch.zeros(16), "1 unknown"),
        ("bn.weight", torch.zeros(16), "1 unknown"),
        ("pert_encoder.weight", torch.zeros(3, 16), "1 unknown"),
        ("encoder.embedding.weight", torch.zeros(31, 16), "1 misshapen"),
        ("value_encoder.linear1.weight", torch.full((16, 1), torch.nan), "1 not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, original, key: str, value, problem: str) -> None:
    weights = {k: v for k, v in (stored_weights(original) | {key: value}).items() if v is not None}
    with pytest.raises(ModelError, match=rf"best_model\.pt does not fit .*{problem}: {key}.*Nothing was loaded"):
        load_scgpt(write_checkpoint(tmp_path, weights))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nlayers": 2}, "unknown: transformer_encoder.layers.2"),
        ({"embsize": 20}, r"encoder.embedding.weight \(33, 16\) instead of \(33, 20\)"),
        ({"input_emb_style": "category"}, "continuous value embeddings is supported; .* 'category'"),
        ({"input_style": "log1p"}, "binned input values is supported; .* 'log1p'"),
        ({"pad_token": "[PAD]"}, r"has no padding token '\[PAD\]'"),
        ({"vocabulary": VOCABULARY | {"GENE30": GENES + 3}}, r"\(33, 16\) instead of \(34, 16\)"),
        ({"vocabulary": {"<pad>": 0, "GENE1": 5}}, "whole numbers 0 to 1"),
    ],
)
def test_arguments_of_another_model_are_refused(tmp_path: Path, original, changes: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_scgpt(write_checkpoint(tmp_path, stored_weights(original), **changes))


def test_missing_files_and_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Cannot read .*args\.json"):
        load_scgpt(tmp_path)
    (tmp_path / "args.json").write_text(json.dumps({"nlayers": 2, "embsize": 16}))
    with pytest.raises(ModelError, match="lacks nheads, d_hid; is it an scGPT checkpoint"):
        load_scgpt(tmp_path)
    (tmp_path / "args.json").write_text(json.dumps(ARGUMENTS))
    with pytest.raises(ModelError, match=r"Cannot read .*vocab\.json"):
        load_scgpt(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(VOCABULARY))
    with pytest.raises(ModelError, match=r"There is no file .*best_model\.pt"):
        load_scgpt(tmp_path)


def test_tokens_without_values_are_refused(tmp_path: Path, original: OriginalScGPT) -> None:
    model = load_scgpt(write_checkpoint(tmp_path, stored_weights(original)))
    with pytest.raises(DataError, match="these Tokens have no values"):
        model.embed(Tokens.from_ids([[31, 1, 2]], pad_id=30, special_ids=[30, 31, 32]))


def test_cells_are_tokenised_with_the_model_s_own_arguments(tmp_path: Path, original: OriginalScGPT) -> None:
    model = load_scgpt(write_checkpoint(tmp_path, stored_weights(original), max_seq_len=9, pad_value=-7))
    counts = np.random.default_rng(0).poisson(2.0, size=(5, GENES)).astype(np.float32)
    tokens = model.tokenize(ad.AnnData(counts, var=pd.DataFrame(index=[f"GENE{i}" for i in range(GENES)])))
    assert tokens.ids.shape == (5, 9)
    assert (tokens.values[:, 0] == -7).all()


def test_the_order_of_genes_does_not_matter(tmp_path: Path, original: OriginalScGPT) -> None:
    model = load_scgpt(write_checkpoint(tmp_path, stored_weights(original)))
    tokens = ragged_tokens((12,))
    order = np.random.default_rng(1).permutation(12)
    mixed = Tokens(
        ids=tokens.ids[:, order],
        gene_mask=tokens.gene_mask[:, order],
        values=tokens.values[:, order],
        pad_id=tokens.pad_id,
    )
    for plain, permuted in zip(hidden_states(model, tokens), hidden_states(model, mixed), strict=True):
        torch.testing.assert_close(plain[:, order], permuted, atol=1e-5, rtol=0)


def test_a_tiny_checkpoint_passes_the_adapter_check(tmp_path: Path, original: OriginalScGPT) -> None:
    report = cc.check_model(load_scgpt(write_checkpoint(tmp_path, stored_weights(original))), ragged_tokens())
    assert set(report) == {"replay", "reference", "batch"}
    assert max(report.values()) < 1e-5


def test_the_published_arguments_and_vocabulary_give_the_published_size(real_data: Path, tmp_path: Path) -> None:
    arguments = ARGUMENT_DEFAULTS | json.loads((real_data / "scgpt" / "whole_human_args.json").read_text())
    (tmp_path / "vocab.json").write_bytes(
        gzip.decompress((real_data / "scgpt" / "whole_human_vocab.json.gz").read_bytes())
    )
    with torch.device("meta"):
        model = ScGPT(arguments, Vocabulary.read(tmp_path / "vocab.json", arguments["pad_token"]))
    weights = model.to_checkpoint()
    assert (model.n_layers, model.d_model, model.blocks[0].n_heads) == (12, 512, 8)
    # the released file has one tensor more: the generative flag, 2 x 512
    assert len(weights) == 163 - 1
    assert sum(value.numel() for value in weights.values()) == 51_330_049 - 1024
