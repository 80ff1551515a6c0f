"""Attribution: against finite differences, plain loops, exact removal, and models whose circuit is known."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest, spearmanr

import cellcircuits as cc
from cellcircuits.errors import CellCircuitsError, ModelError
from cellcircuits.figures import attribution as attribution_figures
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.intervention_tables import write_interventions
from cellcircuits.interventions import attribution, screen_accuracy
from cellcircuits.interventions.changes import condition
from cellcircuits.interventions.engine import Intervener
from cellcircuits.interventions.gradients import attribute
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.targets import FeatureTarget, GeneTarget
from cellcircuits.models.encoder import EncoderBlock, EncoderModel
from cellcircuits.models.planted import planted
from cellcircuits.models.toy import PlantedEdge, ToyModel
from cellcircuits.progress import Progress

ENDS = ["source_layer", "source_feature", "target_layer", "target_feature"]
pytestmark = pytest.mark.usefixtures("one_thread")


class Small(EncoderModel):
    """Three blocks with random weights in float64, and a head, so that differences are exact."""

    name, output_name = "small", "made up"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.n_layers, self.d_model = 3, 8
        self.table = torch.nn.Embedding(20, 8)
        self.blocks = torch.nn.ModuleList(EncoderBlock(8, 2, 16, 1e-5) for _ in range(3))
        self.double().eval().requires_grad_(False)

    def embed(self, tokens: cc.Tokens) -> torch.Tensor:
        return self.table(torch.from_numpy(tokens.ids).long())

    def tokenize(self, adata, settings=None, **changes):
        raise NotImplementedError

    def gene_outputs(self, hidden: torch.Tensor, tokens: cc.Tokens) -> torch.Tensor:
        return (hidden * self.embed(tokens)).sum(-1).tanh()


@pytest.fixture(scope="module")
def small():
    """Model, one cell, autoencoders of random directions."""
    model, saes = Small(), {}
    for layer in range(3):
        sae = cc.TopKSAE(8, 12, k=4).double()
        torch.manual_seed(layer + 1)
        for weight in (sae.W_enc, sae.W_dec):
            weight.data = torch.randn_like(weight)
        saes[layer] = sae.eval().requires_grad_(False)
    return model, cc.Tokens.from_ids([[2, 5, 9, 7, 11, 16, 3, 4]]), saes


def slow_value(model, cell, saes, target, layer=0, change=None):
    """v, block by block, with `change` (position, d_model) added to the output of `layer`; positions T are clean."""
    outcomes = []
    for added in (None, change):
        state = model.embed(cell)
        for block in range(target.top + 1):
            ((_, state),) = model.run_layers(state, cell, block, block + 1)
            if added is not None and block == layer:
                state = state + added
        outcomes.append(state[0])
    clean, state = outcomes
    if isinstance(target, GeneTarget):
        where = [p for p in range(len(clean)) if cell.ids[0, p] == target.token]
        return float(np.mean([model.gene_outputs(state[None], cell)[0, p] for p in where]))
    sae = saes[target.top]
    z = sae.encode(clean).dense(sae.n_features)[:, target.feature]
    where = [p for p in range(len(clean)) if cell.gene_mask[0, p] and z[p] > 0]
    return float(np.mean([sae.pre_activations(state)[p, target.feature] for p in where]))


def dense_code(model, cell, saes, layer):
    states = dict(model.run_layers(model.embed(cell), cell, 0, layer + 1))
    return saes[layer].encode(states[layer][0]).dense(saes[layer].n_features)


def targets_of(model, cell, saes):
    often = {
        layer: int((dense_code(model, cell, saes, layer)[torch.from_numpy(cell.gene_mask[0])] > 0).sum(dim=0).argmax())
        for layer in (1, 2)
    }
    return [*(FeatureTarget(layer, often[layer], saes[layer]) for layer in (2, 1)), GeneTarget("G", 9, model)]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_attribution_is_the_slope_of_removal(small, which):
    model, cell, saes = small
    target = targets_of(model, cell, saes)[which]
    layers = target.layers(saes)
    assert layers == [list(range(target.top)), [0, 1, 2]][which == 2]
    found = attribute(model, saes, cell, target, layers)
    assert found.clean == pytest.approx(slow_value(model, cell, saes, target), rel=1e-10)
    step, n_active = 1e-5, 0
    for layer in layers:
        z = dense_code(model, cell, saes, layer)
        for feature in range(12):
            removal = torch.zeros(8, 8, dtype=torch.float64)
            for p in range(8):
                if cell.gene_mask[0, p]:
                    removal[p] = -z[p, feature] * saes[layer].W_dec[feature]
            if not removal.any():
                assert np.isnan(found.attribution[layer][feature])
                continue
            up, down = (slow_value(model, cell, saes, target, layer, s * removal) for s in (step, -step))
            assert found.attribution[layer][feature] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8)
            assert found.removed[layer][feature] == pytest.approx(float(removal.norm(dim=1).sum()))
            n_active += 1
    assert n_active > 6


def test_integrated_gradients_add_up(small):
    model, cell, saes = small
    for target in targets_of(model, cell, saes):
        errors = []
        for steps in (4, 64):
            found = attribute(model, saes, cell, target, target.layers(saes), steps, batch_size=5)
            error = []
            for layer in target.layers(saes):
                everything = torch.from_numpy(cell.gene_mask[0])[:, None] * dense_code(model, cell, saes, layer)
                after = slow_value(model, cell, saes, target, layer, -everything @ saes[layer].W_dec)
                error.append(np.nansum(found.attribution[layer]) - (after - found.clean))
            errors.append(np.abs(error).max())
        assert errors[1] < 0.02 and errors[1] < errors[0]
        one, other = (attribute(model, saes, cell, target, [0], 7, size) for size in (1, 16))
        np.testing.assert_allclose(one.attribution[0], other.attribution[0], rtol=1e-10)


def random_saes(width: int, layers: tuple[int, ...]) -> dict[int, cc.TopKSAE]:
    saes = {}
    for layer in layers:
        torch.manual_seed(layer)
        directions = torch.nn.functional.normalize(torch.randn(200, width), dim=1)
        saes[layer] = cc.TopKSAE(width, 200, k=8).requires_grad_(False)
        saes[layer].W_dec.data, saes[layer].W_enc.data = directions, directions.T.clone()
        saes[layer].double()
    return saes


def test_shipped_models_give_their_gradients(demo_model, pbmc):
    cell, saes = demo_model.tokenize(pbmc[3:4].copy()), random_saes(demo_model.d_model, (0, 2, 3))
    model = copy.deepcopy(demo_model).double()  # float32 leaves little of small differences
    model.embed = lambda tokens: demo_model.embed(tokens).double()
    genes = torch.from_numpy(cell.gene_mask[0])
    often = int((dense_code(model, cell, saes, 3)[genes] > 0).sum(dim=0).argmax())
    for target in (FeatureTarget(3, often, saes[3]), GeneTarget("G", int(cell.ids[0, 5]), model)):
        found = attribute(model, saes, cell, target, [0, 2])
        for layer in (0, 2):
            code = dense_code(model, cell, saes, layer) * genes[:, None]
            for features in (np.arange(200), [int(code.sum(dim=0).argmax())]):
                removal = -code[:, features] @ saes[layer].W_dec[features]
                up, down = (slow_value(model, cell, saes, target, layer, s * removal) for s in (1e-6, -1e-6))
                expected = np.nansum(found.attribution[layer][features])
                assert (up - down) / 2e-6 == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_in_a_linear_model_attribution_is_removal(model, tokens):
    saes = model.saes()
    for target in (FeatureTarget(2, 2, saes[2]), GeneTarget("GENE0", 4, model)):
        sources = [(layer, f) for layer in target.layers(saes) for f in range(6)]
        conditions = [condition([source]) for source in sources]
        engine = Intervener(model, saes)
        for row in range(3):
            cell = tokens.take([row])
            found = attribute(model, saes, cell, target, target.layers(saes))
            clean = engine.clean(cell, conditions)
            was = clean.states.hidden[target.top]
            at = target.where(cell, was)
            for changed in engine.run(clean, conditions, row, [target.top]):
                x = target.change(changed.states, was, cell, at).numpy()
                guess = np.array([found.attribution[layer][f] for layer, f in (sources[i] for i in changed.rows)])
                np.testing.assert_allclose(x, np.nan_to_num(guess), atol=1e-5, rtol=1e-4)
            if isinstance(target, FeatureTarget):
                drivers = [s for s in sources if abs(np.nan_to_num(found.attribution[s[0]][s[1]])) > 0]
                assert set(drivers) <= {(0, 0), (1, 0)} and drivers


def test_a_target_that_nothing_drives_has_no_attribution(tokens):
    toy = ToyModel(edges=(PlantedEdge(0, 0, 1, 0, 0.8),))
    found = attribute(toy, toy.saes(), tokens.take([0]), FeatureTarget(2, 3, toy.saes()[2]), [0, 1])
    for layer in (0, 1):
        assert np.nanmax(np.abs(found.attribution[layer])) == 0


def test_a_cell_without_the_target_is_left_out(model, tokens):
    gene = next(token for token in range(4, 44) if token not in tokens.ids[0])
    assert attribute(model, model.saes(), tokens.take([0]), GeneTarget("G", gene, model), [0]) is None


def test_a_model_without_gradients_is_told(model, tokens):
    class Closed(ToyModel):
        def run_layers(self, hidden, tokens, start, stop):
            with torch.no_grad():
                yield from super().run_layers(hidden, tokens, start, stop)

    with pytest.raises(ModelError, match="needs gradients"):
        attribute(Closed(), model.saes(), tokens.take([0]), FeatureTarget(2, 2, model.saes()[2]), [0, 1])


def planted_inputs(made, target: str, **changes) -> Inputs:
    """Inputs of a planted model, which has no run."""
    settings = InterventionSettings(
        **{"n_cells": 0, "min_cells": 8, "attribution_target": target, "attribution_slice": 40, **changes}
    )
    inputs = Inputs(SimpleNamespace(edges=pd.DataFrame(columns=ENDS), cells=made.cells), settings, Progress())
    inputs.model, inputs.saes = made.model, made.saes
    return inputs


def test_the_planted_sources_are_found():
    made = planted("mixed", seed=1, n_cells=60, d_model=128)
    edges = made.truth[made.truth["is_edge"] & (made.truth["target_layer"] == 2)]
    kinds = set()
    for feature, of_target in edges.groupby("target_feature"):
        inputs = planted_inputs(made, f"2:{feature}", attribution_candidates=4, attribution_slice=12)
        named = attribution.screened(inputs, FeatureTarget(2, feature, made.saes[2]), [0, 1])
        table = attribution.by_size(attribution.feature_table(named, [0, 1])).set_index(["layer", "feature"])
        sources = {(row.source_layer, row.source_feature): row.sign for row in of_target.itertuples()}
        # every unplanted feature has an effect of a random sign in each cell. Those of the state are active at all
        # positions of the cell, and what 15 such cells leave can be larger than the weakest source
        of_state = [(0, state) for state in range(20, 24) if (0, state) not in sources]
        assert set(table.drop(index=of_state).index[: len(sources)]) == set(sources), of_target["kind"].tolist()
        for key, sign in sources.items():
            assert np.sign(table.loc[key, "attribution"]) == -sign
        kinds |= set(of_target["kind"])
    assert {"direct", "chain", "attention", "gated"} <= kinds
    found = attribution.ask(inputs)
    candidates = found.tables["attribution_candidates"].set_index(["layer", "feature"])
    for key, sign in sources.items():
        assert candidates.loc[key, "confirmed"] and np.sign(candidates.loc[key, "mean_delta"]) == -sign
    chosen = found.tables["attribution_slice"]
    # sources have a dead zone, so the slope is a little too steep
    assert screen_accuracy.pearson(chosen["attribution_here"], chosen["mean_delta"]) > 0.97
    assert set(attribution_figures.draw(found)) == {"attribution", "attribution_candidates"}


def test_the_removal_is_what_plain_loops_say():
    made = planted("direct", seed=2, n_cells=12)
    inputs = planted_inputs(made, "2:3", min_cells=2, attribution_candidates=5, attribution_slice=10)
    found = attribution.ask(inputs).tables
    target = FeatureTarget(2, 3, made.saes[2])
    cells = attribution.screened(inputs, target, [0, 1]).cells
    assert [len(half) for half in cells] == [6, 6] and sorted(cells[0] + cells[1]) == list(range(12))
    for row in pd.concat([found["attribution_candidates"].head(2), found["attribution_slice"].head(3)]).itertuples():
        x = []
        for number in cells[attribution.ABLATED]:
            cell = made.cells.take([number])
            z = dense_code(made.model, cell, made.saes, row.layer)[:, row.feature]
            z = z * torch.from_numpy(cell.gene_mask[0])
            if (z > 0).any():
                removal = -z[:, None] * made.saes[row.layer].W_dec[row.feature]
                before, after = (
                    slow_value(made.model, cell, made.saes, target, row.layer, c) for c in (0 * removal, removal)
                )
                x.append(after - before)
        assert row.n_cells == len(x)
        assert row.mean_delta == pytest.approx(np.mean(x), abs=3e-5, rel=1e-3)
        assert row.sd_delta == pytest.approx(np.std(x, ddof=1), abs=3e-5, rel=1e-3)


def test_without_edges_little_is_confirmed():
    confirmed, p_values = [], []
    for seed in range(4):
        made = planted("null_random", seed=seed, n_cells=30, d_model=128)
        target = FeatureTarget(2, 5, made.saes[2])
        inputs = planted_inputs(made, target.name, attribution_candidates=12, attribution_slice=24)
        found = attribution.ask(inputs)
        confirmed += found.tables["attribution_candidates"]["confirmed"].tolist()
        p_values.append(found.answers[0].p_value)
    assert np.mean(confirmed) <= 0.1
    assert min(p_values) > 0.01


def test_chance_is_chance():
    rng = np.random.default_rng(0)
    layer = np.repeat([0, 1, 2], 12)
    p_recall, p_rank, values = [], [], []
    for _ in range(150):
        # both numbers grow with the layer, and have nothing else to do with each other
        guess, truth = (rng.normal(size=36) * (1 + layer) + 3 * layer for _ in range(2))
        of_rank = screen_accuracy.tested_rank_correlation(guess, truth, layer, rng)._asdict()
        p_rank.append(of_rank["p_value"])
        values.append(of_rank["value"] - of_rank["chance"])
        p_recall.append(screen_accuracy.recall(guess, truth, layer, rng).p_value)
        if len(p_rank) == 1:
            assert of_rank["value"] == pytest.approx(spearmanr(guess, truth).statistic)
            assert of_rank["value"] > 0.3 and of_rank["chance"] > 0.3
    assert kstest(p_rank, "uniform").pvalue > 0.01 and abs(np.mean(values)) < 0.03
    assert np.mean(np.array(p_recall) <= 0.05) <= 0.09


def test_recall_by_hand():
    rng = np.random.default_rng(0)
    layer = np.zeros(20, dtype=int)
    truth = np.arange(20.0)
    truth[0] = -30
    guess = np.where(truth == -30, 9.0, np.where(truth == 18, -8.0, 0.1))
    # the largest two are 0 and 19; named are 0 and 18
    assert screen_accuracy.recall(guess, truth, layer, rng).value == 0.5
    # without any information the mean over all orders: 2 of 20
    assert screen_accuracy.recall(np.zeros(20), truth, layer, rng) == pytest.approx((0.1, 0.1, 1.0))
    np.testing.assert_allclose(screen_accuracy.among_largest(np.array([5, 3, 3, 3, 1]), 2), [1, 1 / 3, 1 / 3, 1 / 3, 0])
    low, high = screen_accuracy.rank_correlation_interval(truth, truth + rng.normal(size=20), rng)
    assert 0.5 < low < high <= 1
    good, strata = np.array([True, False, True, True]), np.array([0, 0, 1, 1])
    assert screen_accuracy.standardised_share(good, strata, np.array([0, 0, 0, 1, 7])) == pytest.approx(
        (3 * 0.5 + 1 + 0.75) / 5
    )


def run_settings(**changes) -> InterventionSettings:
    return InterventionSettings(**{"experiments": ["attribution"], "n_cells": 0, "min_cells": 5, **changes})


def test_a_run(toy_run: cc.OpenRun):
    settings = run_settings(attribution_target="2:2", attribution_candidates=2)
    write_interventions(toy_run, settings, Progress())
    made = cc.open_run(toy_run.folder)
    tables = made.interventions
    candidates = tables.attribution_candidates
    assert set(candidates[["layer", "feature"]].itertuples(index=False, name=None)) == {(0, 0), (1, 0)}
    assert candidates["confirmed"].all()
    np.testing.assert_allclose(candidates["attribution_here"], candidates["mean_delta"], rtol=1e-3)
    assert len(tables.attribution) == 12 and (tables.attribution["target"] == "2:2").all()
    answers = tables.answers.set_index("asked")["value"]
    assert len(answers) == 3 and answers.iloc[0] == 1 and answers.iloc[1] == 1
    before = {p.name: p.read_bytes() for p in made.path("interventions").glob("*.parquet")}
    (made.path("interventions") / "manifest.json").unlink()
    write_interventions(made, settings, Progress())
    assert before == {p.name: p.read_bytes() for p in made.path("interventions").glob("*.parquet")}


def test_targets_of_a_run(toy_run: cc.OpenRun):
    inputs = Inputs(toy_run, run_settings(), Progress())
    found = attribution.ask(inputs)
    counts = toy_run.edges.groupby(["target_layer", "target_feature"]).size()
    layer, feature = counts.idxmax()
    assert set(found.tables["attribution"]["target"]) == {f"{layer}:{feature}"}
    gene = attribution.ask(Inputs(toy_run, run_settings(attribution_target="gene:GENE0"), Progress()))
    assert set(gene.tables["attribution"]["layer"]) == {0, 1, 2}
    here = gene.tables["attribution_slice"]
    np.testing.assert_allclose(here["attribution_here"], here["mean_delta"], rtol=1e-3, atol=1e-5)
    steps = attribution.ask(Inputs(toy_run, run_settings(attribution_steps=3), Progress()))
    for name in ("attribution", "mean_delta"):
        pd.testing.assert_series_equal(
            found.tables["attribution_slice"][name], steps.tables["attribution_slice"][name], atol=1e-5
        )


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"n_cells": 8}, "Take more cells"),
        ({"min_cells": 31}, "Take more cells"),
        ({"attribution_target": "1:0"}, "Only 6 features"),
        ({"attribution_slice": 3, "attribution_candidates": 2}, "set attribution_slice"),
        ({"attribution_candidates": 50}, "smaller attribution_candidates"),
    ],
)
def test_what_is_missing_is_said(toy_run: cc.OpenRun, changes, missing):
    found = attribution.ask(Inputs(toy_run, run_settings(**{"attribution_target": "2:2", **changes}), Progress()))
    assert set(found.tables) == {"attribution", "attribution_candidates", "attribution_slice"}
    unanswered = [answer.note for answer in found.answers if not np.isfinite(answer.value)]
    assert unanswered and all(missing in note for note in unanswered)
    attribution_figures.draw(found)


def test_a_run_without_edges(toy_run: cc.OpenRun):
    toy_run.edges = toy_run.edges.iloc[:0]
    found = attribution.ask(Inputs(toy_run, run_settings(), Progress()))
    assert all("attribution_target" in answer.note for answer in found.answers)
    attribution_figures.draw(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attribution_target": "CD3D"}, "gene:SYMBOL"),
        ({"attribution_target": "gene:"}, "gene:SYMBOL"),
        ({"attribution_target": "gene:NOSUCH"}, "knows no gene"),
        ({"attribution_target": "7:0"}, "no autoencoder"),
        ({"attribution_target": "2:99"}, "features of layer 2 are 0 to 5"),
        ({"attribution_target": "0:1"}, "no layer below 0"),
        ({"attribution_steps": 0}, "attribution_steps"),
        ({"attribution_candidates": 0}, "attribution_candidates"),
    ],
)
def test_mistakes_are_told(toy_run: cc.OpenRun, changes, message):
    with pytest.raises(CellCircuitsError, match=message):
        attribution.ask(Inputs(toy_run, run_settings(**changes), Progress()))


def test_a_model_without_a_head_has_no_gene_targets():
    with pytest.raises(CellCircuitsError, match="no output head"):
        attribution.ask(planted_inputs(planted("direct", n_cells=2), "gene:GENE1"))
