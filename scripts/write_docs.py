"""Write docs/artifacts.md, and the costs in docs/published-conditions.md, from the code.

python scripts/write_docs.py
"""

import re
from pathlib import Path

from cellcircuits.autoencoders import CONFIG_FILE, WEIGHTS_FILE
from cellcircuits.export import ENDINGS
from cellcircuits.formats import FORMAT_VERSION
from cellcircuits.manifest import FOLDERS, INPUTS, MANIFEST, SECTIONS, STAGES
from cellcircuits.model_shape import model_shape
from cellcircuits.moments import GENE_STATISTICS, STATISTICS
from cellcircuits.plan import cell_lengths, estimate
from cellcircuits.report import readable_bytes
from cellcircuits.run import RUN_FILE
from cellcircuits.settings import read_settings
from cellcircuits.tables import ROWS, TABLES

ROOT = Path(__file__).parents[1]
ARTIFACTS, CONDITIONS = ROOT / "docs" / "artifacts.md", ROOT / "docs" / "published-conditions.md"

"""What a row of each table is."""

FILES: dict[str, list[tuple[str, str]]] = {
    "cells": [
        ("tokens.safetensors", "The tokenised cells."),
        (
            "obs.parquet",
            "One row per cell, in the order of the tokens: all columns of `AnnData.obs`; text for categories.",
        ),
        (
            "genes.parquet",
            "One row per token id: `token_id`, `gene_id`, `symbol` (the last two empty for special tokens).",
        ),
        ("tokens.json", "`pad_id`, and `info`: the content of coverage.json."),
        ("coverage.json", "How much of the data the model can see."),
    ],
    "train": [
        (f"L*/{CONFIG_FILE}", "Configuration of the layer's autoencoder, as SAELens writes it."),
        (f"L*/{WEIGHTS_FILE}", "Its weights, as SAELens writes them."),
        ("quality.parquet", "Table `quality`: every layer's autoencoder on held-out cells, beside its baselines."),
    ],
    "annotate": [
        ("features.parquet", "Table `features`."),
        ("feature_genes.parquet", "Table `feature_genes`."),
        ("activation_bins.parquet", "Table `activation_bins`: how large the activations of every feature are."),
        ("cell_labels.parquet", "Table `cell_labels`; empty where no column is asked for and none is known."),
        ("terms.parquet", "Table `terms`."),
        ("regulators.parquet", "Table `regulators`; empty without networks of targets."),
        ("interactions.parquet", "Table `interactions`; empty without networks of interactions."),
        ("annotation_rates.parquet", "Table `annotation_rates`: each share beside that of random gene lists."),
        ("baselines.parquet", "Table `baselines`: these features beside those of other dictionaries."),
        ("pca/*.parquet", "The other tables for principal components, if `annotate.baselines` asks for them."),
        ("ica/*.parquet", "The same for independent components."),
        ("neurons/*.parquet", "The same for coordinates of the residual stream."),
        ("summary.json", "Counts of every layer, {L00: {...}}."),
    ],
    "trace": [
        ("plan.json", "Everything that decides the result; a trace is resumed only with the same plan."),
        ("moments_L*_B*.safetensors", "Sums over cells of the sources of one layer and block, for ALL targets."),
        ("controls_plan.json", "The plan of the control directions, if any are asked for."),
        ("controls_L*_B*.safetensors", "The sums of control directions, removed in place of each source."),
        ("sources.parquet", "Table `sources`."),
    ],
    "edges": [
        ("edges.parquet", "Table `edges`."),
        ("tested.parquet", "Table `tested`."),
        ("signs.parquet", "Table `signs`."),
        ("controls.parquet", "Table `controls`: what the rules find for controls; empty without them."),
        ("sweep.parquet", "Table `sweep`: edges at other thresholds."),
        ("sample_size.parquet", "Table `sample_size`: edges from fewer cells; empty without groups of cells."),
        ("fidelity.parquet", "Table `fidelity`: the frozen context against the exact one; empty where not measured."),
        ("gene_effects.parquet", "Table `gene_effects`; empty without a readout of other positions."),
        ("summary.json", "The rule and the totals."),
    ],
    "findings": [
        ("answers.parquet", "Table `answers`: every number of the report beside its chance baseline."),
        ("*.parquet", "The tables of the questions that were asked, and `signs`, as in `edges/`."),
        ("report.html", "All questions on one page, without other files."),
        ("summary.json", "Totals and all answers."),
        ("attenuation.png", "Edges per source against the distance between the layers."),
        ("effect_sizes.png", "Histograms of `snr` and `relative_effect`, negative and positive apart."),
        ("hubs.png", "Degree per layer against firing rate, and the features with the most edges."),
        ("edge_map.png", "The strongest edges between the layers."),
        ("*.png", "The figures of the questions that could be answered."),
    ],
    "structure": [
        ("modules.parquet", "Table `modules`: which features fire together?"),
        ("module_labels.parquet", "Table `module_labels`."),
        ("module_rates.parquet", "Table `module_rates`."),
        ("persistence.parquet", "Table `persistence`: is a feature still there in the next layer?"),
        ("persistence_rates.parquet", "Table `persistence_rates`."),
        (
            "dependencies.parquet",
            "Table `dependencies`: what fires together with the traced sources? Empty without edges.",
        ),
        ("dependency_overlap.parquet", "Table `dependency_overlap`: do edges join what fires together?"),
        ("svd_alignment.parquet", "Table `svd_alignment`: are features the main axes of the activations?"),
        ("svd_rates.parquet", "Table `svd_rates`."),
        ("unannotated.parquet", "Table `unannotated`: what are features without a label?"),
        ("unannotated_rates.parquet", "Table `unannotated_rates`."),
        ("perturbations.parquet", "Table `perturbations`: which features answer? Empty without a screen."),
        ("perturbation_rates.parquet", "Table `perturbation_rates`."),
    ],
    "atlas": [
        ("index.html", "Entry of the site, with the overview; readable without a web server."),
        ("style.css", "Its style."),
        ("js/**/*.js", "Its pages, as ES modules."),
        ("findings/**/*.png", "The figures of `findings/` of every run, and of the comparison."),
        ("findings/*/report.html", "The report of every run, where there is one."),
        (
            "data/**/*.json.gz",
            "The tables, cut into gzip-compressed JSON files of columns that the pages load one at a time; see "
            "[atlas.md](atlas.md).",
        ),
    ],
}
"""Files of every stage (globs inside its folder) and what they hold, the manifest aside."""

