"""Which genes does the model predict differently, and does that follow what a feature is called after?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.masked_loss import why_no_loss
from cellcircuits.interventions.output_loss import ask_loss
from cellcircuits.interventions.outputs import Outputs, control_cells, measure_outputs
from cellcircuits.interventions.own_and_random import judged, own_is_larger, responding
from cellcircuits.interventions.probe_effects import ask_probes
from cellcircuits.interventions.probes import make_readouts
from cellcircuits.interventions.top_gene_effects import ask_top_genes
from cellcircuits.tables import empty_table, make_table

ASKED = "Does a feature change the output of more genes than a random direction does?"
STATISTIC = "Share of tested pairs of a source and a gene that respond, mean over sources"
CHANCE = (
    "the same of random directions of the same norm at the same positions, mean over them; one-sided, any of the "
    "directions could have been called a source's own; sources are the units"
)
COLUMNS = (
    "n_cells mean_delta sd_delta snr low high clean sign_agreement p_value q_value random_mean specific_z specific_q "
    "specific"
).split()


def ask(inputs: Inputs) -> Found:
    """Tables `output_effects`, `output_loss`, `probes`, `probe_effects`, and what they answer."""
    readouts, probes, missing = make_readouts(inputs)
    outputs = measure_outputs(inputs, readouts)
    loss, of_loss = ask_loss(inputs)
    effects, of_probes = ask_probes(inputs, outputs, readouts, probes, missing)
    listed = in_top_genes(inputs, outputs)
    if inputs.model.output_name:
        found = judged(outputs.genes.own, outputs.genes.compared, inputs.settings)
        table = _table(inputs, outputs, found, listed)
        answers = [_answer(inputs, outputs, found), *ask_top_genes(inputs, outputs, listed)]
    else:
        table = empty_table("output_effects")
        answers = [untestable("output_effects", ASKED, STATISTIC, why_no_loss(inputs.model, inputs.cells))]
    tables = {"output_effects": table, "output_loss": loss, "probes": probes, "probe_effects": effects}
    return Found(tables, [*answers, of_loss, *of_probes])


def in_top_genes(inputs: Inputs, outputs: Outputs) -> np.ndarray:
    """bool (source, gene): genes that the catalogue lists for the source."""
    gene_ids = inputs.run.cells.gene_ids[outputs.tokens]
    genes = inputs.run.feature_genes
    found = np.zeros((len(inputs.sources), len(gene_ids)), dtype=bool)
    for row, (layer, feature) in enumerate(inputs.sources):
        of_source = genes[(genes["layer"] == layer) & (genes["feature"] == feature)]
        found[row] = np.isin(gene_ids, of_source["gene_id"].to_numpy(dtype=str))
    return found


def _table(inputs: Inputs, outputs: Outputs, found: dict[str, np.ndarray], listed: np.ndarray) -> pd.DataFrame:
    """Pairs that respond, of each source those of the largest effects first."""
    source, gene = np.nonzero(found["responds"])
    order = np.lexsort((gene, -np.abs(found["mean_delta"][source, gene]), source))
    source, gene = source[order], gene[order]
    ends = np.array(inputs.sources, dtype=np.int64).reshape(-1, 2)[source]
    cells, token = inputs.run.cells, outputs.tokens[gene]
    columns = {
        "kind": np.full(len(source), inputs.settings.kind),
        "source_layer": ends[:, 0],
        "source_feature": ends[:, 1],
        "gene_id": cells.gene_ids[token],
        "symbol": cells.gene_symbols[token],
        "share_active": outputs.active[source, gene] / np.maximum(found["n_cells"][source, gene], 1),
        "in_top_genes": listed[source, gene],
    }
    return make_table("output_effects", pd.DataFrame(columns | {name: found[name][source, gene] for name in COLUMNS}))


def _answer(inputs: Inputs, outputs: Outputs, found: dict[str, np.ndarray]) -> Answer:
    settings, compared = inputs.settings, outputs.genes.compared
    tested = (compared[0].n >= settings.min_cells).sum(axis=1)
    known, n_random = tested > 0, len(compared) - 1
    if not known.any():
        why = f"No gene is in min_cells = {settings.min_cells} control cells in which a source is active."
        return untestable("output_effects", ASKED, STATISTIC, why)
    # each direction is corrected alone: as many tests as the own ones
    responds = [responding(part.statistics(settings.min_cells), settings.max_q).sum(axis=1) for part in compared]
    share = np.array(responds)[:, known] / tested[known]
    return Answer(
        "output_effects",
        ASKED,
        STATISTIC,
        float(share[0].mean()),
        float(share[1:].mean()) if n_random else float("nan"),
        CHANCE if n_random else "",
        p_value=own_is_larger(share, settings.seed),
        unit="share",
        note=f"{int(known.sum()):,} sources in {control_cells(inputs).sum():,} cells, {n_random} random directions. In "
        f"all {len(inputs.cells):,} cells {int(found['responds'].sum()):,} of {int(found['tested'].sum()):,} pairs "
        f"respond, {int(found['specific'].sum()):,} of them beyond random directions. Output: "
        f"{inputs.model.output_name}. A small change of every cell responds too: see mean_delta.",
    )
