"""Do features act together? Contrasts of raw effects of pairs and triplets (see `contrasts`), in panels of groups.

What is published are ratios of standardised effects, |d_AB| / (|d_A| + |d_B|). For two effects that add up, each with
independent noise of the same size, that is 1 / sqrt(2) = 0.71: it says nothing of how features act together.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.interventions.contrast_tests import DRAWS, KEYS, ContrastTests, Family
from cellcircuits.interventions.contrasts import ADDITIVITY, READOUTS, Observer, Plan, blocks
from cellcircuits.interventions.feature_groups import CROSS, DIRECTIONS, NAMED, RANDOM, SAME, Group, choose_groups
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.stats import symmetric_mean_test
from cellcircuits.tables import TABLES, empty_table, make_table

ASKED = {
    "source": "Do features act together?",
    "pre": "Do features act together before the target's own threshold?",
}
SHARE = {
    "source": "Share of tested pairs of a contrast of a group and a target that interact",
    "pre": "The same of what is computed before TopK and the floor at 0",
}
BY_CHANCE = "the same when each cell's contrasts get a random sign, one for all groups and targets; cells are the units"
REACHED = "Slope of the joint effect on the sum of the single ones (median over groups)"
PUBLISHED = (
    "median |d of both| / (|d of one| + |d of the other|) over pairs and targets that respond: 0.71 where effects with "
    "independent noise add up"
)
SIZE = "Mean |joint effect - sum of single ones| / mean |sum of single ones|, mean over groups: {first}"
COMPARED = {
    CROSS: ("Do features of the same pathway interact more than those of different ones?", "groups across pathways"),
    RANDOM: ("Do features of the same pathway interact more than others?", "random groups"),
    DIRECTIONS: ("Do features interact more than random directions?", "random directions in the members' places"),
}
MOST_BYTES = 4e8
"""Of sums over cells at a time."""


def ask(inputs: Inputs) -> Found:
    """Tables `group_interactions` and `interaction_groups`, and whether features act together."""
    groups = choose_groups(inputs)
    if not groups:
        return _nothing(_no_groups(inputs))
    tests = run_tests(inputs, groups)
    max_q = inputs.settings.max_q
    called = {key: family.called(max_q) for key, family in tests.families.items() if family.n_tests}
    table = _groups_table(inputs, groups, tests, called)
    own = table[table["panel"] != DIRECTIONS]
    if not own["n_tested"].any():
        why = f"No group is active together in min_cells = {inputs.settings.min_cells} of {len(inputs.cells)} cells."
        return _nothing(f"{why} Use more cells, or name features that fire together.", table)
    answers = [_share_answer(tests.families[False, name], name, own, max_q) for name in READOUTS]
    answers.append(_sum_answer(inputs, own, tests))
    answers += [_panel_answer(inputs, table, groups[0].panel, other) for other in _others(groups[0].panel)]
    return Found({"group_interactions": _interactions(called), "interaction_groups": table}, answers)


def run_tests(inputs: Inputs, groups: list[Group]) -> ContrastTests:
    """All tests of the groups."""
    settings = inputs.settings
    tests = ContrastTests(len(inputs.cells), settings.min_cells, settings.max_q, settings.seed)
    layers = sorted(layer for layer in inputs.saes if layer > min(group.members[0][0] for group in groups))
    engine = inputs.intervener(sorted({member for group in groups for member in group.members}))
    observer = Observer(engine, inputs.cells, layers)
    n_targets = sum(inputs.saes[layer].n_features for layer in layers)
    parts = list(blocks(groups, n_targets, len(inputs.cells), MOST_BYTES))
    with inputs.progress.task("Groups of features", len(parts) * len(inputs.cells)) as advance:
        for part in parts:
            plan = Plan(part, inputs.change)
            tests.add(plan, observer.observe(plan, advance))
    return tests


def _interactions(called: dict[tuple[bool, str], pd.DataFrame]) -> pd.DataFrame:
    """The table `group_interactions`: what is called, but for random directions."""
    own = pd.concat([rows for (control, _), rows in called.items() if not control], ignore_index=True)
    same = ["members", "contrast", "target_layer", "target_feature"]
    sign = np.sign(own["epsilon"].to_numpy())
    both = own.assign(sign=sign).duplicated([*same, "panel", "sign"], keep=False)
    order = ["readout", "panel", *same]
    columns = [column.name for column in TABLES["group_interactions"]]
    rows = own.assign(both_readouts=both.to_numpy()).sort_values(order, kind="stable", ignore_index=True)
    return make_table("group_interactions", rows[columns])


def _groups_table(
    inputs: Inputs, groups: list[Group], tests: ContrastTests, called: dict[tuple[bool, str], pd.DataFrame]
) -> pd.DataFrame:
    table = pd.DataFrame(tests.groups)
    # in the order of the groups, however many were tested at a time
    table = table.sort_values("readout", key=lambda names: names.map(READOUTS.index), kind="stable", ignore_index=True)
    rows = pd.concat(called.values(), ignore_index=True) if called else pd.DataFrame(columns=[*KEYS, "together"])
    keys = pd.MultiIndex.from_frame(table[KEYS])
    for column, chosen in (
        ("n_interacting", rows),
        ("n_more", rows[rows["together"] == "more"]),
        ("n_less", rows[rows["together"] == "less"]),
    ):
        table[column] = chosen.groupby(KEYS).size().reindex(keys, fill_value=0).to_numpy()
    serial = {group.name for group in groups if _serial(inputs, group)}
    return make_table("interaction_groups", table.assign(serial=table["members"].isin(serial)))


def _serial(inputs: Inputs, group: Group) -> bool:
    """Whether an edge leads from one member to another."""
    edges = inputs.run.edges
    return any(
        (
            (edges["source_layer"] == a[0])
            & (edges["source_feature"] == a[1])
            & (edges["target_layer"] == b[0])
            & (edges["target_feature"] == b[1])
        ).any()
        for a, b in combinations(group.members, 2)
    )


def _share_answer(family: Family, readout: str, own: pd.DataFrame, max_q: float) -> Answer:
    rows = own[(own["readout"] == readout) & (own["n_tested"] > 0)]
    n, n_called = family.n_tests, int(rows["n_interacting"].sum())
    null = family.null_counts(max_q)
    triplets = rows[rows["contrast"] != ADDITIVITY]
    three = f" Three-way: {_share(triplets)} of {triplets['n_tested'].sum():,}." if len(triplets) else ""
    return Answer(
        "interactions",
        ASKED[readout],
        SHARE[readout],
        n_called / max(n, 1),
        float(null.mean()) / max(n, 1),
        BY_CHANCE,
        p_value=float((1 + (null >= n_called).sum()) / (1 + DRAWS)),
        unit="share",
        note=f"{len(rows[rows['contrast'] == ADDITIVITY]):,} groups, {n:,} tests, {n_called:,} with q ≤ {max_q}: "
        f"{rows['n_more'].sum():,} change more together than expected, {rows['n_less'].sum():,} less.{three}",
    )


def _share(rows: pd.DataFrame) -> str:
    return f"{rows['n_interacting'].sum() / max(rows['n_tested'].sum(), 1):.1%}"


def _known(table: pd.DataFrame, column: str, readout: str = "source") -> pd.DataFrame:
    """Rows of additivity in which `column` is known."""
    chosen = (table["contrast"] == ADDITIVITY) & (table["readout"] == readout) & np.isfinite(table[column])
    return table[chosen]


def _sum_answer(inputs: Inputs, own: pd.DataFrame, tests: ContrastTests) -> Answer:
    asked = "Do features together do something else than the sum of them?"
    reached, before = (_known(own, "reached", readout)["reached"].to_numpy() for readout in READOUTS)
    if not len(reached):
        return untestable("interactions", asked, REACHED, "No member of any group changes anything above it.")
    ratios = np.concatenate(tests.published) if tests.published else np.zeros(0)
    return Answer(
        "interactions",
        asked,
        REACHED,
        float(np.median(reached)),
        1.0,
        "effects that add up in every cell; groups are the units",
        p_value=symmetric_mean_test(reached - 1.0, inputs.settings.seed),
        published=float(np.median(ratios)) if len(ratios) else np.nan,
        published_is=PUBLISHED if len(ratios) else "",
        note=f"{len(reached):,} groups; median before TopK and the floor at 0: "
        f"{np.median(before) if len(before) else np.nan:.3f}. Below 1 each member makes the others matter less, as "
        "where all are needed; above 1 they stand in for each other.",
    )


def _others(first: str) -> list[str]:
    """Panels that the first is compared with."""
    return [DIRECTIONS] if first == NAMED else [CROSS, RANDOM, DIRECTIONS]


def _panel_answer(inputs: Inputs, table: pd.DataFrame, first: str, other: str) -> Answer:
    """Are contrasts larger, relative to effects, in the groups of the panel `first` than in those matched to them?"""
    asked, words = COMPARED[other]
    statistic = SIZE.format(first=first)
    if other != DIRECTIONS and first != SAME:
        why = "No features with a common enriched gene set are active together in enough cells. Use more gene sets "
        return untestable("interactions", asked, statistic, why + "or cells, or trace more features.")
    of = partial(_by_set, table)
    sizes = pd.concat([of(first, "source"), of(other, "source")], axis=1, join="inner")
    if sizes.empty:
        why = f"There are no {words} that are matched to them and change anything."
        if other == DIRECTIONS and not inputs.settings.random_directions:
            why = "There are no random directions: set random_directions to 1 or more."
        return untestable("interactions", asked, statistic, why)
    own, matched = sizes.to_numpy().T
    before = pd.concat([of(first, "pre"), of(other, "pre")], axis=1, join="inner").mean().to_numpy()
    return Answer(
        "interactions",
        asked,
        statistic,
        float(own.mean()),
        float(matched.mean()),
        f"{words}, matched one by one; matched groups are the units",
        p_value=symmetric_mean_test(own - matched, inputs.settings.seed),
        claim="higher",
        note=f"{len(own):,} matched groups. Before TopK and the floor at 0: {before[0]:.3f} against {before[1]:.3f}.",
    )


def _by_set(table: pd.DataFrame, panel: str, readout: str) -> pd.Series:
    """Relative size of contrasts by matched set."""
    known = _known(table, "relative_size", readout)
    return known[known["panel"] == panel].set_index("matched_set")["relative_size"].rename(panel)


def _no_groups(inputs: Inputs) -> str:
    settings = inputs.settings
    if settings.features:
        return "Name at least two features, and let interaction_pairs or interaction_triplets be above 0."
    return (
        f"No two sources without an edge between them are active together in min_cells = {settings.min_cells} of "
        f"{len(inputs.cells)} cells. Use more cells, trace more features, or name some that fire together."
    )


def _nothing(why: str, groups: pd.DataFrame | None = None) -> Found:
    tables = {
        "group_interactions": empty_table("group_interactions"),
        "interaction_groups": empty_table("interaction_groups") if groups is None else groups,
    }
    return Found(tables, [untestable("interactions", ASKED["source"], SHARE["source"], why)])
