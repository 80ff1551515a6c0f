"""The settings files of the published conditions: they parse, and cost what the documents say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellcircuits as cc
from cellcircuits.cell_data import read_cells
from cellcircuits.model_shape import model_shape
from cellcircuits.plan import cell_lengths, estimate
from cellcircuits.settings import Settings
from cellcircuits.trace_cost import StageCost
from cellcircuits.trace_work import works
from tests.scripts import load_script

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
PASSES = {
    "geneformer_exhaustive": (0, 2_000, 20 * 16 + 20 * 17 * 4_608),
    "geneformer_k562": (1_700, 2_000, 24_200),
    "geneformer_multi_saes": (3_400, 4_000, 6_200),
    "geneformer_k562_multi": (0, 2_000, 18_200),
    "geneformer_tabula_sapiens_multi": (0, 3_000, 18_200),
    "scgpt_tabula_sapiens": (12_750, 3_000, 18_200),
}
"""Passes of `train`, `annotate` and `trace`."""
PUBLISHED = {
    "geneformer_k562": (24_776, 4),
    "geneformer_k562_multi": (18_465, 3),
    "geneformer_tabula_sapiens_multi": (18_455, 3),
    "scgpt_tabula_sapiens": (18_495, 3),
}
"""Forward passes of the paper, and its source layers."""
TISSUES = ("immune", "kidney", "lung")


def planned(settings: Settings) -> list[StageCost]:
    shape = model_shape(settings)
    return estimate(settings, shape, cell_lengths(settings, shape))


def test_every_condition_has_an_example() -> None:
    assert {path.stem for path in EXAMPLES} == set(PASSES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_passes(path: Path) -> None:
    # unknown names are errors of `read_settings`
    assert tuple(cost.passes for cost in planned(cc.read_settings(path)) if not cost.part) == PASSES[path.stem]


@pytest.mark.parametrize("name", PUBLISHED)
def test_passes_are_those_of_the_paper(name: str) -> None:
    settings = cc.read_settings(ROOT / "examples" / f"{name}.toml")
    total, n_layers = PUBLISHED[name]
    n_cells = settings.trace.n_cells
    assert len(settings.trace.source_layers) == n_layers
    # the paper ran the clean pass once per source layer, and skipped the cells in which a source is silent
    possible = next(c.passes for c in planned(settings) if c.stage == "trace" and not c.part) - n_cells
    assert 0.99 * possible < total - n_cells * n_layers <= possible


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_commands_and_files(path: Path) -> None:
    settings, text = cc.read_settings(path), path.read_text(encoding="utf-8")
    assert f"cellcircuits run examples/{path.name} --out runs/{path.stem}" in text
    assert settings.cells.input_mode == "official"
    assert settings.cells.n_cells > 0
    if settings.train.saes:
        run = Path(settings.train.saes).parent
        assert Path(settings.train.saes).name == "sae"
        assert run.parent == ROOT / "runs"
        trained = cc.read_settings(ROOT / "examples" / f"{run.name}.toml")
        assert trained.model == settings.model
        for name in ("layers", "expansion", "k"):
            assert getattr(trained.train, name) == getattr(settings.train, name)


def test_the_exhaustive_example_traces_every_feature_that_has_a_layer_above() -> None:
    settings = cc.read_settings(ROOT / "examples" / "geneformer_exhaustive.toml")
    (work,) = works(settings, model_shape(settings), np.full(settings.cells.n_cells, 4096)).values()
    assert work.frozen and work.sources == dict.fromkeys(range(17), 4_608)
    assert sum(number for block in work.blocks for number in block.values()) == 17 * 4_608
    assert settings.trace.n_controls == 0 and settings.trace.min_firing_rate == 0


def test_the_document_says_what_plan_prints() -> None:
    text = (ROOT / "docs" / "published-conditions.md").read_text(encoding="utf-8")
    assert text == load_script("scripts/write_docs.py").conditions_page()
    for name in PUBLISHED:
        passes = PASSES[name][2]
        assert f"| `{name}` | trace | {passes:,} |" in text
        assert f"| {PUBLISHED[name][0]:,} |" in text


@pytest.fixture
def prepare(tmp_path: Path) -> ModuleType:
    """examples/prepare.py with the files that it makes from small stand-ins for the published ones."""
    module = load_script("examples/prepare.py")
    rng = np.random.default_rng(0)
    genes = [f"ENSG{i:011d}" for i in range(30)]

    def counts(n_cells: int, n_genes: int, obs: dict) -> ad.AnnData:
        matrix = rng.poisson(1.0, size=(n_cells, n_genes)).astype(np.float32)
        frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(n_cells)])
        return ad.AnnData(matrix, obs=frame, var=pd.DataFrame(index=genes[:n_genes]))

    counts(50, 20, {"gene": ["non-targeting"] * 30 + ["TP53"] * 20}).write_h5ad(tmp_path / "screen.h5ad")
    for tissue in TISSUES:
        part = counts(40, 30, {"cell_type": rng.choice(["T cell", "B cell", "macrophage"], 40)})
        part.var["feature_name"] = [f"GENE{i}" for i in range(30)]
        part.raw = part
        part.X = np.log1p(part.X)
        part.var_names = [f"{name}.3" for name in genes]
        part.write_h5ad(tmp_path / f"{tissue}.h5ad")
    module.k562(tmp_path / "screen.h5ad", tmp_path)
    module.tabula_sapiens([tmp_path / f"{tissue}.h5ad" for tissue in TISSUES], tmp_path, n_cells=20)
    module.both(tmp_path, n_cells=25)
    return module


def test_prepared_files_are_what_the_examples_ask_for(prepare: ModuleType, tmp_path: Path) -> None:
    for path in EXAMPLES:
        settings = cc.read_settings(path)
        made = tmp_path / Path(settings.cells.data).name
        cells = read_cells(replace(settings.cells, data=str(made), n_cells=0))
        assert sp.issparse(cells.X)
        assert (cells.X.data == np.rint(cells.X.data)).all()
        if settings.trace.stratify_by:
            assert settings.trace.stratify_by in cells.obs


def test_prepared_cells(prepare: ModuleType, tmp_path: Path) -> None:
    controls, tissues, both = (ad.read_h5ad(tmp_path / n) for n in (prepare.K562, prepare.TABULA_SAPIENS, prepare.BOTH))
    assert len(controls) == 30
    assert set(controls.obs["gene"]) == {"non-targeting"}
    assert dict(tissues.obs["tissue"].value_counts()) == dict.fromkeys(TISSUES, 20)
    assert tissues.obs["tissue_cell_type"].nunique() == 9
    assert list(tissues.var["feature_name"][:2]) == ["GENE0", "GENE1"]
    assert dict(both.obs["origin"].value_counts()) == {"K562": 25, "Tabula Sapiens": 25}
    assert both.n_vars == 30
    assert both[both.obs["origin"] == "K562", 20:].X.nnz == 0
