"""The model with random weights through the stages: autoencoders, features, sources and edges."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cellcircuits as cc
from cellcircuits.catalogue import count_firings
from cellcircuits.errors import ModelError, SettingsError
from cellcircuits.fit import fit_saes, split_cells
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.models.randomized import randomized
from cellcircuits.moments import load_moments, trace_files
from cellcircuits.pipeline import run_pipeline, run_stage
from cellcircuits.progress import Progress
from cellcircuits.quality import measure_quality
from cellcircuits.run import create_run
from cellcircuits.settings import settings_from_dict
from cellcircuits.stages import trace, train
from cellcircuits.summary import summarise
from cellcircuits.tables import read_table
from cellcircuits.threads import torch_threads
from cellcircuits.trace_plan import TracePlan
from tests.made_up import SHORT_RUN

pytestmark = pytest.mark.usefixtures("one_thread")
TRAIN = SHORT_RUN["train"] | {"random_weights": True}
WITHOUT_CONTROLS = {"cells_per_part": 40, "random_directions": 0, "matched_features": 0, "threads": 1}
CONTENT: dict[str, dict] = SHORT_RUN | {
    "train": TRAIN | {"seed": 7},
    "trace": SHORT_RUN["trace"] | WITHOUT_CONTROLS,
}


def settings(**changes: dict) -> cc.Settings:
    return settings_from_dict({name: values | changes.get(name, {}) for name, values in CONTENT.items()})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the baseline, annotated. Not to be changed."""
    run = create_run(tmp_path_factory.mktemp("baseline") / "run", settings())
    with torch_threads(1):
        run_pipeline(run, Progress(), until="annotate")
    return run.folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> cc.OpenRun:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")
    return cc.open_run(tmp_path / "run")


@pytest.fixture(scope="module")
def random_model() -> cc.Model:
    """The model that the run must have used."""
    return randomized(cc.load_model("scgpt", "demo", device="cpu"), seed=7)


# ------------------------------------------------------------------------------------------------ autoencoders


def test_the_baseline_is_trained_like_the_others_on_the_random_model(run, random_model):
    saes, baseline = run.saes, cc.load_saes(run.path("train") / RANDOM_WEIGHTS)
    assert list(saes) == list(baseline) == [0, 1, 2, 3]
    fitted, held_out = split_cells(60, 0.15, 7)
    directly = fit_saes(random_model, run.cells.take(fitted), [0, 1, 2, 3], run.settings.train)
    for layer, sae in directly.items():
        assert all((baseline[layer].state_dict()[name] == value).all() for name, value in sae.state_dict().items())
        assert not (saes[layer].W_dec == sae.W_dec).any()
    assert list(run.quality["layer"]) == [0, 1, 2, 3]
    found = measure_quality(random_model, run.cells.take(held_out), directly, 32, final_cells=16)
    for (layer, expected), row in zip(found.items(), run.quality.to_dict("records"), strict=True):
        assert row["layer"] == layer
        for name in ("variance_explained", "final_state_recovered", "l0", "dead_share"):
            assert row[f"{RANDOM_WEIGHTS}_{name}"] == pytest.approx(getattr(expected, name))
        assert row["variance_explained"] != row[f"{RANDOM_WEIGHTS}_variance_explained"]


def test_the_baseline_belongs_to_the_random_model(run, random_model):
    for sae in cc.load_saes(run.path("train") / RANDOM_WEIGHTS).values():
        assert sae.info["model_fingerprint"] == random_model.fingerprint()
    model, saes = train.load_baseline(run)
    assert model.fingerprint() == random_model.fingerprint() and list(saes) == [0, 1, 2, 3]


def test_weights_that_are_permuted_otherwise_are_refused(run, monkeypatch):
    monkeypatch.setattr(train, "randomized", lambda model, seed: randomized(model, seed + 1))
    with pytest.raises(ModelError, match=r"not those for which .*random_weights was made: numpy differs"):
        train.load_baseline(run)


def test_trained_autoencoders_do_not_depend_on_the_baseline(run, tmp_path):
    alone = create_run(tmp_path / "alone", settings(train={"random_weights": False}))
    run_pipeline(alone, Progress(), until="train")
    assert not (alone.path("train") / RANDOM_WEIGHTS).exists()
    for layer in range(4):
        name = f"L{layer:02d}/sae_weights.safetensors"
        assert (alone.path("train") / name).read_bytes() == (run.path("train") / name).read_bytes()


