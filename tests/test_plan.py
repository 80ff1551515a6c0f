"""The cost that is announced, against operations counted while they run."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import cellcircuits as cc
from cellcircuits.autoencoders import SparseCode, TopKSAE
from cellcircuits.catalogue import count_firings
from cellcircuits.controls import control_directions, direction_names
from cellcircuits.errors import SettingsError
from cellcircuits.fit import fit_saes, fit_seeds
from cellcircuits.model_shape import PUBLISHED_SHAPES, ModelShape, model_shape
from cellcircuits.models.encoder import EncoderBlock
from cellcircuits.models.geneformer import CONFIG_DEFAULTS, Geneformer
from cellcircuits.moments import save_moments
from cellcircuits.plan import cell_lengths, estimate, matmul_rate
from cellcircuits.quality import measure_quality
from cellcircuits.settings import TraceSettings, settings_from_dict
from cellcircuits.tokens import Tokens
from cellcircuits.trace_plan import CONTROL_READOUTS
from cellcircuits.trace_work import block_operations, works
from cellcircuits.tracing import trace_cells

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = ModelShape(n_layers=4, d_model=32, d_feedforward=64, n_tokens=50, max_length=40)
LENGTHS = np.array([30, 18, 25, 40, 12, 33])


def operations(work) -> int:
    """Operations of matrix products while `work()` runs."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={fused: attention_operations})
    with sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return counter.get_total_flops()


def attention_operations(query, key, *_, **__) -> int:
    """Two products of queries and keys, (cell, head, position, d_head)."""
    cells, heads, queries, width = query
    return 4 * cells * heads * queries * key[2] * width


