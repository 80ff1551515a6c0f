"""Reading perturbation screens: columns, guides, cell lines, tables; every mistake gets an answer; real screens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellcircuits.errors import DataError, SettingsError
from cellcircuits.screen_settings import ScreenSettings
from cellcircuits.screening.pseudobulk import log_expression
from cellcircuits.screening.screen_design import make_design
from cellcircuits.screening.screens import correlations, read_screen, screen_responses
from cellcircuits.screening.synthetic_screen import SyntheticScreen, synthetic_screen

SETTINGS = ScreenSettings(
    "screen.h5ad",
    control="non-targeting",
    perturbation_column="gene",
    guide_column="guide",
    cell_line_columns=["cell_line"],
)


@pytest.fixture(scope="module")
def screen() -> SyntheticScreen:
    return synthetic_screen(0, n_sources=6, cell_lines=("K562", "RPE1"), n_genes=120, effect=1.5)


# ------------------------------------------------------------------------------------------------ cells


def test_true_effects_and_knock_downs_are_found_in_every_cell_line(screen):
    found = screen_responses(screen.cells, SETTINGS)
    assert [one.cell_line for one in found] == ["K562", "RPE1"]
    for one in found:
        assert list(one.sources) == sorted(screen.effects["source_gene"].unique())
        assert (one.knock_downs["status"] == "verified").all() and one.used.all()
        assert (one.knock_downs["log_fc"] < -1).all()
        rows, columns = pd.Index(one.sources), pd.Index(one.genes)
        truth = screen.effects[np.isfinite(one.log_fc[0])[columns.get_indexer(screen.effects["target_gene"])]]
        at = rows.get_indexer(truth["source_gene"]), columns.get_indexer(truth["target_gene"])
        assert (np.sign(one.log_fc[at]) == np.sign(truth["log_fc"])).mean() > 0.98
        assert (one.q_value[at] <= 0.05).mean() > 0.8
        true = np.zeros(one.log_fc.shape, dtype=bool)
        true[at] = True
        true[np.arange(len(rows)), one.own] = True
        others = ~true & np.isfinite(one.log_fc)
        assert (one.q_value[others] <= 0.05).mean() < 0.02


def test_sums_of_guides_equal_loops(screen):
    one = screen_responses(screen.cells, SETTINGS)[1]
    obs, x = screen.cells.obs, screen.cells.X.toarray().astype(float)
    here = obs["cell_line"] == "RPE1"
    guides = sorted(obs.loc[here & (obs["gene"] == "non-targeting"), "guide"].unique())
    sums = np.array([x[(here & (obs["guide"] == guide)).to_numpy()].sum(axis=0) for guide in guides])
    others = sorted(set(obs["guide"]) - set(guides))
    every = np.vstack([sums, *(x[(here & (obs["guide"] == g)).to_numpy()].sum(axis=0)[None] for g in others)])
    # the control's mean, with weights near 1: all guides have as many cells
    values = log_expression(every, every.sum(axis=1), 2.0)[: len(guides)]
    measured = np.isfinite(one.expression)
    assert np.array_equal(measured, sums.sum(axis=0) >= 10)
    assert np.abs(one.expression - values.mean(axis=0))[measured].max() < 0.1
    # the published change pools cell lines
    gene = one.sources[0]
    mean = [np.log2(x[(obs["gene"] == name).to_numpy()].mean(axis=0) + 1) for name in (gene, "non-targeting")]
    assert np.allclose(one.published_log_fc[0], mean[0] - mean[1], atol=1e-5)


def test_a_file_on_disk_in_blocks_gives_the_same(screen, tmp_path, monkeypatch):
    screen.cells.write_h5ad(tmp_path / "screen.h5ad")
    in_memory = screen_responses(screen.cells, SETTINGS)
    monkeypatch.setattr("cellcircuits.screening.screens.CELLS_PER_BLOCK", 97)
    on_disk = read_screen(replace(SETTINGS, path=str(tmp_path / "screen.h5ad")))
    for one, other in zip(in_memory, on_disk, strict=True):
        assert other.screen == "screen" and list(one.genes) == list(other.genes)
        for name in ("log_fc", "q_value", "coexpression", "published_log_fc"):
            assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-5, equal_nan=True), name


def test_dense_layers_raw_and_log_values_give_the_same_directions(screen):
    plain = screen_responses(screen.cells, SETTINGS)[0]
    dense = screen.cells.copy()
    dense.layers["counts"] = dense.X.toarray()
    totals = dense.layers["counts"].sum(axis=1, keepdims=True)
    dense.X = np.log1p(dense.layers["counts"] / totals * 1e4)
    layered = screen_responses(dense, SETTINGS)[0]
    assert np.allclose(plain.log_fc, layered.log_fc, atol=1e-5, equal_nan=True)
    with pytest.raises(DataError, match=r'X does not hold raw counts; .*Set counts to where.* or values = "log1p"'):
        screen_responses(dense, replace(SETTINGS, counts="X"))
    logged = screen_responses(dense, replace(SETTINGS, counts="X", values="log1p"))[0]
    both = np.isfinite(plain.log_fc) & np.isfinite(logged.log_fc)
    assert np.corrcoef(plain.log_fc[both], logged.log_fc[both])[0, 1] > 0.95
    with pytest.raises(DataError, match=r'stay below 20\. Set values = "counts"'):
        screen_responses(
            ad.AnnData(dense.layers["counts"] * 9, dense.obs, dense.var), replace(SETTINGS, values="log1p")
        )
    raw = dense.copy()
    del raw.layers["counts"]
    raw.raw = screen.cells
    assert np.allclose(screen_responses(raw, SETTINGS)[0].log_fc, plain.log_fc, atol=1e-5, equal_nan=True)


def test_ensembl_ids_become_symbols_and_equal_symbols_are_summed(screen):
    cells = screen.cells.copy()
    ids = [f"ENSG{i:011d}.3" for i in range(cells.n_vars)]
    cells.var = pd.DataFrame({"symbol": cells.var_names.to_numpy()}, index=ids)
    plain = screen_responses(screen.cells, SETTINGS)[0]
    found = screen_responses(cells, replace(SETTINGS, gene_column="symbol"))[0]
    assert list(found.genes) == list(plain.genes)
    assert np.array_equal(found.log_fc, plain.log_fc, equal_nan=True)
    cells.var = pd.DataFrame(index=ids)
    with pytest.raises(DataError, match=r"Ensembl ids only .*Set gene_column"):
        screen_responses(cells, SETTINGS)
    symbols = {name.split(".")[0]: symbol for name, symbol in zip(ids, screen.cells.var_names, strict=True)}
    cells.obs["gene"] = cells.obs["gene"].map({v: k for k, v in symbols.items()}).fillna("non-targeting")
    assert set(screen_responses(cells, SETTINGS, symbols)[0].sources) == set(plain.sources)
    halves = ad.AnnData(sp.hstack([screen.cells.X, screen.cells.X]).tocsr(), screen.cells.obs)
    names = [*screen.cells.var_names, *screen.cells.var_names]
    halves.var = pd.DataFrame({"symbol": names}, index=[f"{n}-{i}" for i, n in enumerate(names)])
    summed = screen_responses(halves, replace(SETTINGS, gene_column="symbol"))[0]
    assert list(summed.genes) == list(plain.genes)
    assert np.nanmax(np.abs(summed.log_fc - plain.log_fc)) < 0.5


def test_correlations_equal_numpy():
    rng = np.random.default_rng(0)
    cells = sp.random(50, 8, density=0.6, random_state=0, format="csr")
    measured = np.array([True] * 6 + [False, True])
    found = correlations(cells, np.array([3, -1, 6, 0]), measured)
    expected = np.corrcoef(cells.toarray(), rowvar=False)
    assert np.allclose(found[0][measured], expected[3][measured], atol=1e-5)
    assert np.allclose(found[3][measured], expected[0][measured], atol=1e-5)
    assert np.isnan(found[[1, 2]]).all() and np.isnan(found[:, 6]).all()
    flat = sp.csr_matrix(np.column_stack([np.ones(9), rng.random(9)]))
    assert np.isnan(correlations(flat, np.array([0]), np.ones(2, dtype=bool))).all()


# ------------------------------------------------------------------------------------------------ design


def made_up_obs(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns).rename(index=str)


def test_combinations_are_left_out_and_single_genes_with_the_control_kept():
    labels = ["A+B"] * 40 + ["A+ctrl"] * 40 + ["ctrl+B"] * 40 + ["ctrl"] * 40
    settings = replace(SETTINGS, control="ctrl", guide_column="", cell_line_columns=[])
    design = make_design(made_up_obs(gene=labels), settings)
    assert list(design.labels) == ["ctrl", "A", "B"]
    assert list(design.label[[0, 40, 80, 120]]) == [-1, 1, 2, 0]
    assert design.notes[0] == "40 cells with combinations of genes are left out"
    whole = make_design(made_up_obs(gene=labels), replace(settings, combined=""))
    assert list(whole.labels) == ["ctrl", "A+B", "A+ctrl", "ctrl+B"]


def test_guides_are_replicates_and_small_ones_go_together():
    guide = ["g1"] * 20 + ["g2"] * 6 + ["g3"] * 5 + ["n1"] * 15 + ["n2"] * 15 + ["n3"] * 3
    obs = made_up_obs(gene=["A"] * 31 + ["NT"] * 33, guide=guide)
    settings = replace(SETTINGS, control="NT", cell_line_columns=[], min_cells=30)
    design = make_design(obs, settings)
    counts = design.replicates.groupby("label")["n_cells"].apply(sorted)
    # 3 cells of n3 are too few, also together
    assert counts[0] == [15, 15] and counts[1] == [11, 20]
    assert (design.replicate == -1).sum() == 3 and design.replicates["of_guides"].all()
    assert design.replicate[20] == design.replicate[30]


def test_without_guides_parts_are_random_and_reproducible():
    obs = made_up_obs(gene=["A"] * 45 + ["NT"] * 200)
    settings = replace(SETTINGS, control="NT", guide_column="", cell_line_columns=[])
    design, again = make_design(obs, settings), make_design(obs, settings)
    other = make_design(obs, replace(settings, seed=1))
    assert np.array_equal(design.replicate, again.replicate) and not np.array_equal(design.replicate, other.replicate)
    assert sorted(design.replicates.loc[design.replicates["label"] == 1, "n_cells"]) == [11, 11, 11, 12]
    assert list(design.replicates.loc[design.replicates["label"] == 0, "n_cells"]) == [50] * 4
    assert not design.replicates["of_guides"].any() and "no guides" in design.notes[0]


def test_one_control_guide_is_split():
    obs = made_up_obs(gene=["A"] * 40 + ["NT"] * 40, guide=["g1"] * 20 + ["g2"] * 20 + ["n"] * 40)
    design = make_design(obs, replace(SETTINGS, control="NT", cell_line_columns=[]))
    assert design.replicates["of_guides"].tolist() == [False] * 4 + [True] * 2
    assert "fewer than two control guides" in design.notes[0]


def test_cell_lines_without_enough_cells_are_left_out():
    lines = ["K562"] * 80 + ["RPE1"] * 45
    genes = ["A"] * 40 + ["NT"] * 40 + ["A"] * 40 + ["NT"] * 5
    obs = made_up_obs(gene=genes, guide=["g"] * 125, cell_line=lines)
    design = make_design(obs, replace(SETTINGS, control="NT"))
    assert set(design.replicates["cell_line"]) == {"K562"}
    with pytest.raises(
        DataError, match=r"no cell line has 100 control cells .*groups are 40 of NT in K562, 40 of A.*Lower min_cells"
    ):
        make_design(obs, replace(SETTINGS, control="NT", min_cells=100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"perturbation_column": "target"},
            r"no obs column 'target' \(perturbation_column\); it has gene, guide, .*\('non-targeting' is in obs\['gene",
        ),
        ({"guide_column": "sgRNA"}, r"no obs column 'sgRNA' \(guide_column\); it has gene, guide"),
        ({"cell_line_columns": ["line"]}, r"no obs column 'line' \(cell_line_columns\)"),
        (
            {"control": "NT"},
            r"no cell has the control label 'NT' in obs\['gene'\]; its labels .*control cells may be 'non-targeting'",
        ),
        ({"min_control_counts": 1e9}, r"no gene has 1e\+09 counts in the control cells of K562. Lower min_control"),
        ({"gene_column": "nothing"}, r"var has no column 'nothing'"),
    ],
)
def test_what_is_missing_is_said(screen, changes, message):
    with pytest.raises(DataError, match=message):
        screen_responses(screen.cells, replace(SETTINGS, **changes))


def test_a_file_that_is_no_screen(tmp_path):
    path = tmp_path / "x.h5ad"
    with pytest.raises(DataError, match=r"Cannot read the screen .*x\.h5ad"):
        read_screen(replace(SETTINGS, path=str(path)))
    path.write_text("no HDF5")
    with pytest.raises(DataError, match=r"Cannot read the screen .*Expected an AnnData file"):
        read_screen(replace(SETTINGS, path=str(path)))
    with pytest.raises(SettingsError, match="`control` must name the label"):
        ScreenSettings("a.h5ad", perturbation_column="gene")
    with pytest.raises(SettingsError, match="`perturbation_column` must name the obs column"):
        ScreenSettings("a.h5ad", control="NT")


def test_knock_outs_and_activations_and_the_unmeasured():
    screen = synthetic_screen(2, n_sources=4, efficacy=-2.0)  # a source rises to three times its level
    kinds = {}
    for kind in ("knock-down", "knock-out", "activation"):
        one = screen_responses(screen.cells, replace(SETTINGS, kind=kind))[0]
        kinds[kind] = set(one.knock_downs["status"]), bool(one.used.any())
    assert kinds["knock-down"] == ({"not verified"}, False)
    assert kinds["knock-out"] == ({"not judged"}, True)
    assert kinds["activation"] == ({"verified"}, True)
    cells = screen.cells[:, ~screen.cells.var_names.isin(screen.effects["source_gene"])].copy()
    for unverified in ("drop", "keep"):
        one = screen_responses(cells, replace(SETTINGS, unverified=unverified))[0]
        assert set(one.knock_downs["status"]) == {"not measured"}
        assert one.used.all() == (unverified == "keep")
        assert one.knock_downs["log_fc"].isna().all()


# ------------------------------------------------------------------------------------------------ tables


TABLE = pd.DataFrame(
    {
        "perturbed_gene": ["A", "A", "A", "B", "B"],
        "measured_gene": ["A", "C", "D", "C", "B"],
        "log_fc": [-2.0, 1.0, np.nan, -0.5, 0.1],
        "lfcSE": [0.2, 0.25, 0.1, 1.0, 0.3],
        "condition": ["x"] * 5,
    }
)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.txt", "t.parquet"])
def test_a_table_of_changes(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        TABLE.to_parquet(path)
    else:
        TABLE.to_csv(path, sep="," if "csv" in name else "\t", index=False)
    (one,) = read_screen(ScreenSettings(str(path), cell_line_columns=["condition"]))
    assert (one.screen, one.cell_line, list(one.sources), list(one.genes)) == ("t", "x", ["A", "B"], ["A", "B", "C"])
    expected = [[-2.0, np.nan, 1.0], [np.nan, 0.1, -0.5]]
    assert np.allclose(one.log_fc, expected, equal_nan=True)
    assert one.knock_downs["status"].tolist() == ["verified", "not verified"]
    # two tests per perturbation: |z| = 10 and 4 for A
    assert one.q_value[0, 0] == pytest.approx(2 * 1.5e-23, rel=0.1)
    assert one.q_value[0, 2] == pytest.approx(6.3e-5, rel=0.05)
    assert one.coexpression is None and one.published_log_fc is None and np.isnan(one.expression).all()
    assert "3" in one.notes[0] or "4 of 6" in one.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_fc": None}, r"no column 'log_fc'; it has perturbed_gene.*give a column log_fc"),
        ({"perturbed_gene": None}, r"no column 'perturbed_gene'; .*give perturbation_column"),
        ({"measured_gene": ["A", "A", "D", "C", "B"]}, r"A and A more than once in x. Name the columns"),
        ({"log_fc": [np.nan] * 5}, r"no finite log-fold change"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, changes, message):
    frame = TABLE.copy()
    for name, values in changes.items():
        frame = frame.drop(columns=name) if values is None else frame.assign(**{name: values})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=message):
        read_screen(ScreenSettings(str(tmp_path / "t.csv"), cell_line_columns=["condition"]))


def test_no_table(tmp_path):
    with pytest.raises(DataError, match="Cannot read the screen"):
        read_screen(ScreenSettings(str(tmp_path / "absent.tsv")))
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(DataError, match="neither a table nor an AnnData file"):
        read_screen(ScreenSettings(str(tmp_path / "x.pkl")))
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(DataError, match="Cannot read the screen"):
        read_screen(ScreenSettings(str(tmp_path / "x.csv")))


# ------------------------------------------------------------------------------------------------ real screens


def real(folder: Path, name: str, **changes: object) -> ScreenSettings:
    path = folder / "perturbation" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return ScreenSettings(str(path), **changes)


def test_tap_seq_enhancers_lower_what_they_are_known_to_regulate(real_data):
    """K562 CRISPRi (Schraivogel 2020): HS2 regulates HBE1; every targeted promoter lowers its own transcript."""
    settings = real(
        real_data,
        "schraivogel_tapseq_k562_crispri_72genes_raw.h5ad",
        control="non-targeting",
        perturbation_column="perturbation",
        guide_column="grna",
    )
    (one,) = read_screen(settings)
    measured = one.knock_downs[one.knock_downs["status"] != "not measured"]
    assert len(measured) == 10 and (measured["status"] == "verified").all()
    sources, hbe1 = list(one.sources), list(one.genes).index("HBE1")
    for site in "ABCD":
        row = sources.index(f"HS2-{site}")
        assert one.log_fc[row, hbe1] < -1.5 and one.q_value[row, hbe1] < 1e-10
        assert one.log_fc[row, hbe1] == np.nanmin(one.log_fc[row])
    # guides at the promoter move few genes but their own
    promoters = [sources.index(gene) for gene in measured["source_gene"]]
    assert (one.q_value[promoters] <= 0.05).sum() <= 3 * len(promoters)


def test_knock_outs_of_one_pathway_move_the_same_genes(real_data):
    """THP-1 ECCITE-seq (Papalexi 2021): IFNGR1, IFNGR2, JAK2, STAT1 are one pathway; CD86 and CAV1 are not."""
    settings = real(
        real_data,
        "papalexi_eccite_thp1_299genes_raw.h5ad",
        kind="knock-out",
        control="non-targeting",
        perturbation_column="perturbation",
        guide_column="grna",
    )
    (one,) = read_screen(settings)
    change = one.log_fc.copy()
    change[np.arange(len(one.sources)), np.maximum(one.own, 0)] = np.where(one.own >= 0, np.nan, change[:, 0])
    row = dict(zip(one.sources, np.nan_to_num(change), strict=True))
    pathway = np.corrcoef([row[gene] for gene in ("IFNGR1", "IFNGR2", "JAK2", "STAT1")])
    assert pathway[np.triu_indices(4, 1)].min() > 0.7
    apart = np.corrcoef([row["STAT1"], row["CD86"], row["CAV1"]])
    assert np.abs(apart[0, 1:]).max() < 0.3


def test_stimulated_and_unstimulated_cells_are_two_lines(real_data):
    settings = real(
        real_data,
        "datlinger_scifi_cropseq_jurkat_2000genes_raw.h5ad",
        kind="knock-out",
        control="control",
        perturbation_column="perturbation",
        guide_column="grna",
        cell_line_columns=["cell_line", "stimulation"],
    )
    found = read_screen(settings)
    assert [one.cell_line for one in found] == ["Jurkat cells, stimulated", "Jurkat cells, unstimulated"]
    assert all(len(one.sources) == 20 and "fewer than two control guides" in one.notes[0] for one in found)


def test_fold_changes_of_t_cells(real_data):
    settings = real(real_data, "cd4_crispri_robust_edges_balanced30.csv.gz", cell_line_columns=["condition"])
    found = read_screen(settings)
    assert [one.cell_line for one in found] == ["Rest", "Stim48hr", "Stim8hr"]
    own = pd.concat([one.knock_downs for one in found])
    known = own[own["status"] != "not measured"]
    assert len(known) >= 20 and (known["log_fc"] < -0.5).all()
