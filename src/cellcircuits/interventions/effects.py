"""What does the chosen intervention do to the features above? As the trace does for removal, for any kind."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.changes import Condition, condition
from cellcircuits.interventions.features import feature_changes
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.interventions.observations import Observations
from cellcircuits.settings import EdgesSettings
from cellcircuits.stats import symmetric_mean_test
from cellcircuits.tables import make_table

ASKED = "Does the intervention move more of the features above than a random direction does?"
STATISTIC = "Share of tested pairs of a source and a feature above it that respond"
CHANCE = "the same of one random direction of the same norm in the place of each source's own; sources are the units"
NAMES = ["n_cells", "mean_delta", "sd_delta", "snr", "low", "high", "clean", "sign_agreement", "p_value", "q_value"]


def ask(inputs: Inputs) -> Found:
    """Table `intervention_effects`, and whether more features respond than to a random direction."""
    own = [condition([source], inputs.change) for source in inputs.sources]
    random = [condition([source], inputs.change, random=0) for source in inputs.sources]
    sums = observe(inputs, own + random)
    rule, rows, share = EdgesSettings(), [], np.zeros((2, len(own)))
    tested_of = np.zeros((2, len(own)))
    for layer, observed in sums.items():
        found = observed.statistics(inputs.settings.min_cells)
        responds = (found["q_value"] <= inputs.settings.max_q) & (np.abs(found["snr"]) > rule.min_snr)
        responds &= found["sign_agreement"] >= rule.min_agreement
        for which, part in enumerate((slice(None, len(own)), slice(len(own), None))):
            share[which] += responds[part].sum(axis=1)
            tested_of[which] += found["tested"][part].sum(axis=1)
        chosen = responds.copy()
        chosen[len(own) :] = False
        rows.append(_rows(inputs, layer, chosen, found))
    table = make_table("intervention_effects", pd.concat(rows, ignore_index=True))
    return Found({"intervention_effects": table}, [_answer(inputs, share, tested_of)])


def observe(inputs: Inputs, conditions: list[Condition]) -> dict[int, Observations]:
    """{layer: sums over cells} of the change of every feature above, where the condition changes something."""
    engine = inputs.intervener(inputs.sources)
    layers = [layer for layer in sorted(inputs.saes) if layer > min(c.layers[0] for c in conditions)]
    sums = {layer: Observations(len(conditions), inputs.saes[layer].n_features) for layer in layers}
    with inputs.progress.task("Intervening", len(inputs.cells)) as advance:
        for number in range(len(inputs.cells)):
            clean = engine.clean(inputs.cells.take([number]), conditions)
            where = engine.positions(clean, conditions)
            some = np.flatnonzero(where.any(axis=1))
            for changed in engine.run(clean, [conditions[i] for i in some], number, layers):
                rows = some[changed.rows]
                above = np.array([max(conditions[row].layers) < changed.layer for row in rows])
                if not above.all():
                    continue
                x, before = feature_changes(clean, changed, where[rows], inputs.saes)
                sums[changed.layer].add(rows, x, before)
            advance(1)
    return sums


def _rows(inputs: Inputs, layer: int, chosen: np.ndarray, found: dict[str, np.ndarray]) -> pd.DataFrame:
    source, target = np.nonzero(chosen)
    ends = np.array(inputs.sources, dtype=np.int64).reshape(-1, 2)[source]
    columns = {
        "kind": np.full(len(source), inputs.settings.kind),
        "source_layer": ends[:, 0],
        "source_feature": ends[:, 1],
        "target_layer": np.full(len(source), layer),
        "target_feature": target,
    }
    return pd.DataFrame(columns | {name: found[name][source, target] for name in NAMES})


def _answer(inputs: Inputs, responding: np.ndarray, tested: np.ndarray) -> Answer:
    """`responding` and `tested` are (own or random, source)."""
    known = tested[0] > 0
    if not known.any():
        why = f"No source is active in min_cells = {inputs.settings.min_cells} of the {len(inputs.cells)} cells."
        return untestable("effects", ASKED, STATISTIC, why)
    share = responding[:, known] / np.maximum(tested[:, known], 1)
    return Answer(
        "effects",
        ASKED,
        STATISTIC,
        float(responding[0].sum() / tested[0].sum()),
        float(responding[1].sum() / max(tested[1].sum(), 1)),
        CHANCE,
        p_value=symmetric_mean_test(share[0] - share[1], inputs.settings.seed),
        claim="higher",
        unit="share",
        note=f'{int(known.sum()):,} sources, intervention "{inputs.settings.kind}" at {inputs.settings.positions} '
        f"positions, {len(inputs.cells):,} cells. A pair responds at q ≤ {inputs.settings.max_q} with |mean / sd| "
        "above 0.5 and 70 % of responding cells of one sign, as edges are called.",
    )
