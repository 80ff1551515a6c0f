"""Do edges repeat co-activation? AUROC and rank correlation by loops, null PMI, PMI that follows the edges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import kstest

from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.figures.coactivation import draw
from cellcircuits.findings.coactivation import ask, coded_dependencies, published_overlap, rate_bins
from cellcircuits.settings import FindingsSettings
from tests.made_up_evidence import filled, made_up_evidence

SETTINGS = FindingsSettings(permutations=100)


def with_pmi(evidence: Evidence, seed: int, effect: float = 0.0, listed: float = 0.8, ties: bool = False) -> Evidence:
    """PMI of random pairs of traced sources and targets; that of edges is higher by `effect` (x |snr|)."""
    rng, features = np.random.default_rng(seed), evidence.features
    layer = features["layer"].to_numpy()
    pairs = [(s, t) for s in evidence.source_rows for t in np.flatnonzero(layer > layer[s])]
    source, target = np.array(pairs).T[:, rng.random(len(pairs)) < listed]
    snr = {(e["source"], e["target"]): abs(e["snr"]) for e in evidence.edges.to_dicts()}
    more = np.array([snr.get(pair, 0.0) for pair in zip(source.tolist(), target.tolist(), strict=True)])
    # rare targets have a larger PMI, whether they have an edge or not
    pmi = rng.normal(size=len(source)) - np.log(features["firing_rate"].to_numpy()[target]) + effect * more
    columns = {
        f"{end}_{name}": features[name].to_numpy()[rows]
        for end, rows in (("source", source), ("target", target))
        for name in ("layer", "feature")
    }
    table = filled("dependencies", len(source), pmi=np.round(pmi) if ties else pmi, **columns)
    return Evidence(evidence.edges, features, evidence.tables | {"dependencies": table})


def slow_statistics(evidence: Evidence) -> dict[tuple[int, int], tuple[float, int, float]]:
    """{pair of layers: (AUROC, compared pairs, rank correlation)} by loops."""
    frame = coded_dependencies(evidence).to_dicts()
    pmi = {(r["source"], r["target"]): r["pmi"] for r in frame}
    snr = {(e["source"], e["target"]): abs(e["snr"]) for e in evidence.edges.to_dicts()}
    layer, rate = (evidence.features[name].to_numpy() for name in ("layer", "firing_rate"))
    found = {}
    for s_layer in range(3):
        for t_layer in range(s_layer + 1, 4):
            here = np.flatnonzero((layer == t_layer) & (rate > 0))
            order = sorted(here, key=lambda t: (rate[t], t))
            bins = {t: place * 10 // len(here) for place, t in enumerate(order)}
            wins, n, ranks = 0.0, 0, []
            for source in [s for s in evidence.source_rows if layer[s] == s_layer]:
                for b in range(10):
                    mine = [t for t in here if bins[t] == b]
                    edges = [t for t in mine if (source, t) in snr]
                    for edge in edges:
                        for other in (t for t in mine if t not in edges):
                            x, y = (pmi.get((source, t), -np.inf) for t in (edge, other))
                            wins, n = wins + (0.5 if x == y else float(x > y)), n + 1
                    known = pd.DataFrame([(snr[source, t], pmi[source, t]) for t in edges if (source, t) in pmi])
                    if len(known):
                        ranks.append((known.rank() - (len(known) + 1) / 2) / len(known))
            both = pd.concat(ranks)
            found[s_layer, t_layer] = (
                wins / n,
                n,
                (both[0] @ both[1]) / np.sqrt((both[0] @ both[0]) * (both[1] @ both[1])),
            )
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_statistics_equal_loops(ties):
    evidence = with_pmi(made_up_evidence(edges_per_source=40), 0, effect=0.3, ties=ties)
    evidence.features.loc[70:80, "firing_rate"] = 0.0
    table, slow = ask(evidence, SETTINGS).tables["coactivation"], slow_statistics(evidence)
    assert len(table) == len(slow) == 6
    for row in table.to_dict("records"):
        auroc, n, rho = slow[row["source_layer"], row["target_layer"]]
        assert row["auroc"] == pytest.approx(auroc) and row["n_pairs"] == n
        assert row["spearman"] == pytest.approx(rho)


def test_tenths_of_firing_rates():
    rate = np.array([0.0, 0.3, 0.1, 0.2, 0.0, 0.2])
    assert rate_bins(rate).tolist() == [-1, 7, 0, 2, -1, 5]
    assert (rate_bins(np.zeros(3)) == -1).all()
    assert np.bincount(rate_bins(np.random.default_rng(0).random(1000))).tolist() == [100] * 10


def test_p_is_uniform_where_pmi_only_knows_frequency():
    answers = [ask(with_pmi(made_up_evidence(seed), seed), SETTINGS).answers for seed in range(25)]
    for place in (0, 1):
        assert kstest([a[place].p_value for a in answers], "uniform").pvalue > 0.01
    assert np.mean([a[0].value for a in answers]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([a[0].low < 0.5 < a[0].high for a in answers]) > 0.8


def test_edges_that_follow_pmi_are_found():
    found = ask(with_pmi(made_up_evidence(), 0, effect=1.0), SETTINGS)
    auroc, rank, overlap = found.answers
    assert auroc.value > auroc.low > 0.6 and auroc.p_value < 0.001
    assert rank.value > rank.low > 0.2 and rank.p_value < 0.001
    assert np.isnan(overlap.p_value) and overlap.published == overlap.value
    assert (
        draw(found)["coactivation"].texts[0].get_text() == "Edges join features that fire together more than others do"
    )


def test_the_published_overlap_equals_loops():
    evidence = with_pmi(made_up_evidence(n_features=400, edges_per_source=200), 0, listed=0.5)
    frame, edges = coded_dependencies(evidence).to_dicts(), evidence.edges.to_dicts()
    for row in published_overlap(evidence, coded_dependencies(evidence)).to_dict("records"):
        pair = row["source_layer"], row["target_layer"]
        targets = []
        for rows, strength in ((frame, lambda r: -r["pmi"]), (edges, lambda r: -abs(r["snr"]))):
            mine: dict[int, list] = {}
            for r in rows:
                if (r["source_layer"], r["target_layer"]) == pair:
                    mine.setdefault(r["source"], []).append(r)
            targets.append({r["target"] for s in mine.values() for r in sorted(s, key=strength)[:50]})
        assert row["published_targets"] == len(targets[1])
        assert row["published_overlap"] == pytest.approx(len(targets[0] & targets[1]) / len(targets[1]))
        assert row["published_chance"] == pytest.approx(len(targets[0]) / 400)


def test_the_order_of_the_table_does_not_matter():
    evidence = with_pmi(made_up_evidence(), 0)
    mixed = evidence.tables["dependencies"].sample(frac=1.0, random_state=0, ignore_index=True)
    other = Evidence(evidence.edges, evidence.features, evidence.tables | {"dependencies": mixed})
    first, second = ask(evidence, SETTINGS), ask(other, SETTINGS)
    assert first.answers == second.answers
    assert first.tables["coactivation"].equals(second.tables["coactivation"])


def test_without_the_table():
    found = ask(made_up_evidence(), SETTINGS)
    assert all(np.isnan(answer.value) and "cellcircuits structure" in answer.note for answer in found.answers)
    assert found.tables["coactivation"].empty and draw(found)


@pytest.mark.parametrize("n_edges", [0, 1])
def test_no_edge_and_one_edge(n_edges):
    evidence = with_pmi(made_up_evidence(), 0)
    few = make_evidence(evidence.edges.head(n_edges).drop("source", "target"), evidence.features, **evidence.tables)
    found = ask(few, SETTINGS)
    assert len(found.tables["coactivation"]) == n_edges
    assert np.isfinite(found.answers[0].value) == bool(n_edges) and np.isnan(found.answers[1].value)
    assert draw(found)


def test_targets_with_an_edge_from_everywhere_cannot_be_compared():
    evidence = with_pmi(made_up_evidence(n_layers=2, sources_per_layer=5, edges_per_source=60), 0)
    assert evidence.edges.select(pl.len()).item() == 300
    assert np.isnan(ask(evidence, SETTINGS).answers[0].value)
