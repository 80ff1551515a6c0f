"""Genes perturbed beside features changed: against slow versions, on models of known circuit, and under the null."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import cellcircuits as cc
from cellcircuits.ablate import Tracer
from cellcircuits.answers import Found
from cellcircuits.errors import CellCircuitsError
from cellcircuits.figures.gene_perturbation import draw
from cellcircuits.gene_edits import delete_gene, overexpress_by_rank
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import gene_perturbation, matched
from cellcircuits.interventions.gene_choice import choose_genes, expression, nearest_controls
from cellcircuits.interventions.gene_measures import measure
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.matched import contrasts, matched_test
from cellcircuits.interventions.perturbed_cells import Perturber
from cellcircuits.models.base import Model
from cellcircuits.models.toy import ToyModel
from cellcircuits.progress import Progress
from cellcircuits.settings import TraceSettings

pytestmark = pytest.mark.usefixtures("one_thread")
N_GENES, N_SPECIAL = 40, 4
WIDTH = 12


class Pooling(Model):
    """Two blocks; the second adds to every position the mean over the cell's genes of pool . state.

    A gene acts on others by this mean alone, so what its deletion does is known: mean over n genes becomes mean over
    the n - 1 others.
    """

    name = "pooling"
    n_layers, d_model = 2, WIDTH
    output_name = "state . drive"
    perturbations = ("delete", "overexpress")

    def __init__(self, drive: np.ndarray, pool: np.ndarray) -> None:
        super().__init__()
        self.drive = torch.nn.Parameter(torch.from_numpy(drive).float(), requires_grad=False)
        self.pool = torch.nn.Parameter(torch.from_numpy(pool).float(), requires_grad=False)

    def tokenize(self, adata, settings=None, **changes):
        raise NotImplementedError

    def embed(self, tokens):
        return self.drive[torch.from_numpy(tokens.ids).long()]

    def run_layers(self, hidden, tokens, start, stop):
        genes = torch.from_numpy(tokens.gene_mask).to(hidden.dtype)
        for layer in range(start, stop):
            if layer == 1:
                mean = (genes[..., None] * hidden).sum(dim=1) / genes.sum(dim=1, keepdim=True)
                hidden = hidden + (mean @ self.pool)[:, None]
            yield layer, hidden

    def gene_outputs(self, hidden, tokens):
        return (hidden * self.embed(tokens)).sum(-1)

    def perturb_gene(self, tokens, token_id, kind):
        return delete_gene(tokens, token_id) if kind == "delete" else overexpress_by_rank(tokens, token_id, 99)

    def saes(self):
        made = {}
        for layer in range(2):
            sae = cc.TopKSAE(WIDTH, WIDTH, k=WIDTH)
            eye = {"W_enc": torch.eye(WIDTH), "W_dec": torch.eye(WIDTH)}
            sae.load_state_dict(sae.state_dict() | eye)
            made[layer] = sae.eval().requires_grad_(False)
        return made


def drawn_cells(rng: np.random.Generator, n_cells: int, rate: float = 0.6) -> cc.Tokens:
    genes = np.arange(N_SPECIAL, N_SPECIAL + N_GENES)
    rows = [[2, *rng.permutation(genes[rng.random(N_GENES) < rate]).tolist()] for _ in range(n_cells)]
    cells = cc.Tokens.from_ids(rows)
    names = np.array([""] * N_SPECIAL + [f"GENE{i}" for i in range(N_GENES)])
    return cc.Tokens(cells.ids, cells.gene_mask, gene_ids=names, gene_symbols=names)


def driven(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Genes 0 to 5 each have a feature of their own, which block 1 pools into two of the features 6 to 11."""
    drive = np.zeros((N_SPECIAL + N_GENES, WIDTH))
    drive[N_SPECIAL:, 6:] = rng.uniform(5, 6, (N_GENES, 6))  # all targets are on, so they can fall
    drive[N_SPECIAL + np.arange(6), np.arange(6)] = 10
    pool = np.zeros((WIDTH, WIDTH))
    for source in range(6):
        pool[source, 6 + source], pool[source, 6 + (source + 1) % 6] = 1, -0.5
    return drive, pool