STATISTIC_MEANINGS = {
    "sum_delta": "sum of delta",
    "sum_squared_delta": "sum of delta squared",
    "n_positive": "cells with a delta above 0",
    "n_negative": "cells with a delta below 0",
    "sum_clean": "sum of the mean clean activation of the target at the same positions",
}
STATISTIC_ROWS = "\n".join(f"| {i} | `{name}` | {STATISTIC_MEANINGS[name]} |" for i, name in enumerate(STATISTICS))

DETAILS = {
    "cells": """
Arrays of `tokens.safetensors`, indexed (cell, position) and padded on the right:

| array | type | meaning |
|---|---|---|
| `ids` | int32 | token ids; `pad_id` after the end of a cell |
| `gene_mask` | bool | true where the token is a gene (not padding, `<cls>`, `<eos>`, `<mask>`) |
| `values` | float32 | expression value of each token; only for models that read values |
| `lengths` | int64 | (cell): tokens of each cell, so that nothing else is read before cells are taken |

Keys of `coverage.json`: `genes` (columns of the matrix), `genes_detected` (with a count in any cell),
`genes_detected_mapped` (of these, known to the model), `share_of_detected_genes_mapped`, `share_of_counts_mapped`,
`genes_summed_into_another` (columns that share a token with another), `examples_unmapped`, `cells`, `cells_dropped`,
`cells_truncated` (longer than the longest input), `longest_input` (Geneformer and scGPT), `input_mode`, `counts_from`
(where in the AnnData).
""",
    "train": f"""
`{WEIGHTS_FILE}`: `W_enc` (d_in, d_sae), `b_enc` (d_sae), `W_dec` (d_sae, d_in), `b_dec` (d_in), float32. The rows of
`W_dec` have unit norm in autoencoders trained here.

`{CONFIG_FILE}`: `architecture` ("topk", or "jumprelu" with a `threshold` (d_sae) among the weights), `d_in` (width of
the model), `d_sae` (features), `k` (active features per position) and `rescale_acts_by_decoder_norm` (both topk only),
`dtype`, `device`, `apply_b_dec_to_input` (whether `b_dec` is subtracted before encoding), `normalize_activations`,
`reshape_activations`, and `metadata`: `model_name`, `model_fingerprint` (sha256 of the model's weights), `hook_name`,
`layer` (0-based block output), `input_mode`, `trained_as` (train.architecture); in those taken over from other formats
also `source`.

With `train.n_seeds` above 1, `sae/seed_1/L*`, `sae/seed_2/L*` ... hold the autoencoders of the other seeds, which only
tell how stable features are. With `train.random_weights`, `sae/random_weights/L*` hold autoencoders of the same
settings, trained on the same cells and on the same model with the entries of every weight tensor permuted
(`train.seed`).

While training is under way, `.train.parts/` holds its last state; it is removed at the end.
""",
    "annotate": """
`summary.json`: `n_features`, `n_alive` (fire at least once), `n_with_gene_list` (have a top gene), `n_annotated` (have
an enriched gene set), `annotated_share` (of those with a gene list), `false_annotated_share` (`null_share` of all gene
sets), `n_background_genes`. What each number means: [annotation.md](annotation.md).

With `train.random_weights`, `annotate/random_weights/` holds the same tables of the features on random weights, and
`summary.json` their counts under `random_weights`, {L00: {...}}: how many features have a name where nothing was
learned.

With `annotate.baselines`, the tables of each dictionary lie in the folder of its name, and `summary.json` holds their
counts under `pca`, `ica` and `neurons`, {L00: {...}}. What they are: [features.md](features.md).
""",
    "trace": f"""
`plan.json`: `cells` (rows in `cells/`), `blocks` (list of {{source layer: features}}, each with sums of at most
`block_megabytes`), `targets` ({{source layer: target layers}}), `cells_per_part`, `context`, `readouts`, `threads` (of
torch, in every part), `inputs` (hashes of the stages that are read), `groups` (names of groups of cells) and `group_of`
(group of each cell), `seed`, `n_random` (random control directions per source), `matched` ({{source layer: {{source:
features whose directions serve as controls}}}}), `partners` ({{source layer: {{source: the feature of equal firing rate
with which it is compared}}}}), `random_weights` (whether the model with random weights is traced).

With `train.random_weights`, `random_weights_plan.json` and `random_weights_L<layer>_B<block>.safetensors` hold the same
of that model: as many of its features as there are sources, each of them of the firing rate of one source, in the same
cells, context and readouts as the sources among the controls (or, without controls, as the sources).
`trace/random_weights/sources.parquet` names them (table `sources`).

A trace whose context is not exact also holds sources that were traced in both contexts, in the same cells:
`exact_L<layer>_B<block>.safetensors` and `frozen_L<layer>_B<block>.safetensors`, with their plans.

Arrays of `moments_L<layer>_B<block>.safetensors`; blocks count from 0000, and a layer has a file for each block that
holds sources of it:

| array | type | shape | meaning |
|---|---|---|---|
| `source_features` | int64 | (source) | the ablated features |
| `n_cells` | int64 | (group, readout, source x direction) | cells in which the source was active, hence measured |
| `sums/<layer>` | float64 | (statistic, group, readout, source x direction, target) | sums over cells (05: layer 5) |
| `genes` | float64 | (gene statistic, source, token) | with a readout of other positions: sums by gene |

The first axis of `sums/<layer>`:

| index | statistic | meaning |
|---|---|---|
{STATISTIC_ROWS}

The first axis of `genes`: {", ".join(f"`{name}`" for name in GENE_STATISTICS)}: cells in which the source was removed
at the gene, and the activation removed; cells in which the gene stood elsewhere, and the share of its norm by which the
state of the highest target layer changed there.

One observation is one cell: what a readout measures of a target in it. Readouts: "source" (mean change of activation
where the source is active), "target" (where the target is active), "other" (at all other gene positions), "pre" (before
TopK, where the source is active), "computed" (of that, beyond the removed vector that merely persists). The metadata
hold `labels` (JSON: `source_layer`, `groups`, `readouts`, `directions`) and `statistics`. Moments of disjoint sets of
cells add up. In `controls_*` each source has several directions: "own", "random 0" ..., "feature 0" ...; the direction
runs fastest.

While a trace is under way, `.trace.parts/` holds its plan and the finished parts, `part<number>_L<layer>.safetensors`,
in the same layout; it is removed at the end. A part is one block in `cells_per_part` cells; parts are numbered block
after block.
""",
    "edges": """
`summary.json`: `rule`, `n_tested` (pairs), `n_responding` (pairs with a delta other than 0 in any cell), `n_edges`,
`n_specific` (of them, beyond random directions; null without controls), `readout`, `unit`, `n_sources`,
`n_sources_with_too_few_cells`, `signs` and `controls` (the tables), `fidelity` (means of `correlation`, `recall`,
`jaccard` and `sign_agreement` over pairs of layers; null where not measured).
""",
    "findings": """
`summary.json`: `n_edges`, `n_label_pairs` (ordered pairs of different labels that an edge joins),
`n_label_pairs_beyond_chance` (q within `max_q`), `n_label_pairs_beyond_chance_expected_false` (`max_q` times that
number), `verdicts` (each `verdict` with `n_answers`), `answers` (the table). Questions that could not be asked have no
table or one without rows. `record` in the manifest holds the hashes of the files of screens and diseases (`files`).
What each question asks: [findings.md](findings.md).
""",
    "structure": """
Made by `cellcircuits structure RUN`; no other stage reads it. `record` in its manifest holds the flags (`settings`),
`n_cells`, the hash of the `edges` compared (empty without) and `perturbations_sha256` of the screen. What each number
means: [structure.md](structure.md).
""",
    "atlas": """
The site is static: any web server can hold the folder. `cellcircuits atlas RUN --open` serves it on this machine.
""",
}
"""What a table of columns cannot say."""

