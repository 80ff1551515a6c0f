"""Shared fixtures: small models in the published formats, small data, and the folder of real data where present."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import cellcircuits as cc
from cellcircuits.fit import fit_saes
from cellcircuits.models.toy import ToyModel
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.run import create_run
from cellcircuits.settings import CellsSettings, TrainSettings, settings_from_dict

PLAIN = {"readouts": ["source"], "random_directions": 0, "matched_features": 0}
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
SPECIAL_V2 = ("<pad>", "<mask>", "<cls>", "<eos>")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: side by side, the last to begin should be short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real public data; tests that need it are skipped on machines without it."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data are not on this machine ({REAL_DATA})")
    return REAL_DATA


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Two, or one where files of tests run side by side."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def pbmc() -> ad.AnnData:
    """The demo cells: 700 real PBMCs with raw counts."""
    return cc.demo_cells()


@pytest.fixture(scope="session", params=["geneformer", "scgpt"])
def family(request: pytest.FixtureRequest) -> str:
    """Both adapters in turn."""
    return request.param


@pytest.fixture(scope="session")
def demo_model(family: str) -> cc.Model:
    """The shipped small model of the family."""
    return cc.load_model(family, "demo")


@pytest.fixture(scope="session")
def demo_tokens(demo_model: cc.Model, pbmc: ad.AnnData) -> cc.Tokens:
    """All demo cells as tokens of that model."""
    return demo_model.tokenize(pbmc)


@pytest.fixture(scope="session")
def quick_saes(demo_model: cc.Model, demo_tokens: cc.Tokens) -> dict[int, cc.TopKSAE]:
    """Briefly trained autoencoders of every layer of that model."""
    settings = TrainSettings(epochs=1, k=8, expansion=2, batch_positions=1024, buffer_positions=8192)
    return fit_saes(demo_model, demo_tokens.take(range(60)), list(range(demo_model.n_layers)), settings)


@pytest.fixture
def toy_cells() -> ad.AnnData:
    """60 cells x 40 genes named as the toy model wants them."""
    return make_toy_cells()


def make_toy_cells() -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.6, size=(60, 40)).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame({"cell_type": np.where(np.arange(60) < 20, "A", "B")}, index=[f"c{i}" for i in range(60)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(40)]))


@pytest.fixture(scope="session")
def write_dictionaries() -> Callable[..., list[str]]:
    """Function that writes the four Geneformer dictionaries of a made-up vocabulary and returns its Ensembl ids."""

    def write(folder: Path, n_genes: int, special: tuple[str, ...] = SPECIAL_V2, version: str = "_gc104M") -> list[str]:
        genes = [f"ENSG{i:011d}" for i in range(1, n_genes + 1)]
        symbols = {f"SYM{i}": gene for i, gene in enumerate(genes)}
        contents = {
            "token_dictionary": {name: token for token, name in enumerate([*special, *genes])},
            "gene_median_dictionary": {gene: np.float64(1 + i % 7) for i, gene in enumerate(genes)},
            "gene_name_id_dict": symbols,
            "ensembl_mapping_dict": {gene: gene for gene in genes} | symbols,
        }
        folder.mkdir(parents=True, exist_ok=True)
        for stem, content in contents.items():
            (folder / f"{stem}{version}.pkl").write_bytes(pickle.dumps(content))
        return genes

    return write


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with everything a run of the toy model reads: cells.h5ad, saes/L00 to L02, sets.gmt. Not to be changed."""
    folder = tmp_path_factory.mktemp("toy")
    make_toy_cells().write_h5ad(folder / "cells.h5ad")
    for layer, sae in ToyModel().saes().items():
        sae.save(folder / "saes" / f"L{layer:02d}")
    lines = [f"set {i}\t-\t" + "\t".join(f"GENE{j}" for j in range(8 * i, 8 * i + 8)) for i in range(5)]
    (folder / "sets.gmt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def toy_settings(toy_files: Path) -> Callable[..., cc.Settings]:
    """Function toy_settings(section={name: value}, ...) that gives the settings of a run of the toy model."""

    def make(**changes: dict) -> cc.Settings:
        content: dict[str, dict] = {
            "model": {"family": "toy"},
            "cells": {"data": str(toy_files / "cells.h5ad")},
            "train": {"saes": str(toy_files / "saes")},
            "annotate": {"gene_sets": [str(toy_files / "sets.gmt")], "null_draws": 20},
            "trace": {
                "select": "frequent",
                "source_layers": [0, 1],
                "cells_per_part": 10,
                **PLAIN,
            },
        }
        for section, values in changes.items():
            content[section] = content.get(section, {}) | values
        return settings_from_dict(content)

    return make


@pytest.fixture(scope="session")
def _finished_toy_run(tmp_path_factory: pytest.TempPathFactory, toy_settings: Callable[..., cc.Settings]) -> Path:
    run = create_run(tmp_path_factory.mktemp("finished") / "run", toy_settings())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_pipeline(run, Progress(), until="findings")
    torch.set_num_threads(threads)
    return run.folder


@pytest.fixture
def model() -> ToyModel:
    return ToyModel().eval().requires_grad_(False)


@pytest.fixture
def tokens(model: ToyModel, toy_cells: ad.AnnData) -> cc.Tokens:
    return model.tokenize(toy_cells, CellsSettings())


@pytest.fixture
def toy_run(_finished_toy_run: Path, tmp_path: Path) -> cc.OpenRun:
    """A copy of a finished run of the toy model, up to the findings, that a test may damage."""
    shutil.copytree(_finished_toy_run, tmp_path / "run")
    return cc.open_run(tmp_path / "run")


@pytest.fixture(scope="session")
def _demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of the scGPT-format demo model, annotated; autoencoders with random weights, so that nothing is trained."""
    folder = tmp_path_factory.mktemp("demo")
    generator = torch.Generator().manual_seed(0)
    for layer in range(4):
        sae = cc.TopKSAE(96, 384, k=8)
        directions = torch.randn(384, 96, generator=generator)
        sae.W_dec.data = directions / directions.norm(dim=1, keepdim=True)
        sae.W_enc.data = sae.W_dec.data.T.clone()
        sae.save(folder / "saes" / f"L{layer:02d}")
    content = {
        "model": {"family": "scgpt", "path": "demo"},
        "cells": {"data": "demo", "n_cells": 6},
        "train": {"saes": str(folder / "saes"), "accept_input_mode": "official"},
        "annotate": {"null_draws": 5, "min_firings": 1},
        "trace": {"select": "frequent", "source_layers": [0, 2], "n_features": 4, "cells_per_part": 2, "threads": 2},
    }
    run = create_run(folder / "run", settings_from_dict(content))
    run_pipeline(run, Progress(), until="annotate")
    return run.folder


@pytest.fixture
def demo_run(_demo_run: Path, tmp_path: Path) -> cc.OpenRun:
    """A copy of a run of the scGPT-format demo model that is ready to trace: 6 cells, 8 sources, 2 threads."""
    shutil.copytree(_demo_run, tmp_path / "run")
    return cc.open_run(tmp_path / "run")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are many times faster without a second thread that has to be waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
