"""How features hang together: against slow, obvious versions, and calibrated where there is nothing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import hypergeom, poisson

import cellcircuits as cc
from cellcircuits.commands import structure as structure_command
from cellcircuits.errors import DataError, RunError, SettingsError
from cellcircuits.settings import StructureSettings
from cellcircuits.structure import modules as module_file
from cellcircuits.structure.alignment import layer_alignment, singular_axes
from cellcircuits.structure.counting import StructureSums, count_structure
from cellcircuits.structure.dependencies import source_dependencies
from cellcircuits.structure.modules import (
    PmiGraph,
    expected_pairs,
    layer_modules,
    module_labels,
    partition,
    pmi_graph,
    rewired_modularity,
)
from cellcircuits.structure.persistence import layer_persistence
from cellcircuits.structure.perturbation import perturbation_response
from cellcircuits.structure.unannotated import layer_unannotated, nearest_lists
from cellcircuits.tables import STRUCTURE

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = StructureSettings(
    min_together=5, min_pmi=0.3, null_draws=300, null_features=4, svd_axes=3, svd_positions=200
)


# ------------------------------------------------------------------------------------------------ one pass


@pytest.fixture(scope="module")
def counted():
    """Sums of the toy model and its dense codes by layer, (position, feature)."""
    from .conftest import make_toy_cells

    model = cc.load_model("toy")
    tokens, saes = model.tokenize(make_toy_cells()), model.saes()
    sources = {0: np.array([1, 4]), 1: np.array([0])}
    sums = count_structure(model, tokens, saes, 7, SETTINGS, sources)
    hidden = dict(model.run_layers(model.embed(tokens), tokens, 0, 3))
    dense = {k: saes[k].encode(hidden[k][tokens.gene_mask]).dense(6).numpy().astype(float) for k in saes}
    states = {k: hidden[k][tokens.gene_mask].numpy() for k in saes}
    return sums, dense, states, sources, tokens


def test_one_pass_counts_what_dense_codes_say(counted):
    sums, dense, _, sources, tokens = counted
    assert sums.n_positions == len(dense[0])
    for layer, codes in dense.items():
        fires = codes > 0
        np.testing.assert_array_equal(sums.firings[layer], fires.sum(axis=0))
        for i, j in combinations(range(6), 2):
            assert sums.together[layer][i, j] == (fires[:, i] & fires[:, j]).sum()
        for token in np.unique(tokens.ids[tokens.gene_mask]):
            here = tokens.ids[tokens.gene_mask] == token
            assert sums.per_token[token] == here.sum()
            np.testing.assert_array_equal(sums.by_token[layer][[token]].toarray()[0], fires[here].sum(axis=0))
    for (first, second), products in sums.products.items():
        assert second == first + 1
        rows = sums.alive(first)
        found = sums.correlation((first, second), products[rows], rows)
        for place, i in enumerate(rows):
            for j in range(6):
                expected = np.corrcoef(dense[first][:, i], dense[second][:, j])[0, 1] if sums.firings[second][j] else 0
                assert found[place, j] == pytest.approx(expected, abs=1e-4)
    assert set(sums.with_sources) == {(0, 1), (0, 2), (1, 2)}
    for (source, target), together in sums.with_sources.items():
        for place, i in enumerate(sources[source]):
            both = (dense[source][:, [i]] > 0) & (dense[target] > 0)
            np.testing.assert_array_equal(together[place], both.sum(axis=0))


def test_states_are_positions_of_the_layer(counted):
    sums, _, states, *_ = counted
    for layer, sample in sums.states.items():
        assert 200 <= len(sample) < 220
        assert {row.tobytes() for row in sample} <= {row.tobytes() for row in states[layer]}


# ------------------------------------------------------------------------------------------------ modules


def planted(n_positions=4000, n_modules=3, size=6, alone=6, seed=0):
    """Features of a module fire together at a tenth of the positions; the last ones on their own."""
    rng = np.random.default_rng(seed)
    fires = rng.random((n_positions, n_modules * size + alone)) < 0.02
    for module in range(n_modules):
        on = rng.random(n_positions) < 0.1
        columns = slice(module * size, (module + 1) * size)
        fires[:, columns] |= on[:, None] & (rng.random((n_positions, size)) < 0.8)
    return fires.astype(int)


def test_the_graph_is_a_loop_over_pairs():
    fires = planted()
    settings = StructureSettings(min_together=40, min_pmi=1.0)
    graph = pmi_graph(fires.T @ fires, fires.sum(axis=0), len(fires), settings)
    expected = {}
    for i, j in combinations(range(fires.shape[1]), 2):
        n = (fires[:, i] & fires[:, j]).sum()
        pmi = np.log2(n * len(fires) / (fires[:, i].sum() * fires[:, j].sum())) if n else -np.inf
        if n >= 40 and pmi >= 1:
            expected[i, j] = pmi
    assert {*zip(graph.first, graph.second, strict=True)} == set(expected) and len(expected) == 45
    np.testing.assert_allclose(graph.pmi, [expected[pair] for pair in zip(graph.first, graph.second, strict=True)])


def sums_of(fires: np.ndarray) -> StructureSums:
    """As counted where all positions are of one gene."""
    genes = sp.csr_matrix(fires.sum(axis=0, keepdims=True), dtype=float)
    found = StructureSums(len(fires), {0: fires.sum(axis=0)}, together={0: fires.T @ fires}, by_token={0: genes})
    found.per_token = np.array([len(fires)])
    return found


def test_planted_modules_are_found_and_beyond_rewired_graphs():
    settings = StructureSettings(min_together=40, min_pmi=1.0)
    modules, rates = layer_modules(0, sums_of(planted()), settings)
    found = modules["module"].to_numpy()
    groups = [set(found[6 * m : 6 * m + 6]) for m in range(3)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 3
    assert (found[18:] == -1).all() and (modules["n_partners"][:18] == 5).all()
    (row,) = rates.to_dict("records")
    assert row["n_modules"] == 3 and row["covered_share"] == pytest.approx(18 / 24)
    assert row["modularity"] == pytest.approx(2 / 3, abs=0.02) and row["modularity"] > row["null_modularity"] + 0.3
    assert row["null_pairs_by_gene"] < 1e-4
    assert row["null_pairs"] < 1e-4
    again, _ = layer_modules(0, sums_of(planted()), settings)
    pd.testing.assert_frame_equal(again, modules)


def test_independent_features_give_as_many_pairs_as_expected():
    rng = np.random.default_rng(1)
    fires = (rng.random((2000, 150)) < rng.uniform(0.02, 0.1, 150)).astype(int)
    settings = StructureSettings(min_together=8, min_pmi=0.5)
    firings, n = fires.sum(axis=0), len(fires)
    expected = 0.0
    for i, j in combinations(range(150), 2):
        rate = firings[i] * firings[j] / n
        least = max(8, int(np.ceil(2**0.5 * rate)))
        expected += poisson.sf(least - 1, rate)
    assert expected_pairs(firings, n, settings) == pytest.approx(expected, rel=1e-6)
    found = len(pmi_graph(fires.T @ fires, firings, n, settings).pmi)
    assert abs(found - expected) < 4 * np.sqrt(expected) and expected > 100


def test_features_that_share_genes_only_give_as_many_pairs_as_expected_by_gene():
    rng = np.random.default_rng(4)
    gene = rng.integers(40, size=4000)
    fires = (rng.random((4000, 60)) < 0.01 + 0.5 * (rng.random((40, 60)) < 0.1)[gene]).astype(int)
    settings = StructureSettings(min_together=30, min_pmi=1.0)
    firings, n = fires.sum(axis=0), len(fires)
    by_gene = np.array([fires[gene == g].sum(axis=0) for g in range(40)])
    per_gene = np.bincount(gene)
    expected = 0.0
    for i, j in combinations(range(60), 2):
        least = max(30, int(np.ceil(2 * firings[i] * firings[j] / n)))
        expected += poisson.sf(least - 1, sum(by_gene[g, i] * by_gene[g, j] / per_gene[g] for g in range(40)))
    assert expected_pairs(firings, n, settings, (sp.csr_matrix(by_gene), per_gene)) == pytest.approx(expected, rel=1e-4)
    found = len(pmi_graph(fires.T @ fires, firings, n, settings).pmi)
    assert abs(found - expected) < 0.1 * expected and expected > 100
    assert expected_pairs(firings, n, settings) < 1


def test_rewired_graphs_of_a_random_graph_are_as_modular():
    rng = np.random.default_rng(2)
    first, second = np.nonzero(np.triu(rng.random((60, 60)) < 0.3, k=1))
    graph = PmiGraph(first, second, rng.uniform(1, 3, len(first)))
    own, null = partition(graph, 60, SETTINGS)[1], rewired_modularity(graph, SETTINGS)
    assert abs(own - null) < 0.03


def test_small_modules_and_empty_layers():
    graph = PmiGraph(np.array([0, 2, 3]), np.array([1, 3, 4]), np.ones(3))
    module, _ = partition(graph, 6, StructureSettings(min_module=3))
    assert list(module) == [-1, -1, 0, 0, 0, -1]
    modules, rates = layer_modules(0, sums_of(np.zeros((10, 4), dtype=int)), SETTINGS)
    assert (modules["module"] == -1).all() and rates["n_modules"][0] == 0 and np.isnan(rates["modularity"][0])


def test_without_leidenalg_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "leidenalg", None)
    with pytest.raises(SettingsError, match="structure"):
        module_file._packages()


def test_labels_of_modules():
    module = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, -1]
    labels = ["a", "a", "b", "", "b", "b", "b", "", "", "", "a"]
    modules = pd.DataFrame({"layer": 3, "feature": range(11), "module": module})
    features = pd.DataFrame({"feature": range(11), "label": labels})
    genes = pd.DataFrame({"feature": [0, 1, 1, 2, 4], "symbol": ["X", "X", "Y", "A", "Z"]})
    table = module_labels(modules, features, genes).set_index("module")
    assert list(table["label"]) == ["a", "b", ""] and list(table["n_label"]) == [2, 3, 0]
    assert list(table["top_genes"]) == ["X;A;Y", "Z", ""]
    assert list(table["n_annotated"]) == [3, 3, 0]
    # 6 labelled features are in modules, 2 with "a", all of them among the 3 of module 0
    assert table["p_value"][0] == pytest.approx(hypergeom.sf(1, 6, 2, 3))
    assert table["p_value"][1] == pytest.approx(hypergeom.sf(2, 6, 4, 3))
    assert np.isnan(table["p_value"][2]) and table["q_value"][0] == pytest.approx(table["p_value"][0] * 6 / 2)


# ------------------------------------------------------------------------------------------------ persistence, axes


def test_persistence_is_a_loop_over_features(counted):
    sums, dense, *_ = counted
    rng = np.random.default_rng(0)
    decoders = {layer: rng.standard_normal((6, 18)) for layer in range(3)}
    table, rates = layer_persistence((0, 1), decoders, sums, SETTINGS)
    alive = [[f for f in range(6) if (dense[k][:, f] > 0).any()] for k in (0, 1)]
    assert list(table["feature"]) == alive[0]
    for row in table.to_dict("records"):
        f = row["feature"]
        cosine, correlation = {}, {}
        for g in alive[1]:
            a, b = decoders[0][f], decoders[1][g]
            cosine[g] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            correlation[g] = np.corrcoef(dense[0][:, f], dense[1][:, g])[0, 1]
        assert row["cosine_feature"] == max(cosine, key=cosine.get)
        assert row["correlated_feature"] == max(correlation, key=correlation.get)
        assert row["cosine"] == pytest.approx(max(cosine.values()))
        assert row["correlation"] == pytest.approx(max(correlation.values()), abs=1e-4)
        assert row["correlation_there"] == pytest.approx(correlation[row["cosine_feature"]], abs=1e-4)
        assert row["cosine_there"] == pytest.approx(cosine[row["correlated_feature"]])
        back = [np.corrcoef(dense[0][:, i], dense[1][:, row["correlated_feature"]])[0, 1] for i in alive[0]]
        assert row["mutual"] == (alive[0][int(np.argmax(back))] == f)
    assert rates["chance_same"][0] == 1 / len(alive[1])


def independent_sums(n=3000, n_features=40, seed=0):
    """Two layers with nothing in common, counted as `count_structure` does."""
    rng = np.random.default_rng(seed)
    codes = [rng.random((n, n_features)) * (rng.random((n, n_features)) < 0.2) for _ in range(2)]
    sums = StructureSums(n)
    for layer, code in enumerate(codes):
        sums.firings[layer], sums.totals[layer] = (code > 0).sum(axis=0), code.sum(axis=0)
        sums.squares[layer], sums.sampled[layer] = (code**2).sum(axis=0), np.arange(n_features)
    sums.products[0, 1] = codes[0].T @ codes[1]
    sums.permuted[0, 1] = codes[0][rng.permutation(n)].T @ codes[1]
    return sums


def test_persistence_of_unrelated_layers_is_that_of_its_nulls():
    rng = np.random.default_rng(3)
    decoders = {layer: rng.standard_normal((40, 30)) for layer in range(2)}
    _, rates = layer_persistence((0, 1), decoders, independent_sums(), StructureSettings(null_draws=2000))
    (row,) = rates.to_dict("records")
    assert row["median_correlation"] == pytest.approx(row["null_correlation"], rel=0.15)
    assert row["median_cosine"] == pytest.approx(row["null_cosine"], rel=0.1)
    assert row["matched_share"] == pytest.approx(row["null_matched_share"], abs=0.05)


def test_persistence_without_features_is_empty():
    sums = independent_sums()
    sums.firings[0][:] = 0
    table, rates = layer_persistence((0, 1), {k: np.eye(40) for k in range(2)}, sums, SETTINGS)
    assert table.empty and rates["n_features"][0] == 0 and np.isnan(rates["median_cosine"][0])


def test_singular_axes_are_those_of_numpy():
    rng = np.random.default_rng(0)
    states = (rng.standard_normal((400, 12)) * np.arange(12, 0, -1) + 5).astype(np.float32)
    axes, shares = singular_axes(states, 4)
    _, values, vectors = np.linalg.svd(states - states.mean(axis=0))
    assert np.abs((axes * vectors[:4]).sum(axis=1)) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(shares, values[:4] ** 2 / (values**2).sum(), rtol=1e-4)


def test_alignment_of_axes_and_of_random_directions():
    rng = np.random.default_rng(1)
    states = (rng.standard_normal((3000, 50)) * np.where(np.arange(50) < 5, 4.0, 1.0)).astype(np.float32)
    sums = StructureSums(3000, {0: np.ones(2000, dtype=int)}, states={0: states})
    settings = StructureSettings(svd_axes=5, null_draws=20000)
    decoder = rng.standard_normal((2000, 50))
    table, rates = layer_alignment(0, decoder, sums, settings)
    (row,) = rates.to_dict("records")
    # random directions are as aligned as the null says
    assert row["mean_captured"] == pytest.approx(row["null_captured"], abs=0.005) and row["null_captured"] == 0.1
    assert row["aligned_share"] == pytest.approx(row["null_aligned_share"], abs=0.003)
    axes, _ = singular_axes(states, 5)
    for f in range(20):
        cosines = [abs(decoder[f] @ axis) / np.linalg.norm(decoder[f]) for axis in axes]
        assert table["axis"][f] == int(np.argmax(cosines)) and table["cosine"][f] == pytest.approx(max(cosines))
        assert table["captured"][f] == pytest.approx(sum(c**2 for c in cosines))
    # directions drawn from the activations are as aligned as that null says
    _, rates = layer_alignment(0, rng.standard_normal((2000, 3000)) @ states, sums, settings)
    assert rates["mean_captured"][0] == pytest.approx(rates["drawn_captured"][0], abs=0.01)
    assert rates["aligned_share"][0] == pytest.approx(rates["drawn_aligned_share"][0], abs=0.03)


# ------------------------------------------------------------------------------------------------ dependencies


def test_dependencies_are_a_loop_over_pairs(counted):
    sums, dense, _, sources, _ = counted
    table = source_dependencies((0, 2), sources[0], sums)
    expected = {}
    for i in sources[0]:
        for j in range(6):
            a, b = dense[0][:, i] > 0, dense[2][:, j] > 0
            if (a & b).any():
                expected[i, j] = np.log2((a & b).mean() / (a.mean() * b.mean()))
    found = table.set_index(["source_feature", "target_feature"])["pmi"].to_dict()
    assert set(found) == set(expected) and len(found) > 3
    assert all(found[pair] == pytest.approx(pmi) for pair, pmi in expected.items())


# ------------------------------------------------------------------------------------------------ unannotated features


def test_nearest_lists_are_a_loop_over_sets():
    rng = np.random.default_rng(0)
    tables = [(rng.random((n, 30)) < 0.15).astype(float) for n in (20, 15)]
    tables[0][3] = 0
    lists, others = map(sp.csr_matrix, tables)
    place, jaccard = nearest_lists(lists, others)
    for i in range(20):
        mine = set(lists[i].indices)
        scores = [len(mine & set(o.indices)) / max(len(mine | set(o.indices)), 1) for o in others]
        assert jaccard[i] == pytest.approx(max(scores))
        assert place[i] == (int(np.argmax(scores)) if max(scores) else -1)
    assert place[3] == -1


def test_features_without_a_label_are_described():
    features = pd.DataFrame({"feature": range(5), "label": ["", "immune", "", "cycle", ""]})
    features = features.assign(firing_rate=0.1, top_genes="A;B", n_firings=[9, 9, 9, 9, 0])
    genes = {0: "ABC", 1: "ABD", 2: "XYZ", 3: "KLM"}
    feature_genes = pd.DataFrame(
        [(f, s) for f, symbols in genes.items() for s in symbols], columns=["feature", "symbol"]
    )
    cells = pd.DataFrame(
        {
            "feature": [0, 0, 2, 1],
            "column": "cell_type",
            "label": ["B", "T", "B", "T"],
            "auroc": [0.9, 0.05, 0.5, 0.8],
            "q_value": [0.0, 0.0, 0.7, 0.01],
        }
    )
    modules = pd.DataFrame({"feature": range(5), "module": [0, 0, -1, 0, -1]})
    labels = pd.DataFrame({"module": [0], "label": ["immune"]})
    table, rates = layer_unannotated(2, features, feature_genes, cells, modules, labels, SETTINGS)
    assert list(table["feature"]) == [0, 2] and list(table["neighbour"]) == [1, -1]
    assert list(table["neighbour_label"]) == ["immune", ""] and list(table["jaccard"]) == [0.5, 0]
    assert list(table["module_label"]) == ["immune", ""] and list(table["cell_label"]) == ["T", "B"]
    (row,) = rates.to_dict("records")
    assert (row["n_features"], row["in_module_share"], row["annotated_in_module_share"]) == (2, 0.5, 1.0)
    assert (row["neighbour_share"], row["cell_label_share"], row["annotated_cell_label_share"]) == (0.5, 0.5, 0.5)


def test_random_lists_have_as_many_neighbours_as_the_null_says():
    rng = np.random.default_rng(5)
    rows = [(f, g) for f in range(600) for g in rng.choice(60, 10, replace=False)]
    genes = pd.DataFrame(rows, columns=["feature", "symbol"]).astype({"symbol": str})
    features = pd.DataFrame({"feature": range(600), "label": np.where(np.arange(600) < 20, "x", "")})
    features = features.assign(firing_rate=0.1, top_genes="", n_firings=5)
    cells = pd.DataFrame(columns=["feature", "column", "label", "auroc", "q_value"]).astype({"auroc": float})
    modules, labels = pd.DataFrame({"feature": [0], "module": [-1]}), pd.DataFrame({"module": [0], "label": [""]})
    settings = StructureSettings(min_jaccard=0.25, null_draws=3000)
    _, rates = layer_unannotated(0, features, genes, cells, modules, labels, settings)
    assert rates["neighbour_share"][0] == pytest.approx(rates["null_neighbour_share"][0], abs=0.06)
    assert 0.2 < rates["null_neighbour_share"][0] < 0.9


# ------------------------------------------------------------------------------------------------ perturbations


def screen(effect: float, seed: int = 0):
    """Scores of 400 cells x 30 features; feature 0 falls in cells of GENE1."""
    rng = np.random.default_rng(seed)
    labels = pd.Series(rng.choice(["control", "GENE1", "GENE2", "few"], 400, p=[0.5, 0.28, 0.21, 0.01]), dtype=object)
    labels[7] = None
    scores = rng.random((400, 30)) * (rng.random((400, 30)) < 0.6)
    scores[labels == "GENE1", 0] *= 1 - effect
    genes = pd.DataFrame({"feature": [0, 0, 5], "symbol": ["gene1", "B", "GENE2"]})
    return scores, labels, perturbation_response(4, sp.csr_matrix(scores), labels, "control", genes)


def test_perturbation_responses_are_a_loop_over_features():
    from scipy.stats import mannwhitneyu

    scores, labels, (table, rates) = screen(0.7)
    assert len(table) == 60 and set(table["perturbation"]) == {"GENE1", "GENE2"}
    for row in table.to_dict("records"):
        inside, control = (
            scores[(labels == name).to_numpy(), row["feature"]] for name in (row["perturbation"], "control")
        )
        assert row["mean_difference"] == pytest.approx(inside.mean() - control.mean())
        assert row["p_value"] == pytest.approx(mannwhitneyu(inside, control, method="asymptotic").pvalue)
        assert row["target_listed"] == ((row["feature"], row["perturbation"]) in [(0, "GENE1"), (5, "GENE2")])
    called = table[table["q_value"] <= 0.05]
    assert list(called["feature"]) == [0] and (called["mean_difference"] < 0).all()
    (row,) = rates.to_dict("records")
    assert row["called_share"] == pytest.approx(1 / 60) and row["listed_called_share"] == 0.5
    assert row["null_called_share"] == 0


def test_nothing_is_called_where_nothing_was_perturbed():
    p = np.concatenate([screen(0.0, seed)[2][0]["p_value"] for seed in range(20)])
    assert 0.03 < (p <= 0.05).mean() < 0.07
    assert np.mean([(screen(0.0, seed)[2][0]["q_value"] <= 0.05).any() for seed in range(20)]) <= 0.2


def test_a_screen_without_control_or_cells_is_an_error():
    scores, labels, _ = screen(0.0)
    genes = pd.DataFrame({"feature": [0], "symbol": ["B"]})
    with pytest.raises(DataError, match="control label 'NT'"):
        perturbation_response(0, sp.csr_matrix(scores), labels, "NT", genes)
    few = labels.where(labels.isin(["control", "few"]))
    with pytest.raises(DataError, match="No perturbation has 10 cells"):
        perturbation_response(0, sp.csr_matrix(scores), few, "control", genes)


# ------------------------------------------------------------------------------------------------ a run


def test_the_command_writes_every_table(toy_run, toy_cells, tmp_path, capsys):
    with pytest.raises(RunError, match="no 'structure' yet"):
        toy_run.structure.modules  # noqa: B018
    toy_cells.obs["perturbation"] = np.where(np.arange(60) < 30, "control", "GENE3")
    toy_cells.write_h5ad(tmp_path / "screen.h5ad")
    settings = StructureSettings(min_together=5, min_pmi=0.1, perturbations=str(tmp_path / "screen.h5ad"), max_cells=50)
    structure_command(toy_run.folder, settings)
    assert "by chance" in capsys.readouterr().out
    run = cc.open_run(toy_run.folder)
    assert run.status("structure").state == "done"
    assert {name: len(getattr(run.structure, name)) > 0 for name in STRUCTURE} == dict.fromkeys(STRUCTURE, True)
    assert run.manifest("structure")["record"]["n_cells"] == 50
    sources = run.structure.dependencies[["source_layer", "source_feature"]].drop_duplicates()
    assert {*map(tuple, sources.to_numpy())} <= {*map(tuple, run.sources[["layer", "feature"]].to_numpy())}
    assert run.structure.dependency_overlap["n_edges"].sum() == len(run.edges)
    with pytest.raises(AttributeError, match="no table 'hubs'"):
        run.structure.hubs  # noqa: B018


def test_a_wrong_column_of_the_screen_is_an_error_before_anything_is_counted(toy_run, toy_cells, tmp_path):
    toy_cells.write_h5ad(tmp_path / "screen.h5ad")
    with pytest.raises(DataError, match="no obs column 'perturbation'"):
        structure_command(toy_run.folder, StructureSettings(perturbations=str(tmp_path / "screen.h5ad")))
    assert cc.open_run(toy_run.folder).status("structure").state == "missing"