# ------------------------------------------------------------------------------------------------ taken over


def take_over(run: cc.OpenRun, folder: Path, **changes) -> cc.OpenRun:
    """A run with the trained autoencoders of another."""
    shutil.copytree(run.path("train"), folder / "saes", ignore=shutil.ignore_patterns(RANDOM_WEIGHTS))
    taken = create_run(folder / "taken", settings(train={"saes": str(folder / "saes"), **changes}))
    run_pipeline(taken, Progress(), until="train")
    return cc.open_run(taken.folder)


def test_autoencoders_that_are_taken_over_have_a_baseline_too(run, tmp_path):
    taken = take_over(run, tmp_path)
    for kind in ("L02", f"{RANDOM_WEIGHTS}/L02"):
        name = f"{kind}/sae_weights.safetensors"
        assert (taken.path("train") / name).read_bytes() == (run.path("train") / name).read_bytes()


@pytest.mark.parametrize("changes", [{"k": 9}, {"expansion": 3}])
def test_a_baseline_of_another_shape_is_refused(run, tmp_path, changes):
    message = r"layer 0 in .*saes has 192 with k = 8\. Set train\.expansion = 2 and train\.k = 8, or set"
    with pytest.raises(SettingsError, match=message):
        take_over(run, tmp_path, **changes)


def test_a_width_that_no_expansion_gives(toy_settings, tmp_path):
    made = create_run(tmp_path / "run", toy_settings(train={"random_weights": True}))
    with pytest.raises(SettingsError, match=r"has 6 with k = 6\. No expansion gives that: set train\.random_weights"):
        run_pipeline(made, Progress(), until="train")
    assert not made.path("train").exists()


# ------------------------------------------------------------------------------------------------ features


def test_features_on_random_weights_are_counted_on_the_same_cells(run, random_model):
    baseline = read_table("features", run.path("annotate") / RANDOM_WEIGHTS)
    assert baseline[["layer", "feature"]].equals(run.features[["layer", "feature"]])
    saes = cc.load_saes(run.path("train") / RANDOM_WEIGHTS)
    for layer, sums in count_firings(random_model, run.cells, saes, 32).items():
        expected = np.asarray(sums.firings.sum(axis=1)).ravel() / run.cells.gene_mask.sum()
        found = baseline.loc[baseline["layer"] == layer, "firing_rate"]
        np.testing.assert_allclose(found, expected)
    record = run.manifest("annotate")["record"]
    annotated = (baseline["n_terms"] > 0).groupby(baseline["layer"]).sum()
    assert [record[RANDOM_WEIGHTS][f"L{layer:02d}"]["n_annotated"] for layer in range(4)] == annotated.tolist()
    written = json.loads((run.path("annotate") / "summary.json").read_text())
    assert written == record["summary"] | {RANDOM_WEIGHTS: record[RANDOM_WEIGHTS]}


# ------------------------------------------------------------------------------------------------ trace


def retraced(run: cc.OpenRun, executor: Executor | None = None, **changes) -> cc.OpenRun:
    """The run, traced with other settings."""
    run.change_settings(settings(trace=changes))
    run_stage(run, "trace", Progress(), executor)
    return cc.open_run(run.folder)


def written_moments(run: cc.OpenRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.path("trace").glob("*.safetensors"))}


def random_sources(run: cc.OpenRun) -> pd.DataFrame:
    return read_table("sources", run.path("trace") / RANDOM_WEIGHTS)


WITH_CONTROLS = {"random_directions": 4, "matched_features": 1, "group_by": "fold", "n_folds": 4}


