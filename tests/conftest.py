"""Shared fixtures: small models in the published formats, small data, and the folder of real data where present."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import cellcircuits as cc
from cellcircuits.fit import fit_saes
from cellcircuits.settings import TrainSettings

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real public data; tests that need it are skipped on machines without it."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data are not on this machine ({REAL_DATA})")
    return REAL_DATA


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


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
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.6, size=(60, 40)).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame({"cell_type": np.where(np.arange(60) < 20, "A", "B")}, index=[f"c{i}" for i in range(60)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(40)]))