def inputs_of(model: Pooling, cells: cc.Tokens, top: dict[int, list[int]], **changes) -> Inputs:
    """Stand-in of a run in which feature f of layer 0 has the top genes top[f]."""
    rows = [(0, f, i + 1, f"GENE{g}", f"GENE{g}") for f, genes in top.items() for i, g in enumerate(genes)]
    table = pd.DataFrame(rows, columns=["layer", "feature", "rank", "gene_id", "symbol"])
    run = SimpleNamespace(cells=cells, saes=model.saes(), feature_genes=table)
    settings = {"features": [f"0:{f}" for f in top], "n_cells": 0, "min_cells": 5} | changes
    inputs = Inputs(run, InterventionSettings(**settings), Progress())
    inputs.__dict__["model"] = model
    return inputs


@pytest.fixture(scope="module")
def pooling() -> Inputs:
    rng = np.random.default_rng(0)
    return inputs_of(Pooling(*driven(rng)), drawn_cells(rng, 24), {f: [f] for f in range(6)})


@pytest.fixture(scope="module")
def asked(pooling: Inputs) -> Found:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = gene_perturbation.ask(pooling)
    torch.set_num_threads(threads)
    return found


def random_saes(model: Model) -> dict[int, cc.TopKSAE]:
    generator = torch.Generator().manual_seed(0)
    saes = {}
    for layer in range(model.n_layers):
        saes[layer] = cc.TopKSAE(model.d_model, 64, k=6)
        saes[layer].W_enc.data = torch.randn(model.d_model, 64, generator=generator) / 10
        saes[layer].requires_grad_(False)
    return saes


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_a_perturbed_cell_is_what_it_says(demo_model: cc.Model, demo_tokens: cc.Tokens, kind: str):
    model, cell, saes = demo_model, demo_tokens.take([3]), random_saes(demo_model)
    last = model.n_layers - 1
    genes = cell.ids[0, cell.gene_mask[0]]
    asked = {0: int(genes[0]), 1: int(genes[4]), 2: int(genes[-1])}
    if kind == "overexpress":
        asked[3] = next(t for t in range(len(cell.gene_ids)) if cell.gene_ids[t] and t not in genes)
    clean = Tracer(model, saes, TraceSettings()).clean_pass(cell, range(model.n_layers), [last])
    before = dict(model.run_layers(model.embed(cell), cell, 0, model.n_layers))
    for batch_size in (2, 8):
        found = {one.gene: one for one in Perturber(model, saes, kind, batch_size).perturb(clean, asked)}
        assert set(found) == set(asked)
        for number, token in asked.items():
            other = model.perturb_gene(cell, token, kind)
            after = dict(model.run_layers(model.embed(other), other, 0, model.n_layers))
            at = {int(t): p for p, t in enumerate(other.ids[0]) if other.gene_mask[0, p]}
            pairs = [(p, at[int(t)]) for p, t in enumerate(cell.ids[0]) if int(t) in at and int(t) != token]
            pairs = [(p, q) for p, q in pairs if cell.gene_mask[0, p]]
            one = found[number]
            np.testing.assert_array_equal(one.shared, [p for p, _ in pairs])
            for layer, sae in saes.items():
                was, now = (sae.encode(s[layer][0]).dense(64) for s in (before, after))
                expected = np.mean([(now[q] - was[p]).double().numpy() for p, q in pairs], axis=0)
                np.testing.assert_allclose(one.changes[layer], expected, atol=2e-5)
                clean_mean = np.mean([was[p].double().numpy() for p, _ in pairs], axis=0)
                np.testing.assert_allclose(one.clean[layer], clean_mean, atol=2e-5)
            u = np.mean([before[last][0, p].double().numpy() for p, _ in pairs], axis=0)
            v = np.mean([after[last][0, q].double().numpy() for _, q in pairs], axis=0)
            assert one.shift == pytest.approx(1 - u @ v / np.sqrt(u @ u * (v @ v)), rel=1e-3, abs=1e-9)
            u = before[last][0, torch.from_numpy(cell.gene_mask[0])].double().mean(dim=0).numpy()
            v = after[last][0, torch.from_numpy(other.gene_mask[0])].double().mean(dim=0).numpy()
            assert one.shift_with_gene == pytest.approx(1 - u @ v / np.sqrt(u @ u * (v @ v)), rel=1e-3, abs=1e-9)
            outputs = model.gene_outputs(before[last], cell)[0], model.gene_outputs(after[last], other)[0]
            expected = [float(outputs[1][q] - outputs[0][p]) for p, q in pairs]
            np.testing.assert_allclose(one.outputs, expected, atol=5e-5)


