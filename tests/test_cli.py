"""The command line: help, verbs, and one clear message for everything a user can get wrong."""

from __future__ import annotations

import fcntl
import json
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import cellcircuits as cc
from cellcircuits.autoencoders import TopKSAE
from cellcircuits.cli import main
from cellcircuits.manifest import STAGES
from cellcircuits.model_shape import PUBLISHED_SHAPES
from cellcircuits.plan import estimate
from cellcircuits.report import readable_seconds
from cellcircuits.run import open_folder
from cellcircuits.settings import Settings, settings_from_dict, write_settings

pytestmark = pytest.mark.usefixtures("one_thread")
OTHER_VERBS = ("run", "plan", "status", "summary", "export", "settings", "demo", "fetch", "convert")
DEMO = Path(cc.__file__).parent / "data" / "demo_geneformer"


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Function call(*arguments) -> (exit code, stdout, stderr), in an empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def make(*arguments) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return make


@pytest.fixture
def refused(call):
    """Function refused(message, *arguments): the command stops with exit code 2 and this one message."""

    def check(message: str, *arguments) -> None:
        code, _, err = call(*arguments)
        assert code == 2, err
        assert "Traceback" not in err
        found = [line for line in err.splitlines() if line.startswith("cellcircuits: ")]
        assert len(found) == 1 and err.endswith(f"{found[0]}\n"), err
        assert re.search(message, found[0]), found[0]

    return check


def settings_file(folder: Path, settings: Settings) -> Path:
    write_settings(settings, folder / "settings.toml")
    return folder / "settings.toml"


def nothing_half_written(folder: Path) -> None:
    """Every stage is complete or absent, and nothing else lies about."""
    if folder.exists():
        run = open_folder(folder)
        assert {run.status(stage).state for stage in STAGES} <= {"done", "missing"}
        assert {path.name for path in folder.iterdir() if path.name.startswith(".")} <= {".lock"}


# ------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("verb", [*OTHER_VERBS, *STAGES])
def test_every_verb_has_help(call, verb):
    code, out, _ = call(verb, "--help")
    assert code == 0
    assert f"usage: cellcircuits {verb}" in out and len(out.splitlines()) > 4


def test_help_lists_every_verb_with_its_meaning(call):
    code, out, _ = call("--help")
    assert code == 0
    for verb in (*OTHER_VERBS, *STAGES):
        assert re.search(rf"• {verb} +[A-Z]", out), verb


def test_flags_are_the_settings_with_their_meaning(call):
    _, out, _ = call("edges", "--help")
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", out).split())
    for name in vars(Settings().edges):
        assert f"--{name.replace('_', '-')}" in text
    assert "Fewest cells in which the source is active. (default: 20)" in text


IMPORTS = """
import sys
from cellcircuits.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print("imported:", *sorted({"torch", "pandas", "anndata", "scipy", "matplotlib"} & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["trace", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    found = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1].split() == ["imported:"]


WITHOUT_TORCH = """
import sys
from importlib.machinery import ModuleSpec
class NoTorch:
    # libraries may ask whether there is a torch; importing it fails
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "torch" else None
    def create_module(self, spec):
        raise ImportError("there is no torch here")
sys.meta_path.insert(0, NoTorch())
from cellcircuits.cli import main
for arguments in (["edges", "--min-cells", "10"], ["findings"], ["atlas"], ["status"], ["summary"], ["export"]):
    main([arguments[0], sys.argv[1], *arguments[1:]])