INTRODUCTION = f"""# Artifacts: every file and column

Written by `scripts/write_docs.py` from the code. Format version {FORMAT_VERSION}; a newer one is refused.

A run is a folder. Every stage writes one folder in it, complete or not at all: it is written under another name and
renamed, the manifest last. `L*` is a layer with two digits, for example `L05`.

| file | holds |
|---|---|
| `{RUN_FILE}` | `format_version` and `package_version` of the run |
| `settings.toml` | all settings of the run, defaults included; `cellcircuits settings` prints the defaults |
| `.lock` | held by the process that works on the run; empty |

Every stage folder has a `{MANIFEST}`:

| key | holds |
|---|---|
| `stage` | name of the stage |
| `format_version`, `package_version` | of what wrote it |
| `settings` | the settings that decide the artifact |
| `inputs` | {{stage: hash}} of the artifacts it was made from; when one of them changes, this one is stale |
| `record` | what the stage found out: counts, hashes of data and weights, quality |
| `files` | {{file: {{size, sha256}}}} |
| `hash` | sha256 of all of the above |
| `created` | time, UTC |

Tables are Parquet files; the metadata of their schema hold, under `cellcircuits`, the table's name and the format
version. They are read with `pandas.read_parquet`, or as attributes of `cellcircuits.open_run(folder)`.
"""