def test_without_attention_a_gene_does_nothing_elsewhere(model: ToyModel, tokens: cc.Tokens):
    saes = model.saes()
    for row in range(5):
        cell = tokens.take([row])
        clean = Tracer(model, saes, TraceSettings()).clean_pass(cell, range(3), [2])
        asked = {i: int(t) for i, t in enumerate(cell.ids[0, cell.gene_mask[0]])}
        found = list(Perturber(model, saes, "delete", 16).perturb(clean, asked))
        assert len(found) == len(asked) > 5
        for one in found:
            assert one.shift == 0 and not one.outputs.any() and not any(x.any() for x in one.changes.values())
            assert one.shift_with_gene > 0  # the gene itself has left the mean


def test_a_gene_that_drives_others_is_found(pooling: Inputs, asked: Found):
    table = asked.tables["gene_perturbation_features"].set_index(["gene", "layer", "feature"])
    for source in range(6):  # the feature that it supports falls, the one that it holds down rises
        assert table.loc[(f"GENE{source}", 1, 6 + source), "mean_delta"] < -0.2
        assert table.loc[(f"GENE{source}", 1, 6 + (source + 1) % 6), "mean_delta"] > 0.1
    assert (table.index.get_level_values("layer") == 1).all()  # nothing is pooled below
    # exactly: 10 / n is lost, and what others add is a mean over n - 1 now
    cells = pooling.cells
    own = np.isin(cells.ids, N_SPECIAL + 0).any(axis=1)
    rows = np.flatnonzero(choose_genes(pooling).cells[0])
    assert own[rows].all() and len(rows) == min(16, own.sum())
    x = []
    for row in rows:
        genes = cells.ids[row, cells.gene_mask[row]] - N_SPECIAL
        has = [10 * (g in genes) for g in (0, 5)]  # genes 0 and 5 act on feature 6
        x.append(-0.5 * has[1] / (len(genes) - 1) - (has[0] - 0.5 * has[1]) / len(genes))
    assert table.loc[("GENE0", 1, 6), "mean_delta"] == pytest.approx(np.mean(x), rel=1e-4)
    outputs = asked.tables["gene_perturbation_outputs"]
    assert set(outputs["gene"]) <= {f"GENE{i}" for i in range(6)} and (outputs["gene"] != outputs["target_gene"]).all()
    assert set(draw(asked)) == {"feature_gene_similarity", "gene_perturbations"}


def test_features_and_the_genes_that_carry_them_act_alike(asked: Found):
    similar, shift = asked.answers
    assert similar.value > 0.6 > similar.baseline + 0.3 and similar.p_value < 0.01
    assert shift.value > 3 * shift.baseline and shift.p_value < 0.01
    table = asked.tables["feature_gene_similarity"]
    assert table["is_top_gene"].sum() == 6 and (table.loc[~table["is_top_gene"], "rank"] == 0).all()
    genes = asked.tables["gene_perturbations"]
    own = genes["matched_to"] == ""
    assert own.sum() == 6 and (genes.loc[own, "q_value"] < 0.05).all()
    assert (genes.loc[own, "shift"] > genes.loc[own, "control_shift"]).all()
    means = genes[~own].groupby("matched_to")["shift"].mean()
    np.testing.assert_allclose(genes.loc[own, "control_shift"], means[genes.loc[own, "gene"]])


def test_similarity_against_a_slow_version(pooling: Inputs, asked: Found):
    table = asked.tables["feature_gene_similarity"]
    genes, model, cells = choose_genes(pooling), pooling.model, pooling.cells
    for row in table.iloc[[0, 1, 7]].itertuples():
        token = N_SPECIAL + int(row.gene[4:])
        number = genes.tokens.tolist().index(token)
        by_feature, by_gene = [], []
        for index in np.flatnonzero(genes.cells[number]):
            cell = cells.take([index])
            state = model.embed(cell)[0]
            if not (state[cell.gene_mask[0], row.source_feature] > 0).any():
                continue
            others = [p for p, t in enumerate(cell.ids[0]) if cell.gene_mask[0, p] and t != token]
            ablated = state.clone()
            ablated[:, row.source_feature] = 0
            other = delete_gene(cell, token)
            out = [
                dict(model.run_layers(h[None], c, 1, 2))[1][0].clamp(min=0)
                for h, c in ((state, cell), (ablated, cell), (model.embed(other)[0], other))
            ]
            by_feature.append((out[1][others] - out[0][others]).mean(dim=0))
            by_gene.append(out[2][other.gene_mask[0]].mean(dim=0) - out[0][others].mean(dim=0))
        both = np.stack([torch.stack(part).double().sum(dim=0).numpy() for part in (by_feature, by_gene)])
        both[np.abs(both) < 1e-4] = 0
        both = both[:, (both != 0).any(axis=0)]
        assert row.n_cells == len(by_gene) and row.n_features == both.shape[1]
        assert row.correlation == pytest.approx(spearmanr(*both).statistic, abs=1e-9)


