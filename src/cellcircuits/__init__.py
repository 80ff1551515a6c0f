"""Find out how a single-cell foundation model computes.

import cellcircuits as cc
model = cc.load_model("geneformer", "demo")
cells = model.tokenize(cc.demo_cells())
moments = cc.trace(model, cells, cc.load_saes("runs/pbmc/sae"), source_layer=0, features=[3, 17])
edges = cc.edges(moments)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellcircuits import pl
    from cellcircuits.autoencoders import JumpReLUSAE, SparseAutoencoder, TopKSAE
    from cellcircuits.demo_data import demo_cells
    from cellcircuits.edge_calling import edges
    from cellcircuits.errors import CellCircuitsError
    from cellcircuits.intervention_settings import InterventionSettings
    from cellcircuits.intervention_tables import intervene
    from cellcircuits.interventions.changes import Change, Condition, condition
    from cellcircuits.interventions.engine import Intervener
    from cellcircuits.interventions.reference import measure_reference
    from cellcircuits.models import load_model
    from cellcircuits.models.base import Model, check_model
    from cellcircuits.moments import Moments
    from cellcircuits.opened import OpenRun, open_run
    from cellcircuits.published_atlas import PublishedAtlas, read_published_atlas
    from cellcircuits.resources import fetch_reference
    from cellcircuits.sae import convert_saes, load_saes
    from cellcircuits.scores import feature_adata, score_cells
    from cellcircuits.settings import Settings, read_settings, write_settings
    from cellcircuits.tokens import Tokens
    from cellcircuits.tracing import trace, trace_controls

_HOMES = {
    "CellCircuitsError": "errors",
    "Change": "interventions.changes",
    "Condition": "interventions.changes",
    "InterventionSettings": "intervention_settings",
    "Intervener": "interventions.engine",
    "JumpReLUSAE": "autoencoders",
    "Model": "models.base",
    "Moments": "moments",
    "OpenRun": "opened",
    "PublishedAtlas": "published_atlas",
    "Settings": "settings",
    "SparseAutoencoder": "autoencoders",
    "Tokens": "tokens",
    "TopKSAE": "autoencoders",
    "check_model": "models.base",
    "condition": "interventions.changes",
    "convert_saes": "sae",
    "demo_cells": "demo_data",
    "edges": "edge_calling",
    "feature_adata": "scores",
    "fetch_reference": "resources",
    "intervene": "intervention_tables",
    "load_model": "models",
    "load_saes": "sae",
    "measure_reference": "interventions.reference",
    "open_run": "opened",
    "read_published_atlas": "published_atlas",
    "read_settings": "settings",
    "score_cells": "scores",
    "trace": "tracing",
    "trace_controls": "tracing",
    "write_settings": "settings",
}

__all__ = [
    "CellCircuitsError",
    "Change",
    "Condition",
    "Intervener",
    "InterventionSettings",
    "JumpReLUSAE",
    "Model",
    "Moments",
    "OpenRun",
    "PublishedAtlas",
    "Settings",
    "SparseAutoencoder",
    "Tokens",
    "TopKSAE",
    "check_model",
    "condition",
    "convert_saes",
    "demo_cells",
    "edges",
    "feature_adata",
    "fetch_reference",
    "intervene",
    "load_model",
    "load_saes",
    "measure_reference",
    "open_run",
    "pl",
    "read_published_atlas",
    "read_settings",
    "score_cells",
    "trace",
    "trace_controls",
    "write_settings",
]
__version__ = version("cellcircuits")


def __getattr__(name: str) -> Any:
    # imported when first used: the command line's help and the tables need no torch
    if name == "pl":
        return import_module(f"{__name__}.pl")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