OUTSIDE = f"""## Files outside a run

`cellcircuits export RUN --format csv` writes `edges{ENDINGS["csv"]}`: the table `edges` with `source_label`,
`source_genes`, `target_label` and `target_genes`. `--format graphml` (`edges{ENDINGS["graphml"]}`, for Gephi, igraph
and Cytoscape) and `--format cytoscape` (`edges{ENDINGS["cytoscape"]}`) write a directed graph: a node per feature, for
example `L3_F17`, with layer, feature, label, firing_rate and top_genes; an edge per edge with its numeric columns.

`cellcircuits compare RUN RUN ...` writes `comparison/` (the demo beside its run folders): the tables of the comparison,
`answers`, a figure for each question, `report.html` and `summary.json`.
"""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _stage_section(stage: str) -> str:
    folder = FOLDERS.get(stage, stage)
    sections = ", ".join(f"[{name}]" for name in SECTIONS.get(stage, (stage,)))
    settings = f"Settings {sections}" if sections else "Settings: flags of its command"
    kind = "stage" if stage in STAGES else "command"
    read = ", ".join(f"`{name}`" for name in INPUTS[stage])
    lines = [
        f"## `{folder}/`: {kind} `{stage}`",
        "",
        f"{settings}; reads {read or 'no other stage'}.",
        "",
        _row("file", "holds"),
        "|---|---|",
        *(_row(f"`{folder}/{name}`", meaning) for name, meaning in FILES[stage]),
        _row(f"`{folder}/{MANIFEST}`", "See above."),
    ]
    return "\n".join(lines) + "\n" + DETAILS[stage]


