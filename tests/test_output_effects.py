"""Effects on the model's output: heads, genes and the loss, against slow versions and known circuits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats

import cellcircuits as cc
from cellcircuits.errors import SettingsError
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import output_effects, output_loss, top_gene_effects
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.outputs import measure_outputs
from cellcircuits.interventions.own_and_random import judged, own_is_larger
from cellcircuits.interventions.probes import Readouts
from cellcircuits.interventions.top_gene_effects import ask_top_genes, percentiles, permuted_means
from cellcircuits.masking import draw_masks
from cellcircuits.models.toy import ToyModel
from cellcircuits.progress import Progress
from cellcircuits.settings import settings_from_dict
from cellcircuits.specificity import against_random
from cellcircuits.tokens import Tokens

pytestmark = pytest.mark.usefixtures("one_thread")


class Mixing(cc.Model):
    """Three layers; block 1 adds to every position the mean of the cell's `context` dimensions: a kind of attention.

    The head reads what is written there and the gene's own state, with weights of its own.
    """

    name, output_name, n_layers = "mixing", "output", 3

    def __init__(self, n_genes: int = 24, d_model: int = 32, seed: int = 0, own: float = 1.0) -> None:
        super().__init__()
        rng = np.random.default_rng([seed, 0])
        self.d_model = d_model
        embedding = rng.normal(size=(n_genes + 4, d_model))
        embedding[:4] = 0
        self.embedding = torch.nn.Parameter(torch.from_numpy(embedding).float())
        self.head = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(n_genes + 4, d_model))).float())
        self.mixed = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(d_model, d_model)) / d_model**0.5).float())
        self.own = own
        self.requires_grad_(False)

    def tokenize(self, adata, settings=None, **changes):
        raise NotImplementedError

    def embed(self, tokens: Tokens) -> torch.Tensor:
        hidden = self.embedding[torch.from_numpy(tokens.ids).long()]
        return hidden if tokens.values is None else hidden * torch.from_numpy(tokens.values)[..., None]

    def run_layers(self, hidden, tokens, start: int, stop: int) -> Iterator[tuple[int, torch.Tensor]]:
        genes = torch.from_numpy(tokens.gene_mask).float()[..., None]
        for layer in range(start, stop):
            if layer == 1:
                mean = (hidden * genes).sum(dim=1, keepdim=True) / genes.sum(dim=1, keepdim=True)
                hidden = self.own * hidden + torch.tanh(mean @ self.mixed)
            yield layer, hidden

    def gene_outputs(self, hidden, tokens):
        return (hidden * self.head[torch.from_numpy(tokens.ids).long()]).sum(-1)

    def mask(self, tokens, at):
        return replace(tokens, ids=np.where(at, np.int32(1), tokens.ids))

    def masked_loss(self, hidden, tokens, at):
        ids = torch.from_numpy(tokens.ids).long().expand(len(hidden), -1)
        masked = torch.from_numpy(at).expand(len(hidden), -1)
        logits = hidden @ self.head.T
        return torch.stack(
            [torch.nn.functional.cross_entropy(row[m], g[m]) for row, g, m in zip(logits, ids, masked, strict=True)]
        )


def random_saes(model: cc.Model, n_features: int = 8, k: int = 3, seed: int = 0) -> dict[int, cc.TopKSAE]:
    """Autoencoders whose decoder rows are random unit vectors that have nothing to do with what they read."""
    rng, made = np.random.default_rng([seed, 1]), {}
    for layer in range(model.n_layers):
        sae = cc.TopKSAE(model.d_model, n_features, k=k)
        decoder = rng.normal(size=(n_features, model.d_model))
        sae.W_dec.data = torch.from_numpy(decoder / np.linalg.norm(decoder, axis=1, keepdims=True)).float()
        sae.W_enc.data = torch.from_numpy(rng.normal(size=(model.d_model, n_features))).float()
        made[layer] = sae.eval().requires_grad_(False)
    return made


def some_cells(n_cells: int, n_genes: int = 24, length: int = 12, seed: int = 0, obs: dict | None = None) -> Tokens:
    """Cells with <cls> and random genes with values."""
    rng = np.random.default_rng([seed, 2])
    ids = np.array([[2, *(4 + rng.choice(n_genes, length, replace=False))] for _ in range(n_cells)], dtype=np.int32)
    values = rng.uniform(0.5, 1.5, ids.shape).astype(np.float32)
    names = np.array([""] * 4 + [f"G{i}" for i in range(n_genes)])
    table = pd.DataFrame(obs or {}, index=[f"c{i}" for i in range(n_cells)])
    return Tokens(ids, ids >= 4, values, 0, names, names, table)


def inputs_of(
    model: cc.Model,
    saes: dict[int, cc.TopKSAE],
    cells: Tokens,
    sources: list[tuple[int, int]],
    top_genes: dict[tuple[int, int], list[str]] | None = None,
    **changes,
) -> Inputs:
    """Inputs of no run folder."""
    listed = [(*source, gene) for source, genes in (top_genes or {}).items() for gene in genes]
    run = SimpleNamespace(
        cells=cells,
        feature_genes=pd.DataFrame(listed, columns=["layer", "feature", "gene_id"]),
        settings=settings_from_dict({"model": {"family": "toy"}, "cells": {"data": "x"}}),
    )
    made = Inputs(run, InterventionSettings(**{"n_cells": 0, "min_cells": 5, **changes}), Progress())
    vars(made).update(model=model, saes=saes, sources=sources)
    return made


def test_heads_are_the_models_own(demo_model: cc.Model, demo_tokens: cc.Tokens, family: str):
    cells = demo_tokens.take([3, 8])
    hidden = dict(demo_model.run_layers(demo_model.embed(cells), cells, 0, demo_model.n_layers))[
        demo_model.n_layers - 1
    ]
    outputs = demo_model.gene_outputs(hidden, cells)
    at = np.zeros_like(cells.gene_mask)
    at[:, [2, 7, 11]] = True
    loss = demo_model.masked_loss(hidden, cells, at)
    masked = demo_model.mask(cells, at)
    assert (masked.gene_mask == cells.gene_mask).all()
    for cell in range(2):
        single = []
        for p in range(int(cells.lengths[cell])):
            if family == "geneformer":
                logits = demo_model.logits(hidden[cell, p])
                expected = logits[cells.ids[cell, p]]
                single.append(-torch.log(torch.exp(logits.double())[cells.ids[cell, p]] / logits.double().exp().sum()))
                assert masked.ids[cell, p] == (
                    demo_model.dictionaries.special["<mask>"] if at[cell, p] else cells.ids[cell, p]
                )
            else:
                expected = demo_model.decoder(hidden[cell, p])[0]
                single.append((expected.double() - float(cells.values[cell, p])) ** 2)
                assert masked.ids[cell, p] == cells.ids[cell, p]
                assert masked.values[cell, p] == (
                    demo_model.arguments["mask_value"] if at[cell, p] else cells.values[cell, p]
                )
            assert float(outputs[cell, p]) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
        by_hand = np.mean([float(single[p]) for p in (2, 7, 11)])
        assert float(loss[cell]) == pytest.approx(by_hand, rel=1e-4)
    # copies of one cell, as the experiments give them
    one = cells.take([0])
    copies = hidden[:1, : one.ids.shape[1]].expand(3, -1, -1)
    torch.testing.assert_close(demo_model.gene_outputs(copies, one)[2], outputs[0, : one.ids.shape[1]])
    torch.testing.assert_close(demo_model.masked_loss(copies, one, at[:1, : one.ids.shape[1]])[1], loss[0])


def test_in_the_toy_model_effects_on_logits_have_a_closed_form(model: ToyModel, tokens: cc.Tokens):
    sources = [(0, 0), (0, 1), (0, 3), (1, 0)]
    found = measure_outputs(inputs_of(model, model.saes(), tokens, sources, random_directions=0), Readouts())
    drive = model.drive.double().numpy()
    identity = np.eye(model.d_model)
    for row, (layer, feature) in enumerate(sources):
        vector = identity[model.column(layer, feature)]
        for above in range(layer + 1, model.n_layers):
            vector = vector @ (identity + model.weights[above].double().numpy())
        state = drive.copy()
        for below in range(layer + 1):
            state = state @ (identity + model.weights[below].double().numpy())
        z = np.maximum(state[found.tokens, model.column(layer, feature)], 0)
        expected = -z * (drive[found.tokens] @ vector)
        n = found.genes.own.n[row]
        assert (n > 0).all()
        np.testing.assert_allclose(found.genes.own.mean[row], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.active[row], np.where(z > 0, n, 0))
    # planted: 0:0 drives 1:0 by 0.8, and 1:0 drives 2:2 by 0.5
    z = drive[found.tokens, 0]
    by_hand = drive[found.tokens, 0] + 0.8 * drive[found.tokens, 6] + 0.4 * drive[found.tokens, 14]
    np.testing.assert_allclose(found.genes.own.mean[0], -z * by_hand, rtol=1e-4, atol=1e-5)


def slow_output(model: cc.Model, saes, cell: Tokens, source, vector: torch.Tensor | None, read):
    """`read` of the last layer, the source removed along `vector`, block by block; None where it is not active."""
    hidden, layer = model.embed(cell), -1
    for layer in range(model.n_layers):
        ((_, hidden),) = model.run_layers(hidden, cell, layer, layer + 1)
        if vector is not None and layer == source[0]:
            z = saes[layer].encode(hidden[0]).dense(saes[layer].n_features)[:, source[1]]
            z = z * torch.from_numpy(cell.gene_mask[0])
            if not (z > 0).any():
                return None
            hidden = hidden - z[None, :, None] * vector
    return read(hidden)


def test_genes_and_loss_are_what_slow_loops_find():
    model, cells = Mixing(), some_cells(14)
    saes, sources = random_saes(model, n_features=40, k=1), [(0, 1), (0, 3), (1, 19)]
    inputs = inputs_of(model, saes, cells, sources, random_directions=1, batch_size=2)
    found, loss = measure_outputs(inputs, Readouts()), output_loss.measure_loss(inputs)
    engine, masks = inputs.intervener(sources), draw_masks(cells, 0.15, 0)
    for direction in (0, 1):
        for row, source in enumerate(sources):
            vector = saes[source[0]].W_dec[source[1]] if direction == 0 else engine._random_direction(*source, 0)
            by_gene: dict[int, list[float]] = {int(t): [] for t in found.tokens}
            losses = []
            for number in range(len(cells)):
                cell = cells.take([number])
                read = lambda hidden, cell=cell: model.gene_outputs(hidden, cell)[0]  # noqa: E731
                after = slow_output(model, saes, cell, source, vector, read)
                if after is not None:
                    change = after - slow_output(model, saes, cell, source, None, read)
                    for p in np.flatnonzero(cell.gene_mask[0]):
                        by_gene[int(cell.ids[0, p])].append(float(change[p]))
                at = masks[[number], : cell.ids.shape[1]]
                assert at.sum() == 2 and not (at & ~cell.gene_mask).any()
                hidden_cell = model.mask(cell, at)
                read = lambda hidden, cell=cell, at=at: model.masked_loss(hidden, cell, at)[0]  # noqa: E731
                after = slow_output(model, saes, hidden_cell, source, vector, read)
                if after is not None:
                    losses.append(float(after - slow_output(model, saes, hidden_cell, source, None, read)))
            assert 0 < len(losses) < len(cells), "the source is active in some cells only"
            assert loss[direction].n[row, 0] == len(losses)
            np.testing.assert_allclose(loss[direction].mean[row, 0], np.mean(losses), atol=1e-5)
            np.testing.assert_allclose(loss[direction].sd[row, 0], np.std(losses, ddof=1), atol=1e-5)
            for gene, token in enumerate(found.tokens):
                expected = by_gene[int(token)]
                assert found.genes.compared[direction].n[row, gene] == len(expected)
                if expected:
                    np.testing.assert_allclose(
                        found.genes.compared[direction].mean[row, gene], np.mean(expected), atol=1e-5
                    )
    everywhere = found.active[0] == found.genes.own.n[0]
    assert not everywhere.all() and (np.abs(found.genes.own.mean[0]) > 1e-4).all(), "attention reaches the other genes"


def wired(n_cells: int = 60) -> tuple[Inputs, list[str]]:
    """A model whose head reads feature 0 at four genes and nowhere else; the other features are read alike by all."""
    model = Mixing(own=1.0, d_model=64)
    rng = np.random.default_rng(5)
    saes = random_saes(model, n_features=6, k=6)
    cells = some_cells(n_cells)
    target = saes[0].W_dec[0]
    reads = np.sort(np.argsort(-(model.embedding @ saes[0].W_enc[:, 0]).numpy())[:4])  # the feature is active there
    model.head[4:] = 0.05 * torch.from_numpy(rng.normal(size=(24, 64))).float()
    model.head[reads] += 3 * target
    return inputs_of(
        model,
        saes,
        cells,
        [(0, f) for f in range(6)],
        {(0, 0): [f"G{i - 4}" for i in reads], (0, 1): ["G1", "G2", "G3", "G7"]},
        random_directions=6,
    ), [f"G{i - 4}" for i in reads]


def test_planted_genes_are_found_and_are_beyond_random_directions():
    inputs, planted = wired()
    found = output_effects.ask(inputs)
    table = found.tables["output_effects"]
    mine = table[(table["source_feature"] == 0) & table["specific"]]
    assert set(planted) <= set(mine["symbol"]) and len(mine) <= len(planted) + 2
    assert mine.set_index("symbol").loc[planted, "in_top_genes"].all()
    assert list(mine["symbol"][:4].sort_values()) == sorted(planted), "the strongest come first"
    assert table.loc[table["source_feature"] != 0, "specific"].sum() <= 3
    np.testing.assert_allclose(table["snr"], table["mean_delta"] / table["sd_delta"])
    answers = {answer.asked: answer for answer in found.answers}
    top = answers["Are they changed more than by random directions at the same positions?"]
    assert top.value > top.baseline
    few = inputs_of(inputs.model, inputs.saes, inputs.cells.take(range(12)), inputs.sources, random_directions=3)
    table = output_effects.ask(few).tables["output_effects"]
    assert not table["specific"].any() and table["specific_z"].isna().all(), "three directions say nothing"


def test_any_direction_is_a_random_one_where_nothing_is_planted():
    """Decoder rows are random vectors here: the own direction is exchangeable with the random ones."""
    p_own, p_beyond, called, tested = [], [], 0, 0
    for seed in range(12):
        model = Mixing(seed=seed, d_model=16)
        saes = random_saes(model, n_features=6, k=6, seed=seed)
        inputs = inputs_of(model, saes, some_cells(14, seed=seed), [(0, f) for f in range(6)], seed=seed, batch_size=64)
        found = measure_outputs(inputs, Readouts())
        verdict = judged(found.genes.own, found.genes.compared, inputs.settings)
        share = np.array([np.abs(part.mean).mean(axis=1) for part in found.genes.compared])
        p_own.append(own_is_larger(share, seed))
        random = np.array([part.mean for part in found.genes.compared[1:]])
        p_beyond.append(against_random(found.genes.own.mean, random, np.ones(6, bool)).p.ravel())
        called += verdict["specific"].sum()
        tested += verdict["tested"].sum()
    assert scipy_stats.kstest(p_own, "uniform").pvalue > 0.01
    # pairs of a source share its direction, so seeds are the units
    low = np.array([(p <= 0.05).mean() for p in p_beyond])
    assert low.mean() < 0.05 + 2 * low.std(ddof=1) / len(low) ** 0.5 + 0.01
    assert called / tested < 0.01


def test_own_is_larger_counts_every_choice_of_a_direction():
    values = np.array([[3.0, 1.0, np.nan], [1.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    sums = [a + b for a in values[:, 0] for b in values[:, 1]]
    exact = np.mean([total >= 4.0 for total in sums])
    assert own_is_larger(values, 0, draws=40_000) == pytest.approx(exact, abs=0.01)
    assert np.isnan(own_is_larger(values[:1], 0)) and own_is_larger(np.zeros((4, 3)), 0) == 1
    rng = np.random.default_rng(0)
    p = [own_is_larger(rng.exponential(size=(5, 8)), seed, draws=499) for seed in range(300)]
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_percentiles_and_permutations_stay_within_classes():
    rng = np.random.default_rng(1)
    effects, tested = rng.random((3, 30)), rng.random((3, 30)) < 0.8
    classes = np.repeat(np.arange(3), 10)
    found = percentiles(effects, tested, classes)
    for source, gene in np.ndindex(3, 30):
        peers = [effects[source, g] for g in range(30) if classes[g] == classes[gene] and tested[source, g]]
        expected = (sum(peer < effects[source, gene] for peer in peers) + 0.5) / max(len(peers), 1)
        assert np.isnan(found[source, gene]) if not tested[source, gene] else found[source, gene] == expected
    # whoever is listed, the chance is the mean of its classes: 1/2
    listed = tested & (rng.random((3, 30)) < 0.3)
    assert permuted_means(found, listed, classes, 2000, rng).mean() == pytest.approx(0.5, abs=0.01)
    # where classes differ and genes in them do not, nothing is found
    flat = percentiles(np.tile(classes.astype(float), (3, 1)), tested, classes)
    assert np.allclose(flat[tested], 0.5)


def test_top_genes_by_chance_are_not_changed_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(top_gene_effects, "PERMUTATIONS", 200)
    p = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        inputs = inputs_of(Mixing(), {}, some_cells(8), [(0, f) for f in range(5)], seed=seed)
        # all sources move the same genes: genes, not pairs, are the units
        sensitive = rng.exponential(size=100)
        genes = [SimpleNamespace(n=np.full((5, 100), 9), mean=sensitive * rng.normal(size=(5, 100))) for _ in range(4)]
        outputs = SimpleNamespace(n_cells=rng.integers(5, 40, size=100), genes=SimpleNamespace(compared=genes))
        listed = np.tile(rng.random(100) < 0.2, (5, 1))
        by_genes, by_random = ask_top_genes(inputs, outputs, listed)
        p.append((by_genes.p_value, by_random.p_value))
    for column in np.array(p).T:
        assert scipy_stats.kstest(column, "uniform").pvalue > 0.01


def test_the_loss_rises_where_a_feature_carries_the_context():
    """Hidden genes are told by the program that the other genes of the cell show, which one feature reads."""
    model, rng = Mixing(d_model=16, own=0.0), np.random.default_rng(0)
    direction = np.zeros(16)
    direction[0] = 1
    program = np.arange(4, 28) < 16  # genes of program A, then of B
    embedding = np.zeros((28, 16))
    embedding[4:, 0] = np.where(program, 1.0, -1.0)
    embedding[4:, 1:] = 0.3 * rng.normal(size=(24, 15))
    model.embedding[:] = torch.from_numpy(embedding).float()
    model.mixed[:] = 3 * torch.eye(16)
    model.head[:] = 0
    model.head[4:, 0] = torch.from_numpy(np.where(program, 3.0, -3.0)).float()
    saes = random_saes(model, n_features=2, k=2)
    for row, sign in enumerate((1.0, -1.0)):
        saes[0].W_enc[:, row] = saes[0].W_dec[row] = torch.from_numpy(sign * direction).float()
    rows = [[2, *(4 + 12 * (i % 2) + rng.choice(12, 10, replace=False))] for i in range(40)]
    ids = np.array(rows, dtype=np.int32)
    names = np.array([""] * 4 + [f"G{i}" for i in range(24)])
    cells = Tokens(ids, ids >= 4, None, 0, names, names)
    table, answer = output_loss.ask_loss(inputs_of(model, saes, cells, [(0, 0), (0, 1)]))
    assert (table["mean_delta"] > 0.5).all() and (table["q_value"] < 0.01).all()
    assert (table["n_cells"] == 20).all(), "only the cells in which the feature is active"
    assert answer.value > answer.baseline + 0.5
    assert (np.abs(table["random_mean"]) < table["mean_delta"] / 2).all()


def test_a_model_without_a_head_is_told(toy_run: cc.OpenRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ToyModel, "output_name", "")
    settings = InterventionSettings(["output_effects"], n_features=2, n_cells=20)
    write_interventions(toy_run, settings, Progress())
    answers = cc.open_run(toy_run.folder).interventions.answers
    assert answers["note"].str.contains("no output head").sum() == 2
    with pytest.raises(SettingsError, match="no output head"):
        write_interventions(
            toy_run,
            InterventionSettings(["output_effects"], n_features=2, n_cells=20, probe_signature=["GENE1"]),
            Progress(),
        )


def test_the_toy_run(toy_run: cc.OpenRun):
    settings = InterventionSettings(["output_effects"], n_features=4, n_cells=15, probe_signature=["GENE3", "GENE8"])
    write_interventions(toy_run, settings, Progress())
    made = cc.open_run(toy_run.folder).interventions
    effects, loss = made.output_effects, made.output_loss
    assert len(effects) and (effects["n_cells"] >= settings.min_cells).all() and (effects["q_value"] <= 0.05).all()
    # without attention nothing changes where the source is not active, and hidden genes have no state
    assert (effects["share_active"] == 1).all()
    assert len(loss) == 4 and (loss["mean_delta"] == 0).all() and (loss["p_value"] == 1).all()
    assert (made.probe_effects["readout"] == "signature").sum() == 4
    page = (toy_run.path("interventions") / "report.html").read_text()
    assert "output of more genes" in page and page.count("data:image/png") == 3
    before = {p.name: p.read_bytes() for p in toy_run.path("interventions").glob("*.parquet")}
    (toy_run.path("interventions") / "manifest.json").unlink()
    write_interventions(toy_run, settings, Progress())
    assert before == {p.name: p.read_bytes() for p in toy_run.path("interventions").glob("*.parquet")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masked_share": 2.0}, "masked_share"),
        ({"probe_penalty": 0.0}, "probe_penalty"),
        ({"output_control_cells": -1}, "output_control_cells"),
    ],
)
def test_settings_out_of_range_are_told(changes: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        InterventionSettings(**changes)