"""


def test_everything_after_the_trace_works_without_torch(toy_run, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, toy_run.folder]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    run = open_folder(toy_run.folder)
    assert {run.status(stage).state for stage in STAGES} == {"done"}
    assert (tmp_path / "edges.csv").exists()


def test_the_installed_command():
    command = Path(sys.executable).with_name("cellcircuits")
    found = subprocess.run([command, "status", "/absent"], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("cellcircuits: /absent is not a run folder") and found.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------------------ verbs


def test_settings_prints_every_setting(call):
    code, out, _ = call("settings")
    assert code == 0 and settings_from_dict(tomllib.loads(out)) == Settings()


def test_run_makes_every_stage_and_can_be_called_again(call, tmp_path, toy_settings):
    settings = settings_file(tmp_path, toy_settings())
    code, out, err = call("run", settings, "--out", "new/run", "--until", "findings")
    assert (code, "Traceback" in err) == (0, False)
    run = open_folder("new/run")
    assert [run.status(stage).state for stage in STAGES] == ["done"] * 6 + ["missing"]
    assert "new/run" in out
    made = {stage: (run.path(stage) / "manifest.json").stat().st_mtime_ns for stage in STAGES[:-1]}
    assert call("run", settings, "--out", "new/run", "--until", "findings")[0] == 0
    assert made == {stage: (run.path(stage) / "manifest.json").stat().st_mtime_ns for stage in STAGES[:-1]}
    nothing_half_written(run.folder)


def test_run_goes_to_the_atlas_and_prints_the_summary(call, tmp_path, toy_settings, toy_run):
    code, out, err = call("run", settings_file(tmp_path, toy_settings()), "--out", toy_run.folder)
    assert code == 0, err
    assert (toy_run.folder / "atlas" / "index.html").exists()
    assert "edges, calibrated rule" in out


def test_status(call, toy_run):
    code, out, _ = call("status", toy_run.folder)
    assert code == 0
    for stage in STAGES:
        state = "missing" if stage == "atlas" else "done"
        assert re.search(rf"│ {stage} +│ {state} +│", out)


def test_status_knows_the_structure(call, toy_run):
    def row() -> str:
        code, out, _ = call("status", toy_run.folder)
        assert code == 0
        return next(line for line in out.splitlines() if "│ structure" in line)

    assert "not asked" in row() and f"cellcircuits structure {toy_run.folder}"[:40] in row()
    shutil.move(toy_run.path("edges"), toy_run.folder / "aside")
    assert call("structure", toy_run.folder, "--min-together", "5", "--min-pmi", "0.1")[0] == 0
    shutil.move(toy_run.folder / "aside", toy_run.path("edges"))
    assert re.search(r"│ structure +│ done +│ +[\d.]+ kB │ .*, before there were edges", row())
    assert call("structure", toy_run.folder, "--min-together", "5", "--min-pmi", "0.1")[0] == 0
    assert re.search(r"│ structure +│ done +│ +[\d.]+ kB │", row()) and "before" not in row()
    # edges that were called anew are not those it was compared with
    assert call("edges", toy_run.folder, "--min-cells", "10")[0] == 0
    assert re.search(r"│ structure +│ stale +│ .*edges changed since", row())
    assert call("annotate", toy_run.folder, "--top-genes", "5")[0] == 0
    assert re.search(r"│ structure +│ stale +│ .*annotate, edges changed since", row())


def test_convert(call, refused, tmp_path, toy_files):
    code, out, _ = call("convert", toy_files / "saes", "new/saes")
    assert code == 0
    assert re.search(r"new/saes/L02: 6 features of width 18 \(topk\)", out)
    converted, original = cc.load_saes("new/saes"), cc.load_saes(toy_files / "saes")
    assert list(converted) == [0, 1, 2]
    assert all(torch.equal(converted[k].W_enc, original[k].W_enc) for k in original)
    refused("new/saes exists already; choose another folder", "convert", toy_files / "saes", "new/saes")
    refused("no folder .*absent with sparse autoencoders", "convert", tmp_path / "absent", "other")
    refused("holds no sparse autoencoders; expected folders L00", "convert", tmp_path, "other")
    refused("in folders named 'trainer_7'", "convert", toy_files / "saes", "other", "--trainer", "trainer_7")
    Path("file").write_text("")
    refused("Cannot write file/saes", "convert", toy_files / "saes", "file/saes")
    assert sorted(str(path) for path in Path().rglob("*") if path.name != "sae_weights.safetensors") == [
        "file",
        "new",
        "new/saes",
        *(f"new/saes/L0{layer}{file}" for layer in range(3) for file in ("", "/cfg.json")),
    ]


def test_summary(call, toy_run):
    code, out, _ = call("summary", toy_run.folder)
    assert code == 0
    assert "toy, 3 layers of width 18" in out and "source features" in out


def test_plan_from_the_variant(call, tmp_path):
    content = {
        "model": {"variant": "V2-316M"},
        "cells": {"n_cells": 200},
        "train": {"held_out": 0.15, "epochs": 2, "repeats": 3},
    }
    code, out, _ = call("plan", settings_file(tmp_path, settings_from_dict(content)))
    assert code == 0
    assert "18 layers of width 1152; 200 cells of 4,096 tokens" in out
    assert "Each autoencoder learns from 4,177,920 tokens (696,320, 6 times)" in out  # of 170 cells
    assert all(re.search(rf"│ {stage} +│ +[\d,]+ │ +[\d,.]+ T │", out) for stage in ("train", "annotate", "trace"))


@pytest.mark.parametrize(
    "bfloat16, train, flags, expected",
    [
        (True, {}, [], True),
        (False, {}, [], False),
        (True, {"k": 1000}, [], False),  # dense products
        (True, {"architecture": "batchtopk"}, [], False),
        (True, {}, ["--teraflops", "40"], False),  # another machine
    ],
)
def test_plan_says_where_training_takes_less(call, tmp_path, monkeypatch, bfloat16, train, flags, expected):
    monkeypatch.setattr("cellcircuits.row_products.multiplies_bfloat16", lambda: bfloat16)
    content = {"model": {"variant": "V2-316M"}, "cells": {"n_cells": 20}, "train": train}
    code, out, _ = call("plan", settings_file(tmp_path, settings_from_dict(content)), *flags)
    assert code == 0 and ("Training takes less than said" in out) == expected


def test_plan_for_other_hardware(call, tmp_path):
    settings = settings_from_dict({"model": {"variant": "V2-316M"}, "cells": {"n_cells": 200}})
    costs = estimate(settings, PUBLISHED_SHAPES["V2-316M"], np.full(200, 4096))
    (operations,) = [cost.operations for cost in costs if cost.stage == "train" and not cost.part]
    code, out, _ = call("plan", settings_file(tmp_path, settings), "--teraflops", "40")
    assert code == 0 and "at 40 T/s" in out and "at least, here" not in out
    assert "Time is operations / 40 T per second, as given." in " ".join(out.split())
    assert re.search(rf"│ train +│ +[\d,]+ │ +[\d,.]+ T │ +{re.escape(readable_seconds(operations / 40e12))} │", out)
    assert re.search(r"at its peak, \d+\.\d [MG]B of it for Python", " ".join(out.split()))


def test_a_rate_below_zero(call, tmp_path):
    settings = settings_from_dict({"model": {"variant": "V2-316M"}, "cells": {"n_cells": 200}})
    code, _, err = call("plan", settings_file(tmp_path, settings), "--teraflops", "-1")
    assert code == 2 and "--teraflops is a rate in 10^12 operations per second, above 0; found -1." in err


@pytest.mark.parametrize(("format", "name"), [("csv", "edges.csv"), ("graphml", "edges.graphml"), ("cytoscape", "x")])
def test_export(call, toy_run, format, name):
    arguments = ["--out", name] if name == "x" else []
    code, out, _ = call("export", toy_run.folder, "--format", format, *arguments)
    assert code == 0 and out == f"{len(toy_run.edges)} edges written to {name}\n"
    assert Path(name).stat().st_size > 100


def test_fetch_prints_where_and_under_which_licence(call, refused, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("cellcircuits.resources._download", lambda url: b"MYC\tTERT\tActivation\t1\n")
    code, out, _ = call("fetch", "trrust")
    path = tmp_path / "cache" / "cellcircuits" / "references" / "trrust_rawdata.human.tsv"
    assert code == 0 and path.exists()
    assert str(path) in out and "Licence: TRRUST, CC BY-SA 4.0" in out and "sha256 " in out
    path.write_text("other")
    refused(r"is not what was fetched", "fetch", "trrust")


def test_annotate_with_networks(call, toy_run, tmp_path):
    """Interactions and targets of the toy's genes, with the rates of random lists."""
    pairs = [f"GENE{i},GENE{i + 1}" for i in range(39)]
    (tmp_path / "ppi.csv").write_text("\n".join(["gene1,gene2", *pairs]) + "\n")
    (tmp_path / "tf.csv").write_text("source,target\n" + "".join(f"GENE0,GENE{i}\n" for i in range(1, 9)))
    networks = ["--networks", str(tmp_path / "ppi.csv"), str(tmp_path / "tf.csv")]
    assert call("annotate", toy_run.folder, *networks, "--network-draws", "50")[0] == 0
    run = cc.open_run(toy_run.folder)
    assert set(run.interactions["network"]) == {"ppi"}
    assert (run.interactions["n_in_network"] <= run.interactions["n_list"]).all()
    rates = run.annotation_rates
    assert set(rates["kind"]) == {"gene sets", "targets", "interactions"}
    assert set(rates["source"]) == {"all", "ppi", "tf"}
    assert set((run.manifest("annotate") or {})["record"]["networks_sha256"]) == {networks[1], networks[2]}


