"""Interactions among top genes against a degree-matched null, and regulators, against loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from cellcircuits.annotation import Annotator
from cellcircuits.enrichment import GeneLists, gene_lists
from cellcircuits.interactions import FOLLOW_UP_FACTOR, FOLLOWED_UP, InteractionTest, degree_bins
from cellcircuits.networks import Interactions, Targets
from cellcircuits.references import GeneSets
from cellcircuits.settings import AnnotateSettings


def lists_of(lists: list[list[int]], n_genes: int) -> GeneLists:
    owners = np.repeat(np.arange(len(lists)), [len(genes) for genes in lists])
    return gene_lists(owners, np.concatenate(lists), n_genes)


def random_network(n_genes: int, n_pairs: int, seed: int = 0) -> Interactions:
    """Genes G0, G1, ...; the first ones have the most partners."""
    rng = np.random.default_rng(seed)
    weights = 1 / (1 + np.arange(n_genes))
    ends = rng.choice(n_genes, (n_pairs, 2), p=weights / weights.sum())
    pairs = {tuple(sorted((f"G{a}", f"G{b}"))) for a, b in ends if a != b}
    return Interactions("net", frozenset(pairs))


def symbols(n: int) -> np.ndarray:
    return np.array([f"g{i}" for i in range(n)], dtype=object)


def degrees_of(network: Interactions, known: set[str]) -> dict[str, int]:
    degrees: dict[str, int] = {}
    for pair in network.pairs:
        if set(pair) <= known:
            for gene in pair:
                degrees[gene] = degrees.get(gene, 0) + 1
    return degrees


def test_pairs_of_a_list_are_counted():
    network, rng = random_network(60, 300), np.random.default_rng(1)
    # gene 59 and beyond are not in the background; some background genes are not in the network
    names = np.concatenate([symbols(59), np.array(["X1", "X2", "X3"], dtype=object)])
    lists = [list(rng.choice(62, size, replace=False)) for size in (1, 2, 5, 9, 20, 20, 7)]
    lists += [[59, 60], [0, 59]]
    found = InteractionTest(network, names, AnnotateSettings(network_draws=20)).test(lists_of(lists, 62))
    known = {name.upper() for name in names}
    degrees = degrees_of(network, known)
    for row, genes in zip(found.to_dict("records"), lists, strict=True):
        upper = sorted(names[gene].upper() for gene in genes)
        assert row["n_list"] == len(genes)
        assert row["n_in_network"] == sum(gene in degrees for gene in upper)
        assert row["n_interactions"] == sum(pair in network.pairs for pair in combinations(upper, 2))


def test_the_null_is_that_of_genes_replaced_within_bins_of_degree():
    """Mean, sd and p against a loop that replaces every gene by one of its bin, no gene twice."""
    network, settings = random_network(80, 400), AnnotateSettings(network_draws=4000, degree_bin_genes=15)
    test = InteractionTest(network, symbols(80), settings)
    rng = np.random.default_rng(3)
    lists = [list(range(6)), list(range(30, 42)), list(rng.choice(80, 10, replace=False))]
    found = test.test(lists_of(lists, 80))
    degrees = degrees_of(network, {f"G{i}" for i in range(80)})
    ordered = sorted(degrees, key=lambda gene: (degrees[gene], int(gene[1:])))
    bins = degree_bins(np.array([degrees[gene] for gene in ordered]), 15)
    assert len(set(bins)) > 3
    bin_of = dict(zip(ordered, bins, strict=True))
    for row, genes in zip(found.to_dict("records"), lists, strict=True):
        members = [f"G{gene}" for gene in genes if f"G{gene}" in degrees]
        counts = []
        for _ in range(4000):
            drawn: list[str] = []
            for gene in members:
                alike = [other for other in ordered if bin_of[other] == bin_of[gene] and other not in drawn]
                drawn.append(alike[rng.integers(len(alike))])
            counts.append(sum(tuple(sorted(pair)) in network.pairs for pair in combinations(drawn, 2)))
        # two means of 4000 draws; five standard errors
        assert row["null_mean"] == pytest.approx(np.mean(counts), abs=5 * np.std(counts) * np.sqrt(2 / 4000))
        assert row["null_sd"] == pytest.approx(np.std(counts), rel=0.1)
        assert row["p_value"] == pytest.approx(np.mean(np.array(counts) >= row["n_interactions"]), abs=0.05)


def test_bins_of_degree():
    degrees = np.array([1, 1, 1, 2, 2, 3, 5, 5, 8, 9])
    np.testing.assert_array_equal(degree_bins(degrees, 3), [0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(degree_bins(degrees, 4), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(degree_bins(degrees, 100), np.zeros(10))
    assert len(degree_bins(np.zeros(0, dtype=int), 3)) == 0
    rng = np.random.default_rng(0)
    many = np.sort(rng.geometric(0.1, 500))
    bins = degree_bins(many, 40)
    assert np.bincount(bins).min() >= 40 and (np.diff(bins) >= 0).all()
    assert all(len(set(bins[many == degree])) == 1 for degree in set(many.tolist()))


def test_a_permutation_keeps_every_gene_in_its_bin():
    test = InteractionTest(random_network(80, 400), symbols(80), AnnotateSettings(degree_bin_genes=15))
    drawn = test._permutations(200, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(len(test.bins)), (200, 1)))
    assert (test.bins[drawn] == test.bins).all()
    assert (drawn != np.arange(len(test.bins))).mean() > 0.8


def planted(n_genes: int = 400) -> tuple[Interactions, list[list[int]]]:
    """A random network with two complete groups of eight genes, and lists: the groups, then random genes."""
    network = random_network(n_genes, 1500)
    groups = [list(range(200, 208)), list(range(300, 308))]
    pairs = {tuple(sorted((f"G{a}", f"G{b}"))) for group in groups for a, b in combinations(group, 2)}
    rng = np.random.default_rng(4)
    lists = [*groups, *(list(rng.choice(n_genes, 12, replace=False)) for _ in range(40))]
    return Interactions("net", network.pairs | pairs), lists


def test_groups_that_interact_are_found_and_random_lists_are_not():
    network, lists = planted()
    settings = AnnotateSettings(network_draws=200, degree_bin_genes=50)
    found = InteractionTest(network, symbols(400), settings).test(lists_of(lists, 400))
    assert (found["q_value"][:2] < 0.01).all()
    assert (found["q_value"][2:] < 0.05).sum() <= 2
    # hubs interact: a list of hubs is no surprise among hubs
    hubs = InteractionTest(network, symbols(400), settings).test(lists_of([list(range(8))], 400))
    assert hubs["n_interactions"][0] > 10 and hubs["null_mean"][0] > 5


def test_rare_results_meet_more_draws():
    network, lists = planted()
    settings = AnnotateSettings(network_draws=100, degree_bin_genes=50)
    found = InteractionTest(network, symbols(400), settings).test(lists_of(lists, 400))
    assert (found["n_draws"][:2] == 100 * FOLLOW_UP_FACTOR).all()
    assert found["p_value"][0] < 1 / 101
    often = found["n_draws"] == 100
    assert often.any() and (found["p_value"][often] > (1 + FOLLOWED_UP) / 101).all()
    np.testing.assert_allclose(found["p_value"] * (1 + found["n_draws"]) % 1, 0, atol=1e-6)


def test_draws_are_as_many_as_the_correction_needs():
    network, lists = planted()
    settings = AnnotateSettings(network_draws=100, degree_bin_genes=50)
    test = InteractionTest(network, symbols(400), settings)
    # alone among 1000 lists: the most; half of 60 lists: 10 x 60 / (0.05 x 30)
    alone = test.test(lists_of([lists[0], *([[0, 1]] * 999)], 400))
    assert alone["n_draws"][0] == 100 * FOLLOW_UP_FACTOR
    many = test.test(lists_of([lists[0]] * 30 + [[0, 399]] * 30, 400))
    assert (many["n_draws"][:30] == 400).all() and (many["q_value"][:30] < 0.05).all()


def test_p_of_random_lists_is_not_too_small():
    """The chance of a p of at most x is at most x, also where it decides on more draws."""
    network, rng = random_network(300, 1500), np.random.default_rng(8)
    lists = lists_of([list(rng.choice(300, 15, replace=False)) for _ in range(1500)], 300)
    p = InteractionTest(network, symbols(300), AnnotateSettings(network_draws=100)).test(lists)["p_value"]
    for x in (0.005, 0.02, 0.05, 0.2):
        # three standard deviations
        assert (p <= x).mean() <= x + 3 * np.sqrt(x * (1 - x) / 1500)
    assert (p <= 0.2).mean() > 0.1


def test_without_interactions_p_is_one():
    test = InteractionTest(Interactions("net", frozenset({("A", "B")})), symbols(9), AnnotateSettings(network_draws=20))
    found = test.test(lists_of([[0, 1], [2]], 9))
    assert list(found["p_value"]) == [1, 1] and list(found["n_in_network"]) == [0, 0]
    assert test.n_interactions == 0
    assert len(test.test(gene_lists(np.zeros(0), np.zeros(0), 9))) == 0


def test_the_same_seed_gives_the_same_numbers():
    network, lists = planted()
    one, same, other = (
        InteractionTest(network, symbols(400), AnnotateSettings(network_draws=50, seed=seed)).test(lists_of(lists, 400))
        for seed in (1, 1, 2)
    )
    assert one.equals(same) and not one.equals(other)


# ------------------------------------------------------------------------------------------------ in the tables


def test_regulators_are_target_sets_with_their_factor():
    terms = {"G3": frozenset(f"G{i}" for i in range(3, 15)), "TF9_CELL": frozenset(f"G{i}" for i in range(40, 60))}
    network = Targets("targets", GeneSets("targets", terms))
    lists = lists_of([list(range(3, 11)), list(range(4, 12)), [*range(40, 48)], [*range(90, 98)]], 120)
    found = Annotator(symbols(120), [], [network], AnnotateSettings()).annotate(lists)
    table = found["regulators"].set_index("feature")
    assert list(table.index) == [0, 1, 2]
    assert list(table["regulator"]) == ["G3", "G3", "TF9"]
    assert list(table["target_set"]) == ["G3", "G3", "TF9_CELL"]
    assert list(table["regulator_listed"]) == [True, False, False]
    assert list(table["n_overlap"]) == [8, 8, 8] and list(table["n_targets"]) == [12, 12, 20]
    assert set(table["network"]) == {"targets"} and set(table["genes"][[2]]) == {"g40;g41;g42;g43;g44;g45;g46;g47"}
    assert found["terms"].empty and found["interactions"].empty


def test_target_sets_may_be_large():
    """What binds promoters binds thousands; the upper limit is for gene sets."""
    terms = {"TF": frozenset(f"G{i}" for i in range(60))}
    settings = AnnotateSettings(max_term_genes=20)
    lists = lists_of([list(range(15))], 120)
    networks = [Targets("t", GeneSets("t", terms))]
    found = Annotator(symbols(120), [GeneSets("s", terms)], networks, settings).annotate(lists)
    assert len(found["regulators"]) == 1 and found["terms"].empty


def test_every_network_has_its_rates():
    network, lists = planted()
    targets = Targets("regulators", GeneSets("regulators", {"TF": frozenset(f"G{i}" for i in range(200, 208))}))
    settings = AnnotateSettings(network_draws=100, degree_bin_genes=50)
    found = Annotator(symbols(400), [], [network, targets], settings).annotate(lists_of(lists, 400))
    rates = found["annotation_rates"].set_index("source")
    assert list(rates["kind"]) == ["gene sets", "targets", "interactions"]
    assert rates["n_annotated"]["regulators"] == 1
    assert rates["n_annotated"]["net"] == (found["interactions"]["q_value"] <= 0.05).sum() >= 2
    assert (rates["null_share"] <= 0.05).all() and (rates["null_share_at_cut"] <= 0.1).all()


def test_well_known_complexes_interact_in_string(real_data):
    """Ribosome, proteasome and replication licensing interact beyond their degrees; random genes do not."""
    from cellcircuits.networks import read_network

    network = read_network(real_data / "networks" / "string_v12_ntm_ge700_symbols.tsv.gz")
    genes = np.array(sorted({gene for pair in network.pairs for gene in pair}), dtype=object)
    row_of = {gene: row for row, gene in enumerate(genes)}
    complexes = [
        [f"PSMA{i}" for i in range(1, 8)] + [f"PSMB{i}" for i in range(1, 8)],
        [f"MCM{i}" for i in range(2, 8)] + ["CDC6", "CDT1", "ORC1", "ORC2"],
        ["RPL3", "RPL4", "RPL5", "RPL6", "RPL7", "RPS2", "RPS3", "RPS5", "RPS6", "RPS8"],
    ]
    rng = np.random.default_rng(0)
    lists = [[row_of[gene] for gene in members] for members in complexes]
    lists += [list(rng.choice(len(genes), 14, replace=False)) for _ in range(60)]
    found = InteractionTest(network, genes, AnnotateSettings(network_draws=200)).test(lists_of(lists, len(genes)))
    assert (found["q_value"][:3] < 0.02).all()
    assert (found["q_value"][3:] <= 0.05).sum() <= 3
