"""Agreement of runs on pairs of gene programs: against loops and exact enumeration, under the null, and planted."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations
from math import isnan

import numpy as np
import pytest

from cellcircuits.answers import Found
from cellcircuits.evidence import Evidence, make_evidence
from cellcircuits.findings.consensus import ask
from cellcircuits.measures.paired_effects import rank_correlation, sign_agreement
from cellcircuits.measures.program_overlap import affordable, published_overlap, shared_pairs, shuffled_overlap
from cellcircuits.measures.rewiring import rewired
from cellcircuits.measures.run_programs import ProgramPairs, program_pairs
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import TABLES
from tests.made_up_evidence import filled, made_up_evidence
from tests.several_runs import program_run, random_pairs

FEW = FindingsSettings(permutations=20)


def by_loops(run: Evidence) -> dict[tuple[str, str], list[float]]:
    """{(source label, target label): snr of the edges}."""
    label = dict(
        zip(zip(run.features["layer"], run.features["feature"], strict=True), run.features["label"], strict=True)
    )
    found: dict[tuple[str, str], list[float]] = {}
    for edge in run.edges.to_dicts():
        pair = tuple(label[edge[f"{end}_layer"], edge[f"{end}_feature"]] for end in ("source", "target"))
        if all(pair):
            found.setdefault(pair, []).append(edge["snr"])
    return found


def labels_of_sources(run: Evidence) -> set[str]:
    ablated = set(zip(run.table("sources")["layer"], run.table("sources")["feature"], strict=True))
    return {row["label"] for row in run.features.to_dict("records") if (row["layer"], row["feature"]) in ablated} - {""}


def runs_of(n: int, **sizes: int) -> dict[str, Evidence]:
    sizes = {"n_labels": 40, "n_features": 30, "sources_per_layer": 5, "edges_per_source": 8} | sizes
    return {f"run {i}": made_up_evidence(i, **sizes) for i in range(n)}


# ------------------------------------------------------------------------------------------------ against loops


def test_program_pairs_equal_loops():
    runs = runs_of(2)
    names, found = program_pairs(runs)
    for name, run in runs.items():
        pairs, expected = found[name], by_loops(run)
        mine = {(names[s], names[t]): i for i, (s, t) in enumerate(zip(pairs.source, pairs.target, strict=True))}
        assert set(mine) == set(expected) and len(pairs) == len(expected)
        for pair, i in mine.items():
            assert pairs.n_edges[i] == len(expected[pair])
            assert pairs.mean_snr[i] == pytest.approx(np.mean(expected[pair]), rel=1e-5)
        assert set(names[pairs.can_be_source]) == labels_of_sources(run)
        assert set(names[pairs.known]) == set(run.features["label"]) - {""}


def test_tables_equal_loops():
    runs = runs_of(3)
    found = ask(runs, FEW)
    pairs = {name: {p: v for p, v in by_loops(run).items() if p[0] != p[1]} for name, run in runs.items()}
    # every label can be a target here: features of the lowest layer have the same labels as the others
    sources = {name: labels_of_sources(run) for name, run in runs.items()}
    targets = {name: set(run.features["label"][run.features["layer"] > 0]) - {""} for name, run in runs.items()}
    table = found.tables["consensus_overlap"].set_index(["first", "second"])
    for a, b in combinations(runs, 2):
        inside = [
            {p for p in pairs[n] if p[0] in sources[a] & sources[b] and p[1] in targets[a] & targets[b]} for n in (a, b)
        ]
        row = table.loc[(a, b)]
        shared = inside[0] & inside[1]
        assert (row["n_first"], row["n_second"], row["n_shared"]) == (len(inside[0]), len(inside[1]), len(shared))
        same = [np.mean(pairs[a][p]) * np.mean(pairs[b][p]) > 0 for p in shared]
        assert row["n_same_sign"] == sum(same) and row["share_same_sign"] == pytest.approx(np.mean(same))
        p, q = (np.mean([np.mean(pairs[n][pair]) < 0 for pair in shared]) for n in (a, b))
        assert row["expected_same_sign"] == pytest.approx(p * q + (1 - p) * (1 - q))
        assert row["enrichment"] == row["n_shared"] / row["n_expected"]
    rows = {(r["source_label"], r["target_label"]): r for r in found.tables["consensus"].to_dict("records")}
    often = {p for p, n in Counter(p for one in pairs.values() for p in one).items() if n >= 2}
    assert set(rows) == often != set()
    for pair, row in rows.items():
        members = [name for name in runs if pair in pairs[name]]
        means = [np.mean(pairs[name][pair]) for name in members]
        assert row["runs"] == ";".join(members) and row["n_runs"] == len(members)
        assert row["n_edges"] == sum(len(pairs[name][pair]) for name in members)
        assert row["mean_snr"] == pytest.approx(np.mean(means), rel=1e-4)
        assert row["n_negative"] == sum(mean < 0 for mean in means)
        assert row["same_sign"] == (len({mean < 0 for mean in means}) == 1)
        chance = 0.0
        for one in pairs.values():
            leaving, reaching = sum(p[0] == pair[0] for p in one), sum(p[1] == pair[1] for p in one)
            chance += min(1, leaving * reaching / len(one))
        assert row["chance_runs"] == pytest.approx(chance)


def test_held_out_equals_loops():
    runs = runs_of(4)
    pairs = {name: {p for p in by_loops(run) if p[0] != p[1]} for name, run in runs.items()}
    sources = {name: labels_of_sources(run) for name, run in runs.items()}
    targets = {name: set(run.features["label"][run.features["layer"] > 0]) - {""} for name, run in runs.items()}
    for row in ask(runs, FEW).tables["held_out"].to_dict("records"):
        name, others = row["run"], [other for other in runs if other != row["run"]]

        def allowed(pair, name=name, others=others):
            return all(
                label in labels[name] and sum(label in labels[other] for other in others) >= 2
                for label, labels in zip(pair, (sources, targets), strict=True)
            )

        own = {pair for pair in pairs[name] if allowed(pair)}
        count = Counter(pair for other in others for pair in pairs[other] if allowed(pair))
        consensus = {pair for pair, n in count.items() if n >= 2}
        assert (row["n_pairs"], row["n_consensus"], row["n_found"]) == (len(own), len(consensus), len(own & consensus))
        assert row["recall"] == pytest.approx(len(own & consensus) / len(own))
        assert row["precision"] == pytest.approx(len(own & consensus) / len(consensus))
        assert row["expected_precision"] == pytest.approx(row["n_expected"] / len(consensus))


def test_all_runs_equal_loops():
    runs = runs_of(3)
    found = ask(runs, FEW).tables["consensus_overlap"].iloc[-1]
    sources = set.intersection(*[labels_of_sources(run) for run in runs.values()])
    targets = set.intersection(*[set(r.features["label"][r.features["layer"] > 0]) - {""} for r in runs.values()])
    count = Counter(
        p for run in runs.values() for p in by_loops(run) if p[0] != p[1] and p[0] in sources and p[1] in targets
    )
    assert found["first"] == "all runs"
    assert (found["n_first"], found["n_shared"]) == (len(count), sum(n * (n - 1) // 2 for n in count.values()))
    values = [by_loops(run) for run in runs.values()]
    agree = [np.mean(a[p]) * np.mean(b[p]) > 0 for a, b in combinations(values, 2) for p in count if p in a and p in b]
    assert found["n_same_sign"] == sum(agree) and len(agree) == found["n_shared"]


def test_the_published_expectation_is_that_of_all_renamings():
    """Five labels in the second run: all 120 bijections."""
    first = [("a", "b"), ("b", "c"), ("c", "c"), ("d", "a"), ("x", "a"), ("e", "e"), ("a", "c")]
    second = [("a", "b"), ("b", "b"), ("c", "d"), ("e", "a"), ("c", "c"), ("d", "a")]
    _, found = program_pairs({"first": program_run(first), "second": program_run(second)})
    labels, counts = "abcde", []
    for order in permutations(labels):
        renamed = {(order[labels.index(s)], order[labels.index(t)]) for s, t in second}
        counts.append(len(renamed & set(first)))
    assert published_overlap(found["first"], found["second"]) == (3, pytest.approx(np.mean(counts)))


# ------------------------------------------------------------------------------------------------ rewiring


def test_rewired_graphs_keep_degrees_and_have_no_loops():
    rng = np.random.default_rng(0)
    graph = rng.random((12, 12)) < 0.3
    np.fill_diagonal(graph, False)
    links = np.nonzero(graph)
    seen = set()
    for source, target in rewired(*links, 50, rng):
        again = np.zeros_like(graph)
        again[source, target] = True
        assert again.sum() == graph.sum() == len(source)
        assert (again.sum(0) == graph.sum(0)).all() and (again.sum(1) == graph.sum(1)).all()
        assert not again.diagonal().any()
        seen.add(again.tobytes())
    assert len(seen) == 50


def test_every_graph_is_equally_likely():
    """One link from and to each of five nodes, none to itself: the 44 derangements."""
    every = [p for p in permutations(range(5)) if all(i != to for i, to in enumerate(p))]
    rng, counts = np.random.default_rng(0), Counter()
    for source, target in rewired(np.arange(5), np.array(every[0]), 1320, rng):
        counts[tuple(target[np.argsort(source)].tolist())] += 1
    assert set(counts) == set(every) and len(every) == 44
    # 30 expected of each, standard deviation 5.5
    assert 8 < min(counts.values()) and max(counts.values()) < 56


def slow_rewiring(graph: np.ndarray, rng: np.random.Generator, swaps: int) -> np.ndarray:
    """Double link swaps one by one: another chain with the same stationary distribution."""
    graph = graph.copy()
    for _ in range(swaps):
        links = np.argwhere(graph)
        (a, b), (c, d) = links[rng.choice(len(links), 2, replace=False)]
        if a != d and c != b and not graph[a, d] and not graph[c, b]:
            graph[[a, c], [b, d]], graph[[a, c], [d, b]] = False, True
    return graph


def test_the_expected_overlap_is_that_of_link_swaps():
    rng = np.random.default_rng(3)
    popularity = 3 / np.arange(1, 13)
    first, second = (program_run(random_pairs(rng, popularity), names=tuple(f"t{i}" for i in range(12))) for _ in "ab")
    _, found = program_pairs({"first": first, "second": second})
    overlap, _, _ = shared_pairs(found["first"], found["second"], 600, rng)
    known, graph = (np.zeros((12, 12), dtype=bool) for _ in "ab")
    known[found["first"].source, found["first"].target] = True
    graph[found["second"].source, found["second"].target] = True
    slow = []
    for _ in range(150):
        slow.append((slow_rewiring(graph, rng, 100) & known).sum())
    assert overlap.n_expected == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / np.sqrt(150))
    assert overlap.drawn.std() == pytest.approx(np.std(slow), rel=0.3)


def test_large_graphs_are_rewired_less_often():
    assert [affordable(1000, n) for n in (0, 16_000, 80_000, 10_000_000)] == [1000, 1000, 500, 200]
    assert affordable(50, 10_000_000) == 50


def test_a_link_from_a_node_to_itself_is_refused():
    with pytest.raises(ValueError, match="itself"):
        next(rewired(np.array([0, 1]), np.array([1, 1]), 3, np.random.default_rng(0)))


# ------------------------------------------------------------------------------------------------ null and planted


def coded(pairs: list[tuple[str, str]], n_labels: int) -> ProgramPairs:
    """Pairs of the labels t0, t1, ... as whole numbers."""
    ends = np.array([[int(label[1:]) for label in pair] for pair in pairs], dtype=np.int64).reshape(-1, 2)
    everything = np.ones(n_labels, dtype=bool)
    snr, none = np.ones(len(ends)), np.zeros((0, n_labels), dtype=np.int64)
    return ProgramPairs(
        ends[:, 0], ends[:, 1], snr.astype(np.int64), snr, everything, everything, everything, none, none
    )


@pytest.mark.parametrize("popularity", [np.full(12, 1.5), 3 / np.arange(1, 16), np.full(20, 0.3)])
def test_independent_runs_do_not_agree(popularity):
    """Dense graphs, graphs with popular labels, sparse graphs."""
    p, excess, variance, wide = [], 0.0, 0.0, 0
    for draw in range(60):
        rng = np.random.default_rng(draw)
        first, second = (coded(random_pairs(rng, popularity), len(popularity)) for _ in "ab")
        overlap, _, _ = shared_pairs(first, second, 40, rng)
        p.append(overlap.p_value)
        excess += overlap.n_shared - overlap.n_expected
        variance += overlap.drawn.var(ddof=1) * (1 + 1 / 40)
        wide += overlap.low <= 1 <= overlap.high
    # 2.9 of 60 are expected to have p <= 2 / 41; 9 or more have a chance of 0.3 %
    assert sum(value <= 0.05 for value in p) < 9
    assert abs(excess) < 4 * np.sqrt(variance)
    # nor is p always large, or the interval always elsewhere
    assert np.mean(np.array(p) <= 0.5) > 0.25
    assert wide >= 45


def test_the_shuffled_expectation_is_that_of_permutations():
    runs = runs_of(2, n_labels=12)
    _, found = program_pairs(runs)
    first = found["run 0"].among(*[np.ones(len(found["run 0"].known), dtype=bool)] * 2)
    label = runs["run 1"].features["label"].to_numpy()
    known = set(by_loops(runs["run 0"]))
    edges = [e for e in runs["run 1"].edges.to_dicts() if label[e["source"]] and label[e["target"]]]
    rng, counts = np.random.default_rng(0), []
    for _ in range(300):
        joined = set()
        for layers in {(e["source_layer"], e["target_layer"]) for e in edges}:
            members = [e for e in edges if (e["source_layer"], e["target_layer"]) == layers]
            targets = rng.permutation([label[e["target"]] for e in members])
            joined |= {(label[e["source"]], target) for e, target in zip(members, targets, strict=True)}
        counts.append(sum(pair[0] != pair[1] for pair in joined & known))
    # beyond the mean by more than one, where the bound holds
    n = int(np.mean(counts)) + 2
    expected, p = shuffled_overlap(first, found["run 1"], n)
    assert expected == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / np.sqrt(300))
    share = np.mean(np.array(counts) >= n)
    assert 0 < share <= p + 4 * np.sqrt(share / 300)


def test_features_that_both_runs_have_are_no_agreement_when_labels_are_shuffled():
    """The same features and sources, edges drawn anew, in graphs so dense that rewiring is not quite fair."""
    p, runs, run = [], {}, made_up_evidence(0, n_labels=15, edges_per_source=1)
    for draw in range(30):
        for place, name in enumerate("ab"):
            rng = np.random.default_rng([draw, place])
            source = np.repeat(run.source_rows, 12)
            layer = run.features["layer"].to_numpy()
            target = (layer[source] + 1) * 60 + (rng.random(len(source)) * (3 - layer[source]) * 60).astype(int)
            ends = {"source_feature": source % 60, "target_layer": target // 60, "target_feature": target % 60}
            edges = filled("edges", len(source), source_layer=layer[source], **ends)
            runs[name] = make_evidence(edges, run.features, **run.tables)
        _, found = program_pairs(runs)
        a, b = (one.among(one.can_be_source, one.can_be_target) for one in found.values())
        n_shared = len(np.intersect1d(a.source * 99 + a.target, b.source * 99 + b.target))
        p.append(shuffled_overlap(a, b, n_shared)[1])
    # 1.5 of 30 are expected at most; 6 or more have a chance of 0.3 %
    assert np.sum(np.array(p) <= 0.05) < 6


def test_popular_labels_are_what_the_published_null_takes_for_agreement():
    rng = np.random.default_rng(1)
    popularity = 4 / np.arange(1, 31)
    runs = {name: program_run(random_pairs(rng, popularity)) for name in "ab"}
    row = ask(runs, FindingsSettings(permutations=60)).tables["consensus_overlap"].iloc[0]
    assert row["published_enrichment"] > 2
    assert 0.7 < row["enrichment"] < 1.4 and row["p_value"] > 0.05


def test_runs_that_share_pairs_agree():
    rng = np.random.default_rng(0)
    core = {pair: rng.choice([-1.0, 1.0]) for pair in random_pairs(rng, np.full(15, 0.3))}
    runs = {}
    for name in "abc":
        pairs = sorted({*core, *random_pairs(rng, np.full(15, 0.2))})
        runs[name] = program_run(pairs, np.array([core.get(pair, rng.choice([-1.0, 1.0])) for pair in pairs]))
    found = ask(runs, FindingsSettings(permutations=100))
    overlap = found.tables["consensus_overlap"]
    assert (overlap["p_value"] == 1 / 101).all() and (overlap["enrichment"] > 1.5).all()
    assert (overlap["interval_low"] > 1).all()
    assert (overlap["sign_p_value"][:3] < 0.05).all() and (overlap["share_same_sign"][:3] > 0.8).all()
    held = found.tables["held_out"]
    assert (held["p_value"] == 1 / 101).all() and (held["precision"] > held["expected_precision"] + 0.2).all()
    assert (held["interval_low"] <= held["precision"]).all() and (held["precision"] <= held["interval_high"]).all()


def test_signs_that_cluster_by_source_are_no_agreement():
    """Each run has its own sign for every source and for every target; the runs are independent."""
    small = 0
    for draw in range(150):
        rng = np.random.default_rng(draw)
        source, target = (ends.ravel() for ends in np.meshgrid(np.arange(15), np.arange(20), indexing="ij"))
        first, second = (rng.normal(size=15)[source] + rng.normal(size=20)[target] + rng.normal(size=300) for _ in "ab")
        small += sign_agreement(first, second, source, target, 100, rng).p_value <= 0.05
    # 7.5 of 150 are expected; a test of independent pairs calls about 40
    assert small <= 17


def test_correlations_equal_scipy_and_find_what_is_there():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    source, target = rng.integers(12, size=200), rng.integers(30, size=200)
    first = rng.normal(size=200)
    second = first + rng.normal(size=200)
    found = rank_correlation(first, second, source, target, 200, rng)
    assert found.value == pytest.approx(spearmanr(first, second).statistic)
    assert found.low < found.value < found.high and found.p_value < 0.01
    first[3] = np.nan
    kept = rank_correlation(first, second, source, target, 50, rng).value
    assert kept == pytest.approx(spearmanr(np.delete(first, 3), np.delete(second, 3)).statistic)


# ------------------------------------------------------------------------------------------------ edge cases


def numbers(found: Found) -> list[float]:
    return [answer.value for answer in found.answers]


def test_nothing_to_agree_on():
    names = ("a", "b")
    nothing, something = program_run([], names=names), program_run([("a", "b"), ("b", "a"), ("a", "a")])
    for first, second in ((nothing, something), (something, nothing), (nothing, nothing)):
        found = ask({"first": first, "second": second}, FEW)
        assert found.tables["consensus"].empty and list(found.tables["consensus"]) == [
            c.name for c in TABLES["consensus"]
        ]
        assert all(isnan(value) for value in numbers(found)) and found.answers[0].note


def test_no_labels_and_one_run():
    run = made_up_evidence(0)
    bare = Evidence(run.edges, run.features.assign(label=""), run.tables)
    for runs in ({"a": bare, "b": bare, "c": bare}, {"a": bare, "b": run}, {"a": run}, {}):
        assert all(isnan(value) for value in numbers(ask(runs, FEW)))


def test_effects_that_are_no_numbers_keep_their_pair():
    run = program_run([("a", "b"), ("a", "b"), ("b", "a")], np.array([np.nan, -2.0, np.nan]))
    found = ask({"first": run, "second": run}, FEW)
    table = found.tables["consensus"].set_index("source_label")
    assert table.loc["a", "mean_snr"] == -2 and table.loc["a", "n_edges"] == 4 and table.loc["a", "same_sign"]
    assert isnan(table.loc["b", "mean_snr"]) and not table.loc["b", "same_sign"]
    assert found.tables["consensus_overlap"]["n_same_sign"][0] == 1


def test_a_run_of_one_layer_has_nothing_to_join():
    features = filled("features", 3, feature=[0, 1, 2], label=["a", "b", "c"])
    run = make_evidence(filled("edges", 0), features, sources=filled("sources", 2, feature=[0, 1]))
    assert isnan(numbers(ask({"first": run, "second": run}, FEW))[0])


def test_the_same_seed_gives_the_same_tables():
    runs = runs_of(3)
    first, second = ask(runs, FEW), ask(runs, FEW)
    assert all(first.tables[name].equals(second.tables[name]) for name in first.tables)
    assert (
        not ask(runs, FindingsSettings(permutations=20, seed=1))
        .tables["consensus_overlap"]
        .equals(first.tables["consensus_overlap"])
    )