def test_a_stage_with_other_flags(call, toy_run):
    code, out, _ = call("edges", toy_run.folder, "--rule", "published", "--min-snr", "0.1")
    assert code == 0 and re.search(r"│ findings +│ stale", out)
    run = cc.open_run(toy_run.folder)
    assert (run.settings.edges.rule, run.settings.edges.min_snr) == ("published", 0.1)
    assert run.status("edges").state == "done"
    code, _, err = call("edges", toy_run.folder)
    assert code == 0 and "edges is done already with these settings" in err


def test_paths_of_flags_are_relative_to_where_the_command_is_called(call, toy_run, toy_files):
    shutil.copy(toy_files / "sets.gmt", "mine.gmt")
    assert call("annotate", toy_run.folder, "--gene-sets", "mine.gmt", "immune")[0] == 0
    run = cc.open_run(toy_run.folder)
    assert run.settings.annotate.gene_sets == [str(Path("mine.gmt").resolve()), "immune"]
    assert run.status("annotate").state == "done"


def test_a_stage_that_fails_leaves_settings_and_artifact(call, refused, toy_run):
    refused("Layer 7 has no autoencoder", "trace", toy_run.folder, "--source-layers", "7")
    run = cc.open_run(toy_run.folder)
    assert run.settings == toy_run.settings and run.status("trace").state == "done"