@pytest.mark.parametrize(
    ("changes", "context", "readouts"),
    [
        ({}, "exact", ["source", "pre", "computed"]),
        ({"context": "screen"}, "frozen", ["source", "pre", "computed"]),
        (WITH_CONTROLS, "frozen", ["source", "computed"]),
        (WITH_CONTROLS | {"control_context": "exact"}, "exact", ["source", "computed"]),
    ],
)
def test_what_is_traced_is_the_random_model(run, random_model, changes, context, readouts):
    traced = retraced(run, **changes)
    plan = read_plan_file(traced, f"{RANDOM_WEIGHTS}_plan.json")
    assert (plan.context, plan.readouts, plan.random_weights) == (context, readouts, True)
    assert plan.cells == read_plan_file(traced, "plan.json").cells
    saes, sources = cc.load_saes(run.path("train") / RANDOM_WEIGHTS), random_sources(traced)
    for layer, (path,) in trace_files(traced.path("trace"), RANDOM_WEIGHTS).items():
        chosen = sources.loc[sources["layer"] == layer, "feature"]
        directly = cc.trace(
            random_model, run.cells.take(plan.cells), saes, layer, chosen, context=context, readouts=readouts
        )
        moments = load_moments(path)
        assert moments.source_features.tolist() == chosen.tolist()
        assert all((moments.sums[t] == directly.sums[t]).all() and directly.sums[t].any() for t in directly.sums)
        assert (moments.cells() == sources.loc[sources["layer"] == layer, "n_cells"]).all()


def read_plan_file(run: cc.OpenRun, name: str) -> TracePlan:
    return TracePlan.from_json((run.path("trace") / name).read_text())


def test_as_many_sources_of_the_nearest_firing_rates(run):
    traced = retraced(run, n_cells=5)
    own, random = traced.sources, random_sources(traced)
    assert own["layer"].value_counts().to_dict() == random["layer"].value_counts().to_dict() == {0: 3, 1: 3}
    assert (own["matched_with"] == -1).all()
    assert sorted(zip(random["layer"], random["matched_with"], strict=True)) == list(
        zip(own["layer"], own["feature"], strict=True)
    )
    rate = own.set_index(["layer", "feature"])["firing_rate"]
    everything = read_table("features", run.path("annotate") / RANDOM_WEIGHTS).query("n_firings > 0")
    for row in random.itertuples():
        wanted = np.log(rate[row.layer, row.matched_with])
        distance = np.abs(np.log(everything[everything["layer"] == row.layer]["firing_rate"]) - wanted)
        assert (distance < abs(np.log(row.firing_rate) - wanted)).sum() < 3  # the others are taken


def test_the_sources_do_not_depend_on_the_baseline(run, tmp_path):
    with_it = retraced(run, n_cells=5)
    alone = create_run(tmp_path / "alone", settings(train={"random_weights": False}, trace={"n_cells": 5}))
    run_pipeline(alone, Progress(), until="trace")
    own = {name: data for name, data in written_moments(with_it).items() if not name.startswith(RANDOM_WEIGHTS)}
    assert own == written_moments(cc.open_run(alone.folder)) and len(own) < len(written_moments(with_it))


def test_an_executor_gives_the_same_bytes(run):
    alone = written_moments(retraced(run, n_cells=5, cells_per_part=1, **WITH_CONTROLS))
    shutil.rmtree(run.path("trace"))
    with ThreadPoolExecutor(3) as executor:
        spread = retraced(run, executor, n_cells=5, cells_per_part=1, **WITH_CONTROLS)
    assert written_moments(spread) == alone
    assert any(name.startswith(RANDOM_WEIGHTS) for name in alone)


@pytest.mark.slow
def test_other_processes_give_the_same_bytes(run):
    alone = written_moments(retraced(run, n_cells=4, cells_per_part=1))
    shutil.rmtree(run.path("trace"))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert written_moments(retraced(run, executor, n_cells=4, cells_per_part=1)) == alone


def test_too_few_features_on_random_weights(run, monkeypatch):
    def silenced(name: str, folder: Path) -> pd.DataFrame:
        table = read_table(name, folder)
        silent = (folder.name == RANDOM_WEIGHTS) & (table["layer"] == 1) & (table["feature"] > 1)
        return table.assign(n_firings=table["n_firings"].where(~silent, 0))

    monkeypatch.setattr(trace, "read_table", silenced)
    with pytest.raises(SettingsError, match=r"Layer 1 has 3 sources .* only 2 features fire\. Lower trace\.n_features"):
        retraced(run)
    assert not run.work_path("trace").exists()  # known before anything is traced


# ------------------------------------------------------------------------------------------------ edges


def called(run: cc.OpenRun, **changes) -> cc.OpenRun:
    run.change_settings(settings_from_dict(run.settings.to_dict() | {"edges": changes}))
    run_stage(run, "edges", Progress())
    return cc.open_run(run.folder)