@pytest.fixture(scope="module")
def model() -> Geneformer:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings")
    config = CONFIG_DEFAULTS | dict(zip(names, vars(SHAPE).values(), strict=True)) | {"num_attention_heads": 4}
    torch.manual_seed(0)
    return Geneformer(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    rng = np.random.default_rng(0)
    made = Tokens.from_ids([rng.permutation(np.arange(4, 50))[:length] for length in LENGTHS])
    object.__setattr__(made, "gene_ids", np.array([""] * 4 + [f"G{i}" for i in range(4, 50)]))
    return made


def always_active(n_features: int = 64) -> TopKSAE:
    """Every feature fires at every position."""
    sae = TopKSAE(SHAPE.d_model, n_features, n_features).requires_grad_(False)
    sae.b_enc += 1
    sae.W_dec += 0.01
    return sae


def costs(**sections) -> dict:
    planned = estimate(settings_from_dict(sections), SHAPE, LENGTHS)
    return {f"{cost.stage} {cost.part}".strip(): cost for cost in planned}


def test_a_block_costs_what_is_counted():
    block = EncoderBlock(SHAPE.d_model, 4, SHAPE.d_feedforward, 1e-12).eval()

    def run_all():
        for length in LENGTHS:
            block(torch.zeros(1, length, SHAPE.d_model))

    assert block_operations(SHAPE, LENGTHS) == pytest.approx(operations(run_all), rel=0.02)


class TakingTurns(TopKSAE):
    """6 of 64 features fire at each position, all equally often."""

    def encode(self, hidden: torch.Tensor) -> SparseCode:
        code = super().encode(hidden)
        turns = torch.arange(code.indices.numel()) % self.n_features
        return SparseCode(torch.ones_like(code.values), turns.reshape(code.indices.shape))


def rarely_active() -> TopKSAE:
    sae = TakingTurns(SHAPE.d_model, 64, 6).requires_grad_(False)
    sae.W_dec += 0.01
    return sae


EVERY_READOUT = ["source", "target", "other", "pre", "computed"]


@pytest.mark.parametrize("make_sae", [always_active, rarely_active])
@pytest.mark.parametrize(
    ("context", "readouts"),
    [("exact", ["source"]), ("exact", EVERY_READOUT), ("exact", ["source", "pre"]), ("frozen", ["source", "computed"])],
)
@pytest.mark.parametrize(
    ("sources", "targets"), [({0: [0, 1, 2], 1: [5, 6, 7]}, [1, 2, 3]), ({0: [1, 2, 3]}, [2]), ({2: [4, 5, 6]}, [3])]
)
def test_a_trace_costs_what_is_counted(model, tokens, sources, targets, context, readouts, make_sae):
    saes = {layer: make_sae() for layer in range(4)}
    above = {layer: [t for t in targets if t > layer] for layer in sources}
    chosen = {layer: np.array(features) for layer, features in sources.items()}
    settings = TraceSettings(batch_size=1, context=context, readouts=readouts)
    counted = operations(lambda: trace_cells(model, tokens, saes, chosen, above, settings))
    trace = {"source_layers": list(sources), "target_layers": targets, "n_features": 3, "context": context}
    content = {"train": {"expansion": 2, "k": saes[0].k}, "trace": trace | {"readouts": readouts}}
    planned = works(settings_from_dict(content), SHAPE, LENGTHS)[""]
    # the plan takes every source to be active at the average number of positions
    assert planned.operations() == pytest.approx(counted, rel=0.06)
    assert planned.passes() == 6 * (1 + 3 * len(sources))


def test_controls_cost_what_is_counted(model, tokens):
    saes = {layer: rarely_active() for layer in range(4)}
    settings = TraceSettings(batch_size=1, context="frozen", readouts=CONTROL_READOUTS)
    features = np.array([4, 5, 6])
    vectors = {0: control_directions(saes[0], 0, features, np.array([[1], [2], [3]]), 2, seed=0)}
    names = direction_names(2, 1)
    counted = operations(
        lambda: trace_cells(model, tokens, saes, {0: features}, {0: [2]}, settings, None, vectors, names)
    )
    trace = {"source_layers": [0], "target_layers": [2], "n_features": 3, "random_directions": 2, "matched_features": 1}
    content = {"train": {"expansion": 2, "k": saes[0].k}, "trace": trace}
    planned = works(settings_from_dict(content), SHAPE, LENGTHS)["controls"]
    assert planned.operations() == pytest.approx(counted, rel=0.08)
    assert planned.passes() == 6 * (1 + 3 * 4)


def test_every_block_makes_clean_passes_of_its_own(model, tokens):
    """Blocks as a trace has them, each traced on its own."""
    saes = {layer: rarely_active() for layer in range(4)}
    trace = {"source_layers": [0, 2], "n_features": 30, "readouts": ["source"], "block_megabytes": 1}
    content = {"train": {"expansion": 2, "k": saes[0].k}, "trace": trace}
    planned = works(settings_from_dict(content), SHAPE, LENGTHS)[""]
    planned = replace(planned, block_megabytes=0.1)
    assert planned.blocks == [{0: 13}, {0: 13}, {0: 4, 2: 27}, {2: 3}]
    settings = TraceSettings(batch_size=1, readouts=["source"])
    counted, first = 0, {0: 0, 2: 0}
    for block in planned.blocks:
        sources = {layer: np.arange(first[layer], first[layer] + number) for layer, number in block.items()}
        first = {layer: first[layer] + block.get(layer, 0) for layer in first}
        above = {layer: list(range(layer + 1, 4)) for layer in block}
        counted += operations(lambda s=sources, a=above: trace_cells(model, tokens, saes, s, a, settings))
    assert planned.operations() == pytest.approx(counted, rel=0.06)
    assert planned.passes() == 6 * (4 + 60)


def test_controls_in_an_exact_context():
    trace = {"control_context": "exact", "readouts": ["source", "other"]}
    work = works(settings_from_dict({"trace": trace}), SHAPE, LENGTHS)["controls"]
    assert not work.frozen and work.readouts == [*CONTROL_READOUTS, "other"]


def test_a_screen_may_trace_every_source_in_both_contexts():
    planned = works(settings_from_dict({"trace": {"context": "screen"}}), SHAPE, LENGTHS)
    assert [(name, work.frozen) for name, work in planned.items()] == [("", True), ("controls", True), ("exact", False)]
    assert planned[""].passes() == planned["exact"].passes()


def test_the_catalogue_costs_what_is_counted(model, tokens):
    saes = {layer: always_active() for layer in (0, 2)}
    # one cell at a time: the plan does not count padding
    counted = operations(lambda: count_firings(model, tokens, saes, 1))
    planned = costs(train={"expansion": 2, "k": 64, "layers": [0, 2]})["annotate"]
    assert planned.operations == pytest.approx(counted, rel=0.02)
    assert planned.passes == 6


def test_training_costs_what_is_counted(model, tokens):
    sections = {"expansion": 2, "k": 4, "layers": [0, 3], "epochs": 2, "model_batch": 1, "held_out": 0.01}
    settings = settings_from_dict({"train": sections | {"batch_positions": 32, "buffer_positions": 64}}).train
    counted = operations(lambda: fit_saes(model, tokens, [0, 3], settings))
    # rows that are gathered and added up are no products that can be counted: 6 of 8 d k
    counted += 6 * SHAPE.d_model * 4 * 2 * 2 * sum(LENGTHS)
    planned = costs(train=sections)["train"]
    assert planned.operations == pytest.approx(counted, rel=0.04)
    assert planned.passes == 12


def test_dense_training_costs_what_is_counted(model, tokens):
    """Too many active features for gathering."""
    sections = {"expansion": 2, "k": 5, "layers": [0, 3], "epochs": 2, "model_batch": 1, "held_out": 0.01}
    settings = settings_from_dict({"train": sections | {"batch_positions": 32, "buffer_positions": 64}}).train
    counted = operations(lambda: fit_saes(model, tokens, [0, 3], settings))
    dense = costs(train=sections)["train"].operations
    assert dense == pytest.approx(counted, rel=0.04)
    assert costs(train=sections | {"k": 4}, model={"device": "cuda"})["train"].operations == dense


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka", "jumprelu"])
def test_the_training_of_saelens_costs_what_is_counted(model, tokens, architecture):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed (the extra `train`)")
    sections = {"architecture": architecture, "expansion": 2, "k": 4, "layers": [0, 3], "model_batch": 1, "epochs": 1}
    sections |= {"held_out": 0.01, "dead_after_positions": 10**9}
    settings = settings_from_dict({"train": sections | {"batch_positions": 32, "buffer_positions": 64}}).train
    # once, so that the starting thresholds of JumpReLU do not count
    counted = operations(lambda: fit_saes(model, tokens, [0, 3], settings))
    assert costs(train=sections)["train"].operations == pytest.approx(counted, rel=0.06)


def test_several_seeds_cost_what_is_counted(model, tokens):
    sections = {"expansion": 2, "k": 4, "layers": [0, 3], "epochs": 2, "model_batch": 1, "held_out": 0.01}
    settings = settings_from_dict(
        {"train": sections | {"n_seeds": 3, "batch_positions": 32, "buffer_positions": 64}}
    ).train
    counted = operations(lambda: fit_seeds(model, tokens, [0, 3], settings))
    counted += 6 * SHAPE.d_model * 4 * 2 * 2 * 3 * sum(LENGTHS)
    one, three = costs(train=sections)["train"], costs(train=sections | {"n_seeds": 3})["train"]
    assert three.operations == pytest.approx(counted, rel=0.04)
    assert three.passes == one.passes == 12
    assert three.disk_bytes == 3 * one.disk_bytes and three.memory_bytes > one.memory_bytes


@pytest.mark.parametrize("quality_cells", [0, 2, 50])
def test_quality_costs_what_is_counted(model, tokens, monkeypatch, quality_cells):
    """Of 6 cells 5 are held out; the plan does not count padding, so there is none."""
    monkeypatch.setattr("cellcircuits.splicing.FINAL_BATCH", 1)
    saes = {layer: rarely_active() for layer in (0, 2)}
    held_out = tokens.take(np.arange(1, 6))
    counted = operations(lambda: measure_quality(model, held_out, saes, 1, quality_cells))
    sections = {"expansion": 2, "k": 6, "layers": [0, 2], "quality_cells": quality_cells, "held_out": 0.9}
    planned = costs(train=sections)["train quality"]
    assert planned.operations == pytest.approx(counted, rel=0.03)
    assert planned.passes == 5 + 2 * 5 * min(quality_cells, 5)


def test_taking_over_autoencoders_costs_no_passes():
    taken = costs(train={"saes": "/somewhere"})["train"]
    assert (taken.passes, taken.operations) == (0, 0)


def test_the_disk_of_a_trace_is_that_of_its_moments(model, tokens, tmp_path):
    saes = {layer: always_active() for layer in range(4)}
    above = {0: [1, 2, 3], 1: [2, 3]}
    found = trace_cells(model, tokens, saes, {0: np.arange(3), 1: np.arange(3)}, above, TraceSettings())
    for layer, moments in found.items():
        save_moments(moments, tmp_path / f"{layer}")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    # 6 cells in parts of 2: three parts and their sum
    trace = {"source_layers": [0, 1], "n_features": 3, "cells_per_part": 2}
    trace |= {"random_directions": 0, "matched_features": 0}
    assert costs(train={"expansion": 2, "k": 64}, trace=trace)["trace"].disk_bytes == pytest.approx(4 * size, rel=0.1)


def test_default_sources_are_those_of_the_trace():
    explicit = costs(train={"layers": [1, 3]}, trace={"source_layers": [1], "n_features": 5})["trace"]
    assert costs(train={"layers": [1, 3]}, trace={"n_features": 5})["trace"] == explicit


def test_pairs_are_of_two():
    assert costs(trace={"select": "matched", "n_features": 5})["trace"] == costs(trace={"n_features": 4})["trace"]


def test_more_of_anything_costs_more():
    base = {"n_features": 5, "n_cells": 3}
    few = costs(trace=base)["trace"]
    for more in ({"n_features": 9}, {"n_cells": 6}, {"select": "all"}):
        assert costs(trace=base | more)["trace"].operations > few.operations
    assert costs(train={"expansion": 8})["train"].memory_bytes > costs()["train"].memory_bytes


# ------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("V1-10M", "Geneformer-V1-10M"),
        ("V1-12L", "Geneformer-V1-12L-30M"),
        ("V2-104M", "Geneformer-V2-104M"),
        ("V2-316M", "Geneformer-V2-316M"),
    ],
)
def test_published_shapes_are_those_of_the_files(real_data, tmp_path, variant, name):
    (tmp_path / "config.json").write_text((real_data / "geneformer" / f"{name}.config.json").read_text())
    assert model_shape(settings_from_dict({"model": {"path": str(tmp_path)}})) == PUBLISHED_SHAPES[variant]