def test_overexpression_reaches_cells_that_lack_the_gene():
    rng = np.random.default_rng(0)
    drive, pool = driven(rng)
    drive[N_SPECIAL + 30 + np.arange(6), np.arange(6)] = 3  # features are active without their top gene too
    top = {f: [f, 30 + f] for f in range(6)}
    inputs = inputs_of(Pooling(drive, pool), drawn_cells(rng, 16), top, perturb_kind="overexpress", perturb_cells=0)
    found = gene_perturbation.ask(inputs)
    sums = measure(inputs, choose_genes(inputs)).features[1]
    # in this model order means nothing: only where it is new does a gene do anything
    lacks = ~np.isin(inputs.cells.ids, N_SPECIAL).any(axis=1)
    assert 3 < lacks.sum() < 13 and sums.sums["negative"][0, 6] == 0 and sums.sums["positive"][0, 6] == lacks.sum()
    assert (found.tables["gene_perturbations"]["n_cells"] == 16).all()
    answer = found.answers[0]
    assert answer.value < -0.5 and answer.p_value < 0.01 and "opposed" in answer.note


def test_batches_change_nothing_but_speed_and_draws_are_repeated(pooling: Inputs, asked: Found):
    again, small = (
        gene_perturbation.ask(inputs_of(pooling.model, pooling.run.cells, {f: [f] for f in range(6)}, batch_size=size))
        for size in (InterventionSettings.batch_size, 1)
    )
    for name in gene_perturbation.TABLES:
        pd.testing.assert_frame_equal(asked.tables[name], small.tables[name], rtol=1e-4, atol=1e-7)
        pd.testing.assert_frame_equal(asked.tables[name], again.tables[name], check_exact=True)
    assert asked.answers == again.answers


def test_genes_like_all_others_are_not_different(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matched, "DRAWS", 199)
    p = []
    for seed in range(14):
        rng = np.random.default_rng([seed, 9])
        drive = np.vstack([np.zeros((N_SPECIAL, WIDTH)), rng.exponential(1, (N_GENES, WIDTH))])
        model = Pooling(drive, rng.normal(size=(WIDTH, WIDTH)))
        top = {f: [g] for f, g in enumerate(rng.choice(N_GENES, 6, replace=False))}
        inputs = inputs_of(model, drawn_cells(rng, 6, 0.8), top, min_cells=3, perturb_cells=4)
        p.append([answer.p_value for answer in gene_perturbation.ask(inputs).answers])
    p = np.array(p)
    assert np.isfinite(p).all() and (np.abs(p.mean(axis=0) - 0.5) < 0.2).all()
    assert ((p <= 0.05).sum(axis=0) <= 3).all()