def count_directly(run: cc.OpenRun, model: cc.Model, saes, sources: pd.DataFrame, **how) -> dict[str, int]:
    """Tested pairs and edges of both rules, by tracing with `cc.trace` and asking `cc.edges`."""
    cells, total = run.cells.take(read_plan_file(run, "plan.json").cells), dict.fromkeys(COUNTED, 0)
    for layer, chosen in sources.groupby("layer")["feature"]:
        moments = cc.trace(model, cells, saes, layer, chosen, **how)
        n_targets = sum(sae.n_features for above, sae in saes.items() if above > layer)
        total["n_tested"] += int((moments.cells() >= 20).sum()) * n_targets
        total["edges_published"] += len(cc.edges(moments, rule="published"))
        total["edges_exist"] += len(cc.edges(moments))
    return total


COUNTED = ("n_tested", "edges_published", "edges_exist")


@pytest.mark.parametrize(
    ("changes", "context"), [({}, "exact"), ({"context": "screen"}, "frozen"), (WITH_CONTROLS, "frozen")]
)
def test_edges_on_random_weights_stand_beside_those_of_the_sources(run, random_model, changes, context):
    opened = called(retraced(run, **changes))
    table = opened.controls.set_index("direction")
    directions = ["random", "feature"] if changes == WITH_CONTROLS else []
    assert table.index.tolist() == ["own", *directions, RANDOM_WEIGHTS]
    assert (table["context"] == context).all()
    for name, model, saes, sources in (
        ("own", cc.load_model("scgpt", "demo", device="cpu"), run.saes, opened.sources),
        (RANDOM_WEIGHTS, random_model, cc.load_saes(run.path("train") / RANDOM_WEIGHTS), random_sources(opened)),
    ):
        row = table.loc[name]
        assert row[list(COUNTED)].to_dict() == count_directly(opened, model, saes, sources, context=context)
        assert row["n_directions"] == 1 and row["share_exist"] == row["edges_exist"] / row["n_tested"]
    assert table.loc[RANDOM_WEIGHTS, ["edges_specific", "share_specific"]].isna().all()
    assert table["n_tested"].min() > 0 and table["edges_published"].min() > 0
    written = json.loads((opened.path("edges") / "summary.json").read_text())["controls"][-1]
    assert (written["direction"], written["edges_exist"]) == (RANDOM_WEIGHTS, table["edges_exist"].iloc[-1])
    assert written["edges_specific"] is None


def test_groups_are_units_on_random_weights_too(run):
    traced = retraced(run, group_by="fold", n_folds=8)
    by_cell, by_group = (called(traced, unit=unit).controls for unit in ("cell", "group"))
    assert by_cell["n_tested"].equals(by_group["n_tested"])  # every source is active in every group
    assert not by_cell["edges_exist"].equals(by_group["edges_exist"])
    (path,) = trace_files(traced.path("trace"), RANDOM_WEIGHTS)[1]
    assert load_moments(path).groups == traced.moments[1].groups


def test_blocks_and_a_rule_for_specific_edges_change_no_count(run):
    whole = called(retraced(run)).controls
    shutil.rmtree(run.path("trace"))
    in_blocks = called(retraced(run, n_features=3, block_megabytes=1, group_by="fold"), require_specific=True)
    assert in_blocks.controls.equals(whole)
    assert len(trace_files(run.path("trace"), RANDOM_WEIGHTS)[0]) == 3


def test_the_summary_shows_the_random_model_beside_the_trained(run):
    run.change_settings(settings(trace={"n_cells": 25}))
    with torch_threads(1):
        run_pipeline(run, Progress(), until="findings")
    opened = cc.open_run(run.folder)
    numbers = summarise(opened)
    for name, key, form in (
        ("variance explained", "variance_explained", ".2f"),
        ("dead features", "dead_share", ".1%"),
    ):
        first, second = numbers["Autoencoders, on held-out cells"][name].split("; random weights: ")
        for text, column in ((first, key), (second, f"{RANDOM_WEIGHTS}_{key}")):
            assert text.startswith(format(opened.quality[column].median(), form))
    assert numbers["Annotation"]["the same on random weights"].endswith("% with an enriched gene set")
    row = opened.controls.set_index("direction").loc[RANDOM_WEIGHTS]
    text = numbers["Edges"]["features of the model with random weights (exact)"]
    assert f"exist {row['edges_exist']:,.0f} ({row['share_exist']:.1%} of tested pairs)" in text
    assert "specific" not in text and "sources (exact)" in numbers["Edges"]