def test_ctrl_c(call, toy_run, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    shutil.rmtree(toy_run.path("trace"))
    monkeypatch.setattr("cellcircuits.tracing.trace_cells", stop)
    code, _, err = call("trace", toy_run.folder)
    assert code == 130 and "stopped. Finished parts are kept" in err and "Traceback" not in err


# ------------------------------------------------------------------------------------------------ wrong input


@pytest.fixture
def refused_run(refused, tmp_path, toy_settings):
    """Function refused_run(message, section={...}): a run of the toy model with these settings is refused."""

    def check(message: str, **changes) -> None:
        refused(message, "run", settings_file(tmp_path, toy_settings(**changes)), "--out", tmp_path / "run")
        nothing_half_written(tmp_path / "run")

    return check


def test_missing_data(refused_run):
    refused_run("There is no file /absent.h5ad", cells={"data": "/absent.h5ad"})


def test_no_data(refused_run):
    refused_run("cells.data is not set", cells={"data": ""})


def write_hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["numbers"] = np.arange(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("cell,gene\n"), "cells.h5ad is not an AnnData file: .*Write one with"),
        (lambda path: path.write_bytes(b""), "cells.h5ad is not an AnnData file"),
        (lambda path: path.mkdir(), "cells.h5ad is not an AnnData file"),
        (write_hdf5, "cells.h5ad is not an AnnData file"),
    ],
)
def test_not_anndata(refused_run, tmp_path, make, message):
    make(tmp_path / "cells.h5ad")
    refused_run(message, cells={"data": str(tmp_path / "cells.h5ad")})


def log_values(adata: ad.AnnData) -> None:
    adata.X = np.log1p(adata.X)


def with_nan(adata: ad.AnnData) -> None:
    adata.X[3, 5] = np.nan


def negative(adata: ad.AnnData) -> None:
    adata.X = adata.X - 1


def other_genes(adata: ad.AnnData) -> None:
    adata.var_names = [f"MOUSE{i}" for i in range(adata.n_vars)]


def an_empty_cell(adata: ad.AnnData) -> None:
    adata.X[7] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (log_values, "X looks log-transformed: .*Raw integer counts are needed"),
        (with_nan, "X holds 1 NaN values"),
        (negative, "negative values"),
        (other_genes, r"Only 0\.0% of the 40 detected genes are in the model's vocabulary"),
        (an_empty_cell, r"1 of 60 cells have no counts \(c7\)"),
    ],
)
def test_cells_that_cannot_be_used(refused_run, toy_cells, tmp_path, change, message):
    change(toy_cells)
    toy_cells.write_h5ad(tmp_path / "cells.h5ad")
    refused_run(message, cells={"data": str(tmp_path / "cells.h5ad")})