def test_the_shape_of_scgpt_is_that_of_its_files(real_data, tmp_path):
    published = real_data / "scgpt"
    (tmp_path / "args.json").write_bytes((published / "whole_human_args.json").read_bytes())
    (tmp_path / "vocab.json").write_bytes(gzip.decompress((published / "whole_human_vocab.json.gz").read_bytes()))
    assert model_shape(settings_from_dict({"model": {"path": str(tmp_path)}})) == PUBLISHED_SHAPES["whole-human"]


@pytest.mark.parametrize(("variant", "millions"), [("V1-10M", 10.3), ("V2-104M", 104), ("V2-316M", 316)])
def test_weights_have_the_size_in_the_name(variant, millions):
    assert PUBLISHED_SHAPES[variant].weight_bytes == pytest.approx(4e6 * millions, rel=0.02)


@pytest.mark.parametrize(("mode", "longest"), [("official", 4096), ("published", 2048)])
def test_a_plan_needs_neither_data_nor_checkpoint(mode, longest):
    content = {"model": {"variant": "V2-316M"}, "cells": {"n_cells": 100, "input_mode": mode, "data": "/absent.h5ad"}}
    settings = settings_from_dict(content)
    shape = model_shape(settings)
    lengths = cell_lengths(settings, shape)
    assert list(lengths) == [longest] * 100
    assert all(cost.operations > 1e12 for cost in estimate(settings, shape, lengths))