def test_the_matched_test_is_exact(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    values = rng.exponential(1, (4, 3))
    values[1, 2] = np.nan
    sets, weights = np.array([0, 0, 1, 2]), np.array([0.2, 0.3, 0.4, 0.1])
    found = contrasts(values)
    assert found[0, 1] == pytest.approx(values[0, 1] - values[0, [0, 2]].mean())
    assert found[1, 0] == pytest.approx(values[1, 0] - values[1, 1]) and np.isnan(found[1, 2])
    observed, as_large = weights @ found[:, 0], 0.0
    for first in product(range(3), repeat=3):
        # of the set of two rows one lacks the last member: it takes the first of the others, either with half a chance
        for spare in (0, 1):
            members = [first[0], first[0] if first[0] < 2 else spare, first[1], first[2]]
            as_large += (weights @ found[np.arange(4), members] >= observed - 1e-12) / 54
    assert matched_test(values, sets, weights, (0,)) == pytest.approx(as_large, abs=0.03)
    assert np.isnan(matched_test(values[:0], sets[:0], weights[:0], (0,)))
    monkeypatch.setattr(matched, "DRAWS", 99)
    null = []
    for seed in range(300):
        draw = np.random.default_rng([seed, 3]).exponential(1, (5, 3)) ** 2
        null.append(matched_test(draw, np.arange(5), np.ones(5), (seed, 4)))
    assert np.mean(np.array(null) <= 0.05) < 0.09 and abs(np.mean(null) - 0.5) < 0.06


def test_expression_and_controls_against_loops():
    rng = np.random.default_rng(2)
    cells = drawn_cells(rng, 12)
    values = rng.permuted(np.arange(cells.ids.size)).reshape(cells.ids.shape).astype(np.float32)
    for tokens in (cells, cc.Tokens(cells.ids, cells.gene_mask, values)):
        counts, places = expression(tokens, N_SPECIAL + N_GENES)
        for token in (5, 17, 0):
            expected = []
            for row in range(12):
                genes = [p for p in range(cells.ids.shape[1]) if cells.gene_mask[row, p]]
                if tokens.values is not None:
                    genes.sort(key=lambda p, row=row: -values[row, p])
                order = [int(cells.ids[row, p]) for p in genes]
                expected += [order.index(token) / (len(order) - 1)] if token in order else []
            assert counts[token] == len(expected)
            assert places[token] == pytest.approx(np.mean(expected) if expected else 1.0)
    n_cells, ranks = np.array([10, 10, 9, 3, 10, 8]), np.array([0.5, 0.5, 0.52, 0.1, 0.9, 0.45])
    controls, sets = nearest_controls(n_cells, ranks, np.array([0, 3]), np.array([1, 2, 4, 5]), 3)
    np.testing.assert_array_equal(controls[sets == 0], [1, 2])  # the other gene takes its turn, and none is left
    assert sorted(controls.tolist()) == [1, 2, 4, 5] and controls[sets == 1][0] == 5


def settings(**changes) -> InterventionSettings:
    base = {"experiments": ["gene_perturbation"], "n_cells": 30, "features": ["0:0", "1:0"]}
    return InterventionSettings(**{**base, **changes})


def test_on_a_run_of_the_toy_model(toy_run: cc.OpenRun):
    write_interventions(toy_run, settings(), Progress())
    made = cc.open_run(toy_run.folder).interventions
    assert made.gene_perturbation_features.empty and made.gene_perturbation_outputs.empty
    genes = made.gene_perturbations
    assert len(genes) and (genes["shift"] == 0).all() and (genes["n_responding"] == 0).all()
    assert (made.feature_gene_similarity["correlation"].isna()).all()
    verdicts = made.answers.set_index("asked")["verdict"]
    assert verdicts[gene_perturbation.SIMILAR].startswith("cannot")
    assert verdicts[gene_perturbation.SHIFTED] == "not distinguishable from chance"


def test_what_a_model_cannot_do_is_said(toy_run: cc.OpenRun):
    write_interventions(toy_run, settings(perturb_kind="overexpress"), Progress())
    notes = cc.open_run(toy_run.folder).interventions.answers["note"]
    assert notes.str.contains("set perturb_kind").all()
    write_interventions(toy_run, settings(min_cells=31), Progress())
    assert cc.open_run(toy_run.folder).interventions.answers["note"].str.contains("n_cells").all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturb_genes": ["TP53"]}, "no gene of the model"),
        ({"perturb_genes": ["GENE3"], "min_cells": 29}, "fewer than min_cells"),
        ({"perturb_layers": [9]}, "no autoencoder"),
        ({"perturb_controls": 0}, "perturb_controls"),
    ],
)
def test_mistakes_are_told(toy_run: cc.OpenRun, changes: dict, message: str):
    with pytest.raises(CellCircuitsError, match=message):
        write_interventions(toy_run, settings(**changes), Progress())


def test_named_genes(pooling: Inputs):
    named = inputs_of(
        pooling.model, pooling.run.cells, {f: [f] for f in range(6)}, perturb_genes=["GENE2", "GENE2", "GENE20"]
    )
    genes = choose_genes(named)
    assert genes.tokens[: genes.n_perturbed].tolist() == [N_SPECIAL + 2, N_SPECIAL + 20]
    assert genes.pairs == (((0, 2), 0, 1),)
    assert not set(genes.tokens[genes.n_perturbed :] - N_SPECIAL) & {0, 1, 2, 3, 4, 5, 20}
    assert genes.sets.tolist() == [0, 1, 0, 0, 1, 1]
    other = inputs_of(pooling.model, pooling.run.cells, {0: [0]}, perturb_genes=["GENE20"])
    assert "top gene of a source" in gene_perturbation.ask(other).answers[0].note
