"""Train the two small demo checkpoints on the demo cells and write them in the formats of the originals.

    python scripts/train_demo_models.py geneformer --epochs 150
    python scripts/train_demo_models.py scgpt --epochs 150

One cell in seven is held out (by a fixed seed); the losses in the model cards are on these cells alone. The gene
medians are taken over the training cells.
"""

import argparse
import json
import math
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cellcircuits.demo_data import DATA, demo_cells
from cellcircuits.models.geneformer import CONFIG_DEFAULTS, Geneformer
from cellcircuits.models.scgpt import ARGUMENT_DEFAULTS, ScGPT
from cellcircuits.rank_tokens import GeneDictionaries
from cellcircuits.value_tokens import Vocabulary

GENEFORMER_CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.02,
    "classifier_dropout": None,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.02,
    "hidden_size": 96,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
}
SCGPT_ARGUMENTS = {
    "nlayers": 4,
    "nheads": 4,
    "embsize": 96,
    "d_hid": 96,
    "dropout": 0.0,
    "n_layers_cls": 3,
    "n_bins": 51,
    "max_seq_len": 512,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "input_style": "binned",
    "input_emb_style": "continuous",
    "mask_ratio": [0.25, 0.5, 0.75],
    "training_tasks": "pcpt",
    "MVC": True,
    "no_cls": True,
    "no_cce": True,
    "fast_transformer": False,
}