def test_data_without_a_checkpoint_give_the_number_of_cells(toy_files):
    content = {"model": {"variant": "V1-10M"}, "cells": {"data": str(toy_files / "cells.h5ad"), "max_length": 500}}
    settings = settings_from_dict(content)
    assert list(cell_lengths(settings, model_shape(settings))) == [500] * 60


def test_data_and_checkpoint_give_the_length_of_every_cell(demo_model, family, pbmc):
    settings = settings_from_dict({"model": {"family": family, "path": "demo"}, "cells": {"data": "demo"}})
    shape = model_shape(settings)
    assert (shape.n_layers, shape.d_model) == (demo_model.n_layers, demo_model.d_model)
    assert np.array_equal(cell_lengths(settings, shape), demo_model.tokenize(pbmc).lengths)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, r"size of the model is unknown: model\.path is not set, and model\.variant = '' is none of V1-10M"),
        ({"variant": "V3"}, r"model\.variant = 'V3' is none of V1-10M, V1-12L, V2-104M, V2-316M, whole-human"),
        ({"path": "/absent"}, r"there is no checkpoint at /absent"),
    ],
)
def test_an_unknown_model(model, message):
    with pytest.raises(SettingsError, match=message):
        model_shape(settings_from_dict({"model": model}))


def test_files_in_the_current_folder_are_no_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert model_shape(settings_from_dict({"model": {"variant": "V1-10M"}})) == PUBLISHED_SHAPES["V1-10M"]