def test_no_cells(refused_run, toy_cells, tmp_path):
    toy_cells[:0].copy().write_h5ad(tmp_path / "cells.h5ad")
    refused_run("0 cells", cells={"data": str(tmp_path / "cells.h5ad")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cells": {"where": {"cell_type": ["A", "T cell"]}}},
            r"obs\['cell_type'\] has no T cell; its labels are",
        ),
        ({"cells": {"where": {"tissue": ["blood"]}}}, "obs has no column 'tissue'; it has cell_type"),
        ({"cells": {"n_cells": 10, "stratify_by": "donor"}}, "obs has no column 'donor'"),
        ({"cells": {"n_cells": 61}}, "61 cells were asked for; only 60 are there"),
        ({"cells": {"n_cells": 1}}, "Autoencoders need at least two cells"),
        ({"trace": {"n_cells": 10, "stratify_by": "donor"}}, "obs has no column 'donor'"),
        ({"trace": {"source_layers": [3]}}, "Layer 3 has no autoencoder"),
        ({"trace": {"target_layers": [1, 9]}}, "Layer 9 has no autoencoder"),
        ({"trace": {"source_layers": [2]}}, "no layer to measure above source layer 2"),
        ({"trace": {"min_firing_rate": 0.99}}, r"No feature of layer 0, 1 can be a source .*Lower min_firing_rate"),
        ({"model": {"family": "bert"}}, "There is no model family 'bert'; installed are: geneformer, scgpt, toy"),
        ({"model": {"family": "geneformer"}}, "Cannot read config.json.*Is this the checkpoint's folder?"),
    ],
)
def test_settings_that_do_not_fit(refused_run, changes, message):
    refused_run(message, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trace]\nn_cell = 3\n", r"settings\.toml \[trace\] has unknown names: n_cell"),
        ("[tracing]\n", r"unknown section \[tracing\]"),
        ("[trace]\nn_cells = -3\n", r"`n_cells` must be at least 0; found -3"),
        ("[trace\n", "is not a TOML file"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_wrong_settings_file(refused, tmp_path, verb, text, message):
    (tmp_path / "settings.toml").write_text(text)
    refused(message, verb, tmp_path / "settings.toml")
    assert not list(Path.cwd().iterdir())


def test_missing_settings_file(refused):
    refused("Cannot read the settings file absent.toml: No such file", "run", "absent.toml")
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("text", ["one set without tabs\n", "", "a\t-\tGENE1\na\t-\tGENE2\n"])
def test_malformed_gene_sets(refused_run, tmp_path, text):
    (tmp_path / "bad.gmt").write_text(text)
    message = r"bad\.gmt.* (is not GMT|holds no gene set|occurs twice)"
    refused_run(message, annotate={"gene_sets": [f"{tmp_path}/bad.gmt"]})


def autoencoder(layer: int, d_model: int, input_mode: str = "official") -> dict[int, TopKSAE]:
    sae = TopKSAE(d_model, 6, 2)
    sae.info = {"input_mode": input_mode}
    return {layer: sae}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: autoencoder(0, 17), "of layer 0 reads 17 dimensions, the model has 18"),
        (
            lambda: autoencoder(0, 18, "published"),
            "trained on 'published' input, the cells are tokenised as 'official'",
        ),
        (lambda: autoencoder(5, 18), "an autoencoder for layer 5; the model has layers 0 to 2"),
        (dict, "There is no folder .*saes"),
    ],
)
def test_autoencoders_that_do_not_fit(refused_run, tmp_path, make, message):
    for layer, sae in make().items():
        sae.save(tmp_path / "saes" / f"L{layer:02d}")
    refused_run(message, train={"saes": str(tmp_path / "saes")})


def test_the_input_mode_can_be_stated_for_autoencoders_that_do_not_say_it(refused_run, tmp_path):
    autoencoder(0, 18, "")[0].save(tmp_path / "saes" / "L00")
    refused_run("does not say on which input", train={"saes": str(tmp_path / "saes")})
    stated = {"saes": str(tmp_path / "saes"), "accept_input_mode": "published"}
    refused_run("trained on 'published' input, the cells are tokenised as 'official'", train=stated)


# ------------------------------------------------------------------------------------------------ wrong folders


@pytest.mark.parametrize("verb", ["status", "summary", "export", *STAGES])
def test_no_run_folder(refused, tmp_path, verb):
    refused("is not a run folder of cellcircuits", verb, tmp_path)


