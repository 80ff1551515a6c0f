"""Perturbation screens: labels of guides and enhancers, few known genes, and real screens where they are."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellcircuits as cc
from cellcircuits.autoencoders import TopKSAE
from cellcircuits.baselines import SplitAxes, neurons, sample_states
from cellcircuits.catalogue import count_firings, top_genes
from cellcircuits.cell_data import read_cells
from cellcircuits.commands import structure as structure_command
from cellcircuits.errors import DataError
from cellcircuits.scores import cell_scores
from cellcircuits.settings import AnnotateSettings, CellsSettings, StructureSettings
from cellcircuits.structure.perturbation import perturbation_response, perturbed_genes

pytestmark = pytest.mark.usefixtures("one_thread")
KNOWN = {"MYC", "STAT2", "ZAP70", "JUN", "FOS", "HLA-A", "NKX3-1", "CPQ", "GATA1", "CAT"}


@pytest.mark.parametrize(
    ("label", "genes"),
    [
        ("MYC", ("MYC",)),
        ("myc", ("MYC",)),
        ("MYC-A", ("MYC",)),
        ("GATA1-D", ("GATA1",)),
        ("HS2-D", ()),
        ("STAT2g2", ("STAT2",)),
        ("ZAP70_1", ("ZAP70",)),
        ("CPQ_+_97657557.23-P1P2", ("CPQ",)),
        ("HLA-A", ("HLA-A",)),
        ("HLA-A_2", ("HLA-A",)),
        ("HLA-B", ()),
        ("NKX3-1", ("NKX3-1",)),
        ("JUN+FOS", ("JUN", "FOS")),
        ("FOS_JUN", ("FOS", "JUN")),
        ("JUN,JUN", ("JUN",)),
        ("non-targeting", ()),
        ("control", ()),
        ("none", ()),
        ("", ()),
    ],
)
def test_genes_that_a_label_names(label, genes):
    assert perturbed_genes(label, KNOWN) == genes


def test_features_that_list_the_gene_of_a_guide():
    rng = np.random.default_rng(0)
    labels = pd.Series(np.repeat(["NT", "MYC-A", "HS2-D", "STAT2g2", "JUN+FOS", "GATA1"], 30))
    scores = rng.random((180, 8)) + 0.1
    scores[labels == "MYC-A", 0] *= 0.1
    genes = pd.DataFrame({"feature": [0, 1, 2, 2, 3], "symbol": ["MYC", "STAT2", "FOS", "X", "HS2B"]})
    table, rates = perturbation_response(1, sp.csr_matrix(scores), labels, "NT", genes, known=["GATA1", ""])
    found = table[table["target_listed"]]
    assert {*zip(found["perturbation"], found["feature"], strict=True)} == {
        ("MYC-A", 0),
        ("STAT2g2", 1),
        ("JUN+FOS", 2),
    }
    named = dict(zip(table["perturbation"], table["target_genes"], strict=True))
    # JUN is on no list and not among the known genes
    assert named == {"MYC-A": "MYC", "HS2-D": "", "STAT2g2": "STAT2", "JUN+FOS": "FOS", "GATA1": "GATA1"}
    (row,) = rates.to_dict("records")
    assert (row["n_perturbations"], row["n_with_gene"], row["n_listed"]) == (5, 4, 3)
    assert row["listed_called_share"] == pytest.approx(1 / 3)
    lower = [
        scores[labels == p, f].mean() < scores[labels == "NT", f].mean()
        for p, f in (("MYC-A", 0), ("STAT2g2", 1), ("JUN+FOS", 2))
    ]
    assert row["listed_lower_share"] == pytest.approx(np.mean(lower))
    nothing = perturbation_response(1, sp.csr_matrix(scores), labels, "NT", genes[:0])[1].iloc[0]
    assert nothing["n_listed"] == 0 and np.isnan(nothing["listed_lower_share"])


def test_a_file_that_says_it_has_no_raw(tmp_path, toy_cells):
    """Newer versions of anndata write `raw` as null."""
    toy_cells.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "a") as file:
        null = file.create_dataset("raw", data=h5py.Empty("f"))
        null.attrs["encoding-type"], null.attrs["encoding-version"] = "null", "0.1.0"
    for n_cells in (0, 5):
        found = read_cells(CellsSettings(data=str(tmp_path / "cells.h5ad"), n_cells=n_cells))
        assert found.raw is None and len(found) == (n_cells or 60)


def test_a_targeted_screen_of_few_known_genes(toy_run, toy_cells, tmp_path, capsys):
    """5 of 40 genes are known, and some cells have none of them."""
    counts = toy_cells.X.copy()
    counts[:7, :5] = 0
    counts[7:, 0] += 1
    names = [f"GENE{i}" if i < 5 else f"UNKNOWN{i}" for i in range(40)]
    obs = pd.DataFrame({"guide": np.where(np.arange(60) < 30, "NT", "GENE3-A")}, index=[f"s{i}" for i in range(60)])
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=names)).write_h5ad(tmp_path / "screen.h5ad")
    settings = {"perturbations": str(tmp_path / "screen.h5ad"), "perturbation_column": "guide", "control_label": "NT"}
    settings |= {"min_together": 5, "min_pmi": 0.1}
    with pytest.raises(DataError, match=r"12\.5% of the 40 detected genes .*min_mapped_genes"):
        structure_command(toy_run.folder, StructureSettings(**settings))
    structure_command(toy_run.folder, StructureSettings(**settings, min_mapped_genes=0.1))
    assert "1 perturbations" in capsys.readouterr().out
    run = cc.open_run(toy_run.folder)
    coverage = run.manifest("structure")["record"]["perturbations_coverage"]
    assert (coverage["cells"], coverage["cells_dropped"], coverage["genes_detected_mapped"]) == (53, 7, 5)
    table = run.structure.perturbations
    assert (table["n_control"] == 23).all() and set(table["target_genes"]) == {"GENE3"}


# ------------------------------------------------------------------------------------------------ real screens


def chosen_cells(path, perturbations, per_label, folder):
    """Some cells of a screen as a file, and as AnnData."""
    adata = ad.read_h5ad(path)
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(adata.obs["perturbation"] == name))[:per_label] for name in perturbations]
    some = adata[np.sort(np.concatenate(rows))].copy()
    some.write_h5ad(folder / "screen.h5ad")
    return some


def test_a_knocked_out_gene_lowers_the_features_that_list_it(real_data, tmp_path, pbmc):
    """Papalexi et al. 2021: NFKBIA is detected in 62 % of the cells without it and in 75 % of the control cells."""
    path = real_data / "perturbation" / "papalexi_eccite_thp1_299genes_raw.h5ad"
    labels = ["NFKBIA", "CAV1", "non-targeting"]
    chosen_cells(path, labels, 780, tmp_path)
    cells = CellsSettings(data=str(tmp_path / "screen.h5ad"), min_mapped_genes=0.01, empty_cells="drop")
    model = cc.load_model("scgpt", "demo")
    tokens = model.tokenize(read_cells(cells), cells)
    assert 0.03 < tokens.info["genes_detected_mapped"] / 299 < 0.06
    # coordinates of the first layer's states, catalogued in blood cells: no autoencoder has to be trained
    settings = AnnotateSettings(baseline_positions=2000, min_firings=5, top_genes=30)
    blood = model.tokenize(pbmc[:150].copy())
    sae: TopKSAE = SplitAxes(neurons(sample_states(model, blood, [0], settings, 32)[0]), 16)
    genes = top_genes(count_firings(model, blood, {0: sae}, 32)[0], blood.count_genes(), settings)
    genes["symbol"] = blood.gene_symbols[genes["token"]]
    scores = cell_scores(model, tokens, {0: sae})[0]
    table, rates = perturbation_response(0, scores, tokens.obs["perturbation"], "non-targeting", genes)
    listed = table[table["target_listed"]]
    assert set(listed["perturbation"]) == {"NFKBIA"} and len(listed) > 3
    # the most affected of the listing features fall, and are among the most affected of all
    best = listed.sort_values("p_value").head(3)
    assert (best["mean_difference"] < 0).all() and (best["q_value"] < 0.01).all()
    assert rates["null_called_share"][0] < 0.01


def test_guides_of_enhancers_in_a_targeted_screen(real_data, tmp_path, demo_run):
    """Schraivogel et al. 2020 (TAP-seq): 3 of 71 genes that these cells have are in the small model's vocabulary."""
    path = real_data / "perturbation" / "schraivogel_tapseq_k562_crispri_72genes_raw.h5ad"
    chosen_cells(path, ["HS2-D", "MYC-A", "GATA1-D", "non-targeting"], 120, tmp_path)
    settings = {"perturbations": str(tmp_path / "screen.h5ad"), "control_label": "non-targeting"}
    with pytest.raises(DataError, match=r"Only 4\.2% of the 71 detected genes"):
        structure_command(demo_run.folder, StructureSettings(**settings))
    structure_command(demo_run.folder, StructureSettings(**settings, min_mapped_genes=0.0))
    run = cc.open_run(demo_run.folder)
    table, rates = run.structure.perturbations, run.structure.perturbation_rates
    assert set(table["perturbation"]) == {"HS2-D", "MYC-A", "GATA1-D"}
    # the small model knows neither MYC nor GATA1, and HS2 is no gene
    assert set(table["target_genes"]) == {""} and not table["target_listed"].any()
    assert (rates["n_with_gene"] == 0).all() and (rates["null_called_share"] <= 0.02).all()