def test_a_configuration_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(SettingsError, match=r"config\.json lacks num_hidden_layers, intermediate_size"):
        model_shape(settings_from_dict({"model": {"path": str(tmp_path)}}))


@pytest.mark.parametrize(
    ("data", "message"), [("/absent.h5ad", "there is no file /absent.h5ad"), ("", "cells.data is not set")]
)
def test_an_unknown_number_of_cells(data, message):
    settings = settings_from_dict({"model": {"variant": "V1-10M"}, "cells": {"data": data}})
    with pytest.raises(SettingsError, match=f"number of cells is unknown: {message}, and cells.n_cells is 0"):
        cell_lengths(settings, model_shape(settings))


def test_the_rate_of_this_machine():
    assert matmul_rate(0.02) > 1e8


def test_every_shipped_settings_file_can_be_planned():
    data = Path(cc.__file__).parent / "data"
    for path in sorted(data.glob("demo_*.toml")):
        settings = cc.read_settings(path)
        shape = model_shape(settings)
        assert all(cost.memory_bytes < 4e9 for cost in estimate(settings, shape, cell_lengths(settings, shape)))


def test_the_model_with_random_weights_is_trained_and_catalogued_too():
    alone, both = costs(), costs(train={"random_weights": True})
    for stage in ("train", "annotate"):
        assert both[stage].passes == 2 * alone[stage].passes
        assert both[stage].operations == 2 * alone[stage].operations
        assert both[stage].disk_bytes == 2 * alone[stage].disk_bytes
        assert both[stage].memory_bytes > alone[stage].memory_bytes + SHAPE.weight_bytes / 2
    taken = costs(train={"saes": "/somewhere", "random_weights": True})["train"]
    assert (taken.passes, taken.operations) == (alone["train"].passes, alone["train"].operations)


@pytest.mark.parametrize(
    ("trace", "like"),
    [
        ({}, "controls"),
        ({"random_directions": 0, "matched_features": 0}, ""),
        ({"control_context": "exact"}, "controls"),
    ],
)
def test_the_model_with_random_weights_is_traced_like_the_sources(trace, like):
    content = {"train": {"random_weights": True}, "trace": {"n_features": 3, **trace}}
    planned = works(settings_from_dict(content), SHAPE, LENGTHS)
    assert planned["random_weights"] == replace(planned[like], n_directions=1)
    assert planned["random_weights"].passes() == planned[""].passes()
    cost = {cost.part: cost for cost in estimate(settings_from_dict(content), SHAPE, LENGTHS)}["random_weights"]
    assert cost.stage == "trace" and cost.operations == planned["random_weights"].operations()