def test_a_foreign_folder(refused, tmp_path, toy_settings):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    settings = settings_file(tmp_path, toy_settings())
    refused("exists and is not a run folder", "run", settings, "--out", tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_with_other_settings(refused, tmp_path, toy_settings, toy_run):
    settings = settings_file(tmp_path, toy_settings(trace={"n_cells": 30}))
    refused(r"differ in trace\.n_cells \(200, now 30\)", "run", settings, "--out", toy_run.folder)
    nothing_half_written(toy_run.folder)


def test_a_corrupted_run_file(refused, toy_run):
    (toy_run.folder / "run.json").write_text("{")
    refused("is not a run folder", "status", toy_run.folder)


@pytest.mark.parametrize("file", ["manifest.json", "edges.parquet"])
def test_a_corrupted_artifact(refused, call, toy_run, file):
    path = toy_run.path("edges") / file
    path.write_bytes(path.read_bytes()[:-20])
    refused("edges is damaged", "findings", toy_run.folder, "--max-q", "0.1")
    refused("edges is damaged", "export", toy_run.folder)
    code, out, _ = call("status", toy_run.folder)
    assert code == 0 and re.search(r"│ edges +│ damaged", out) and re.search(r"│ findings +│ stale", out)
    assert not list(Path.cwd().iterdir())


def test_a_stage_whose_inputs_are_missing(refused, toy_run):
    shutil.rmtree(toy_run.path("trace"))
    refused("has no 'trace' yet. Make it with: cellcircuits trace", "edges", toy_run.folder)


def test_a_run_that_another_process_works_on(refused, toy_run):
    with open(toy_run.folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused("Another process is working on", "edges", toy_run.folder, "--min-cells", "3")


def test_export_to_a_folder_that_is_not_there(refused, toy_run):
    refused(r"Cannot write absent/edges\.csv", "export", toy_run.folder, "--out", "absent/edges.csv")


def test_a_flag_out_of_range(call, toy_run):
    code, _, err = call("trace", toy_run.folder, "--n-features", "0")
    assert code == 2 and "`n_features` must be at least 1; found 0" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [["trase"], ["edges"], ["edges", ".", "--rule", "none"], ["run", "a", "--fast"]])
def test_wrong_arguments(call, arguments):
    code, _, err = call(*arguments)
    assert code == 2 and err and "Traceback" not in err


# ------------------------------------------------------------------------------------------------ wrong checkpoints


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A copy of the small Geneformer that a test may damage."""
    shutil.copytree(DEMO, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def refused_checkpoint(refused, tmp_path, checkpoint):
    def check(message: str) -> None:
        content = {"model": {"family": "geneformer", "path": str(checkpoint)}, "cells": {"data": "demo", "n_cells": 5}}
        refused(message, "run", settings_file(tmp_path, settings_from_dict(content)), "--out", tmp_path / "run")
        nothing_half_written(tmp_path / "run")

    return check


def test_a_checkpoint_with_a_missing_weight(refused_checkpoint, checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.bias"]
    save_file(weights, checkpoint / "model.safetensors")
    refused_checkpoint(r"1 missing: bert\.encoder\.layer\.1\.output\.dense\.bias\. Nothing was loaded")


def test_a_truncated_checkpoint(refused_checkpoint, checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused_checkpoint("model.safetensors was refused: it is damaged")


class Bomb:
    """Runs code when it is unpickled, if the reader allows it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_dictionary(refused_checkpoint, checkpoint, tmp_path):
    (path,) = checkpoint.glob("gene_median_dictionary*")
    path.write_bytes(pickle.dumps({"ENSG00000000003": Bomb(tmp_path / "exploded")}))
    refused_checkpoint(r"gene_median_dictionary.*was refused: a gene dictionary holds only strings and numbers")
    assert not (tmp_path / "exploded").exists()


def test_a_malicious_checkpoint(refused_checkpoint, checkpoint, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2), "extra": Bomb(tmp_path / "exploded")}, checkpoint / "pytorch_model.bin")
    refused_checkpoint("pytorch_model.bin was refused")
    assert not (tmp_path / "exploded").exists()


def test_a_configuration_that_lacks_sizes(refused_checkpoint, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    del config["hidden_size"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    refused_checkpoint("config.json lacks hidden_size")


def test_columns_of_obs_survive(call, tmp_path, toy_settings, toy_cells):
    """Categories, missing values and numbers in obs are kept with the cells."""
    toy_cells.obs["donor"] = pd.Categorical(["d1", None] * 30)
    toy_cells.obs["age"] = np.arange(60.0)
    toy_cells.write_h5ad(tmp_path / "cells.h5ad")
    settings = settings_file(tmp_path, toy_settings(cells={"data": str(tmp_path / "cells.h5ad")}))
    assert call("run", settings, "--out", "run", "--until", "cells")[0] == 0
    obs = cc.open_run("run").cells.obs
    assert list(obs["donor"][:2]) == ["d1", None] and list(obs["age"]) == list(range(60))