def split(n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out cells."""
    order = np.random.default_rng(0).permutation(n_cells)
    n_held_out = n_cells // 7
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def initialise(model: torch.nn.Module, deviation: float = 0.06) -> None:
    """Initial weights: normal for matrices and embeddings (wider than BERT's 0.02), zero for biases."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            torch.nn.init.normal_(module.weight, std=deviation)
            if getattr(module, "bias", None) is not None:
                torch.nn.init.zeros_(module.bias)


def geneformer_dictionaries(adata, training: np.ndarray) -> dict[str, dict]:
    """The four dictionaries as the originals have them, for the genes of the demo."""
    known = adata.var["ensembl_id"] != ""
    per_10k = adata.X.toarray() * 10_000.0 / adata.obs["n_counts"].to_numpy()[:, None]
    per_10k = np.where(per_10k == 0, np.nan, per_10k)
    detected = np.isfinite(per_10k[training]).any(axis=0)
    medians = np.full(adata.n_vars, 1.0)
    medians[detected] = np.nanmedian(per_10k[training][:, detected], axis=0)
    genes = sorted(adata.var["ensembl_id"][known])
    tokens = {name: i for i, name in enumerate(["<pad>", "<mask>", "<cls>", "<eos>", *genes])}
    rows = list(zip(adata.var_names[known], adata.var["ensembl_id"][known], medians[known], strict=True))
    mapping = {gene: gene for gene in genes} | {symbol.upper(): gene for symbol, gene, _ in rows}
    return {
        "token_dictionary": tokens,
        "gene_median_dictionary": {gene: np.float64(median) for _, gene, median in rows},
        "gene_name_id_dict": {symbol: gene for symbol, gene, _ in rows},
        "ensembl_mapping_dict": mapping,
    }


def masked_genes(ids: torch.Tensor, genes: torch.Tensor, vocabulary: int, generator: torch.Generator):
    """BERT's corruption: 15 % of the genes are predicted; of these 80 % are masked and 10 % are replaced."""
    chosen = (torch.rand(ids.shape, generator=generator) < 0.15) & genes
    kind = torch.rand(ids.shape, generator=generator)
    corrupted = torch.where(chosen & (kind < 0.8), 1, ids)
    other = torch.randint(4, vocabulary, ids.shape, generator=generator)
    return torch.where(chosen & (kind > 0.9), other, corrupted), chosen


def geneformer_loss(model, tokens, generator):
    ids, genes = torch.from_numpy(tokens.ids).long(), torch.from_numpy(tokens.gene_mask)
    corrupted, chosen = masked_genes(ids, genes, model.config["vocab_size"], generator)
    hidden = last_hidden(model, replace_ids(tokens, corrupted))
    return torch.nn.functional.cross_entropy(model.logits(hidden[chosen]), ids[chosen]), ids[chosen]


def scgpt_loss(model, tokens, generator):
    """Mean squared error of masked bins, from the position itself and from the <cls> output (MVC)."""
    genes, values = torch.from_numpy(tokens.gene_mask), torch.from_numpy(tokens.values)
    ratios = torch.tensor(model.arguments["mask_ratio"])
    ratio = ratios[torch.randint(len(ratios), (len(values), 1), generator=generator)]
    chosen = (torch.rand(values.shape, generator=generator) < ratio) & genes
    corrupted = torch.where(chosen, float(model.arguments["mask_value"]), values)
    hidden = last_hidden(model, replace_values(tokens, corrupted))
    own = (model.predicted_values(hidden)[chosen] - values[chosen]).square().mean()
    cell = (model.predicted_values_from_cell(tokens, hidden)[chosen] - values[chosen]).square().mean()
    return own, cell, torch.from_numpy(tokens.ids).long()[chosen], values[chosen]


def replace_ids(tokens, ids):
    return replace(tokens, ids=ids.numpy().astype(np.int32))


def replace_values(tokens, values):
    return replace(tokens, values=values.numpy())


def last_hidden(model, tokens):
    *_, (_, hidden) = model.run_layers(model.embed(tokens), tokens, 0, model.n_layers)
    return hidden


def subsample(tokens, share: float, generator: torch.Generator):
    """A random share of each cell's genes (special tokens stay): another view of the cell in every epoch."""
    keep = (torch.rand(tokens.ids.shape, generator=generator).numpy() < share) | ~tokens.gene_mask
    keep &= tokens.ids != tokens.pad_id
    rows = [np.flatnonzero(row) for row in keep]
    ids = np.full((len(rows), max(map(len, rows))), tokens.pad_id, dtype=np.int32)
    values = np.full(ids.shape, -2.0, dtype=np.float32)
    for i, row in enumerate(rows):
        ids[i, : len(row)], values[i, : len(row)] = tokens.ids[i, row], tokens.values[i, row]
    mask = (ids != tokens.pad_id) & (np.arange(ids.shape[1]) > 0)
    return replace(tokens, ids=ids, values=values, gene_mask=mask)


def fit(model, tokens, training, objective, evaluate, epochs: int, rate: float, decay: float, batch: int = 16) -> None:
    """AdamW with linear warm-up and cosine decay; prints the held-out loss now and then."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    steps = epochs * math.ceil(len(training) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min((s + 1) / 200, 0.5 * (1 + math.cos(math.pi * s / steps)) + 1e-3)
    )
    generator, order, started = torch.Generator().manual_seed(1), np.random.default_rng(1), time.time()
    for epoch in range(epochs):
        for rows in np.array_split(order.permutation(training), math.ceil(len(training) / batch)):
            loss = objective(model, tokens.take(rows), generator)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        if epoch % 5 == 4:
            report = "  ".join(f"{k} {v:.3f}" for k, v in evaluate(model).items())
            print(f"epoch {epoch + 1:4d}  train {loss.item():.3f}  {report}  {time.time() - started:.0f} s", flush=True)


@torch.no_grad()
def evaluate_geneformer(model, tokens, training, held_out) -> dict[str, float]:
    """Held-out masked-gene loss (nats) beside the loss of predicting each gene by its frequency in training."""
    generator = torch.Generator().manual_seed(2)
    counts = np.bincount(tokens.ids[training][tokens.gene_mask[training]], minlength=model.config["vocab_size"]) + 0.5
    unigram = torch.from_numpy(-np.log(counts / counts[4:].sum()))
    losses, baselines, weights = [], [], []
    for _ in range(3):
        for rows in np.array_split(held_out, 5):
            loss, target = geneformer_loss(model, tokens.take(rows), generator)
            losses.append(loss.item()), baselines.append(unigram[target].mean().item()), weights.append(len(target))
    return {"loss": np.average(losses, weights=weights), "unigram": np.average(baselines, weights=weights)}


@torch.no_grad()
def evaluate_scgpt(model, tokens, training, held_out) -> dict[str, float]:
    """Held-out masked-value loss (squared bins) beside two predictions without context.

    `gene_mean` predicts each gene's mean bin in training, `overall_mean` the mean bin of all genes.
    """
    generator = torch.Generator().manual_seed(2)
    mask = tokens.gene_mask[training]
    size = len(model.vocabulary.tokens)
    total = np.bincount(tokens.ids[training][mask], weights=tokens.values[training][mask], minlength=size)
    number = np.bincount(tokens.ids[training][mask], minlength=size)
    mean = torch.from_numpy((total + total.sum() / number.sum()) / (number + 1))
    own, cells, baselines, overall, weights = [], [], [], [], []
    for _ in range(3):
        for rows in np.array_split(held_out, 5):
            loss, cell, ids, values = scgpt_loss(model, tokens.take(rows), generator)
            own.append(loss.item()), cells.append(cell.item()), weights.append(len(ids))
            baselines.append((mean[ids] - values).square().mean().item())
            overall.append((total.sum() / number.sum() - values).square().mean().item())
    names = ("loss", "loss_from_cell", "gene_mean", "overall_mean")
    sums = (own, cells, baselines, overall)
    return {n: float(np.average(x, weights=weights)) for n, x in zip(names, sums, strict=True)}


def train_geneformer(epochs: int) -> None:
    adata, folder = demo_cells(), DATA / "demo_geneformer"
    training, held_out = split(adata.n_obs)
    dictionaries = geneformer_dictionaries(adata, training)
    config = GENEFORMER_CONFIG | {"vocab_size": len(dictionaries["token_dictionary"])}
    torch.manual_seed(0)
    model = Geneformer(CONFIG_DEFAULTS | config)
    initialise(model)
    model.dictionaries = GeneDictionaries(*dictionaries.values())
    tokens = model.tokenize(adata)

    def evaluate(model):
        return evaluate_geneformer(model, tokens, training, held_out)

    fit(model, tokens, training, lambda *a: geneformer_loss(*a)[0], evaluate, epochs, rate=1e-3, decay=0.01)
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in dictionaries.items():
        (folder / f"{stem}_gc104M.pkl").write_bytes(pickle.dumps(content, protocol=4))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {key: value.contiguous() for key, value in model.to_checkpoint().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_losses(folder, evaluate(model), epochs, len(training), len(held_out))


def train_scgpt(epochs: int) -> None:
    adata, folder = demo_cells(), DATA / "demo_scgpt"
    training, held_out = split(adata.n_obs)
    names = [*sorted(adata.var_names), "<pad>", "<cls>", "<eoc>"]
    tokens_of = {name: i for i, name in enumerate(names)}
    torch.manual_seed(0)
    model = ScGPT(ARGUMENT_DEFAULTS | SCGPT_ARGUMENTS, Vocabulary(tokens_of, tokens_of["<pad>"]))
    initialise(model)
    tokens = model.tokenize(adata)

    def evaluate(model):
        return evaluate_scgpt(model, tokens, training, held_out)

    def objective(model, batch, generator):
        return sum(scgpt_loss(model, subsample(batch, 0.7, generator), generator)[:2]) / 100

    fit(model, tokens, training, objective, evaluate, epochs, rate=1e-3, decay=0.1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(SCGPT_ARGUMENTS, indent=2) + "\n")
    (folder / "vocab.json").write_text(json.dumps(tokens_of, indent=0) + "\n")
    weights = {key: value.contiguous().clone() for key, value in model.to_checkpoint().items()}
    # the pretraining flag of the original, which the encoder does not use
    weights["flag_encoder.weight"] = torch.zeros(2, SCGPT_ARGUMENTS["embsize"])
    torch.save(weights, folder / "best_model.pt")
    write_losses(folder, evaluate(model), epochs, len(training), len(held_out))


def write_losses(folder: Path, losses: dict[str, float], epochs: int, n_training: int, n_held_out: int) -> None:
    record = {"epochs": epochs, "training_cells": n_training, "held_out_cells": n_held_out, "held_out": losses}
    (folder / "losses.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["geneformer", "scgpt"])
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    {"geneformer": train_geneformer, "scgpt": train_scgpt}[given.model](given.epochs)