def _table_section(name: str) -> str:
    rows = [_row(f"`{c.name}`", c.dtype, c.unit, c.meaning) for c in TABLES[name]]
    header = [_row("column", "type", "unit", "meaning"), "|---|---|---|---|"]
    return "\n".join([f"### `{name}`", "", ROWS[name], "", *header, *rows]) + "\n"


def artifacts_page() -> str:
    """The text of docs/artifacts.md."""
    parts = [INTRODUCTION, *(_stage_section(stage) for stage in [*STAGES, "structure"])]
    parts += ["## Columns of the tables\n", *(_table_section(name) for name in TABLES), OUTSIDE]
    return "\n".join(parts)


def conditions_table() -> str:
    """What `plan` says of the examples, for the stages that are run."""
    lines = [_row("settings", "stage", "passes", "operations", "memory", "disk"), "|---|---|---|---|---|---|"]
    for path in sorted((ROOT / "examples").glob("*.toml")):
        if path.stem == "geneformer_exhaustive":
            continue  # no condition of the paper: see docs/scaling.md
        settings = read_settings(path)
        shape = model_shape(settings)
        for cost in estimate(settings, shape, cell_lengths(settings, shape)):
            taken_over = cost.stage == "train" and settings.train.saes
            if not taken_over and (cost.stage == "train" or path.stem != "geneformer_multi_saes"):
                sizes = readable_bytes(cost.memory_bytes), readable_bytes(cost.disk_bytes)
                stage = f"{cost.stage}, {cost.part}" if cost.part else cost.stage
                lines.append(_row(f"`{path.stem}`", stage, f"{cost.passes:,}", _trillions(cost.operations), *sizes))
    return "\n".join(lines)


def _trillions(operations: float) -> str:
    return f"{operations / 1e12:,.0f} T"


def conditions_page() -> str:
    """docs/published-conditions.md with its table as it should be."""
    text = CONDITIONS.read_text(encoding="utf-8")
    table = conditions_table()
    return re.sub(r"(<!-- plan:.*?-->\n).*?(<!-- end)", lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.DOTALL)


def main() -> None:
    """Write both documents."""
    ARTIFACTS.write_text(artifacts_page(), encoding="utf-8")
    CONDITIONS.write_text(conditions_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
