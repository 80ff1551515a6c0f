"""Do features shift what a linear readout tells of the cell: its type, its pseudotime, a gene signature?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, untestable
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.observations import Observations
from cellcircuits.interventions.outputs import Outputs
from cellcircuits.interventions.own_and_random import judged, own_is_larger
from cellcircuits.interventions.probes import Readouts
from cellcircuits.tables import empty_table, make_table

COLUMNS = (
    "n_cells mean_delta sd_delta snr low high clean p_value q_value random_mean specific_z specific_q specific"
).split()
CHANCE = (
    "the same of random directions of the same norm at the same positions; one-sided, any of the directions could have "
    "been called a source's own; sources are the units"
)
STATISTIC = "Mean |change| of the readout, mean over {}sources"


def ask_probes(
    inputs: Inputs, outputs: Outputs, readouts: Readouts, probes: pd.DataFrame, missing: dict[str, str]
) -> tuple[pd.DataFrame, list[Answer]]:
    """Table `probe_effects`; of every readout whether it tells anything, and whether features shift it."""
    answers = [_quality(row) for _, row in probes.iterrows()]
    answers += [untestable("output_effects", _asked(name), STATISTIC.format(""), why) for name, why in missing.items()]
    names = readouts.names
    if not names:
        if not missing:
            why = "The cells have no obs column to read. Name one with probe_columns, or genes with probe_signature."
            answers.append(untestable("output_effects", _asked("the cell"), STATISTIC.format(""), why))
        return empty_table("probe_effects"), answers
    tested = [i for i, name in enumerate(names) if name[2] != "probability"]
    compared = [_of(part, tested) for part in outputs.readouts.compared]
    found = judged(_of(outputs.readouts.own, tested), compared, inputs.settings)
    table = _table(inputs, outputs, names, found, tested)
    for name in dict.fromkeys(name[0] for name in names):
        answers.append(
            _shift(inputs, name, [i for i in tested if names[i][0] == name], outputs.readouts.compared, table)
        )
    return table, answers


def _of(part: Observations, targets: list[int]) -> Observations:
    """Some of the targets."""
    made = Observations(0, 0)
    made.sums = {name: values[:, targets] for name, values in part.sums.items()}
    return made


def _table(
    inputs: Inputs,
    outputs: Outputs,
    names: list[tuple[str, str, str]],
    found: dict[str, np.ndarray],
    tested: list[int],
) -> pd.DataFrame:
    """One row per source and tested readout."""
    probability = {
        name[:2]: outputs.readouts.own.mean[:, i] for i, name in enumerate(names) if name[2] == "probability"
    }
    nothing = np.full(len(inputs.sources), np.nan)
    delta = np.column_stack([probability.get(names[i][:2], nothing) for i in tested])
    sources = np.repeat(np.array(inputs.sources, dtype=np.int64).reshape(-1, 2), len(tested), axis=0)
    columns = {
        "kind": np.full(len(sources), inputs.settings.kind),
        "source_layer": sources[:, 0],
        "source_feature": sources[:, 1],
        "probability_delta": delta.ravel(),
    }
    for place, column in enumerate(("readout", "label", "measure")):
        columns[column] = np.tile([names[i][place] for i in tested], len(inputs.sources))
    return make_table("probe_effects", pd.DataFrame(columns | {name: found[name].ravel() for name in COLUMNS}))


def _asked(name: str) -> str:
    return f"Do features shift the readout of {name}?"


def _quality(row: pd.Series) -> Answer:
    """Does a readout tell anything of cells that it has not learnt from?"""
    labels = row["n_labels"] > 0
    return Answer(
        "output_effects",
        f"Can {row['readout']} be read linearly from the last layer?",
        "Accuracy in held-out cells" if labels else "R2 in held-out cells",
        float(row["score"]),
        float(row["chance"]),
        "always the commonest label; binomial test" if labels else "always the mean; test of the correlation",
        p_value=float(row["p_value"]),
        unit="share" if labels else "1",
        note=f"Learnt from {row['n_train']:,} cells, tested in {row['n_held_out']:,} others (cells are the units; they "
        "may share donors). Interventions are made in none of them.",
    )


def _shift(inputs: Inputs, name: str, targets: list[int], parts: list[Observations], table: pd.DataFrame) -> Answer:
    several = "labels and " if len(targets) > 1 else ""
    statistic = STATISTIC.format(several)
    n = parts[0].n[:, targets]
    enough = (n >= inputs.settings.min_cells).all(axis=1)
    if not enough.any():
        why = f"No source is active in min_cells = {inputs.settings.min_cells} control cells that have the readout."
        return untestable("output_effects", _asked(name), statistic, why)
    size = np.array([np.abs(part.mean[:, targets]).mean(axis=1) for part in parts])[:, enough]
    mine = table[table["readout"] == name]
    largest = mine.loc[mine["mean_delta"].abs().idxmax()]
    label = f" of {largest['label']}" if largest["label"] else ""
    return Answer(
        "output_effects",
        _asked(name),
        statistic,
        float(size[0].mean()),
        float(size[1:].mean()) if len(size) > 1 else float("nan"),
        CHANCE if len(size) > 1 else "",
        p_value=own_is_larger(size, inputs.settings.seed),
        note=f"{int(enough.sum()):,} sources. {int(mine['specific'].sum()):,} of {len(mine):,} pairs respond beyond "
        f"random directions. Largest: {largest['mean_delta']:+.3g} ({largest['measure']}{label}) by "
        f"L{largest['source_layer']} F{largest['source_feature']}, without intervention {largest['clean']:.3g}.",
    )
