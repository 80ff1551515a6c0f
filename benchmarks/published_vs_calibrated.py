"""What each headline of the published rule becomes: the tables and pictures of docs/published-vs-calibrated.md.

    python benchmarks/published_vs_calibrated.py runs/compare            both demo models; half an hour on 2 cores
    python benchmarks/published_vs_calibrated.py runs/compare --figures docs/images

Runs that are there already are used again. The settings are the demo's, with 16 random directions and 4 other features
in the place of every source, in 100 cells, and with autoencoders on the model with random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from scipy import stats as scipy_stats

import cellcircuits as cc
from cellcircuits.demo import DATA, FAMILIES
from cellcircuits.opened import OpenRun
from cellcircuits.pipeline import run_pipeline
from cellcircuits.progress import Progress
from cellcircuits.run import create_run

COLOURS = {"published": "#b3592d", "calibrated": "#4878a8", "specific": "#2d8a6a"}
DIRECTIONS = {
    "own": "the feature",
    "random": "a fixed random direction",
    "feature": "another feature's direction",
    "random_weights": "a feature of the model with random weights",
}
DRAWN_PAIRS = 4000


def compared_run(folder: Path, family: str) -> OpenRun:
    """The demo's run of a model with all controls; computed where it is not there."""
    settings = cc.read_settings(DATA / f"demo_{family}.toml")
    trace = replace(settings.trace, random_directions=16, matched_features=4, control_cells=100)
    settings = replace(settings, trace=trace, train=replace(settings.train, random_weights=True))
    run = create_run(folder / family, settings)
    with run.locked():
        run_pipeline(run, Progress(), until="findings")
    return cc.open_run(run.folder)


def edges_by_rule(run: OpenRun) -> dict[str, pd.DataFrame]:
    """The edges of each rule; specific ones are those of the calibrated rule that are beyond random directions."""
    published = pd.concat([cc.edges(moments, rule="published") for moments in run.moments.values()])
    return {"published": published, "calibrated": run.edges, "specific": run.edges[run.edges["specific"]]}


def edges_per_source(run: OpenRun, edges: pd.DataFrame) -> pd.DataFrame:
    """One row per source: layer, feature, firing_rate, degree (edges of all target layers), relative_degree.

    The latter is the degree over the mean degree of its layer: lower layers have more layers above them.
    """
    counted = edges.groupby(["source_layer", "source_feature"]).size().rename("degree")
    sources = run.sources.set_index(["layer", "feature"])
    table = sources[["firing_rate"]].assign(degree=counted.reindex(sources.index, fill_value=0)).reset_index()
    mean = table.groupby("layer")["degree"].transform("mean")
    return table.assign(relative_degree=table["degree"] / mean.clip(lower=1e-9))


def pair_effects(run: OpenRun) -> pd.DataFrame:
    """Mean change before TopK of every pair that is not 0: what the model does, and what merely persists."""
    parts = []
    for moments in run.moments.values():
        for layer in moments.sums:
            traced = moments.mean(layer, readout="pre")
            parts.append(pd.DataFrame({"traced": traced.ravel()}))
            parts[-1]["persists"] = (traced - moments.mean(layer, readout="computed")).ravel()
    table = pd.concat(parts, ignore_index=True)
    return table[table["traced"] != 0]


def count(number: float) -> str:
    """A mean number of edges: small ones with a decimal."""
    return f"{number:,.0f}" if number >= 100 or number == round(number) else f"{number:,.1f}"


def headline_rows(run: OpenRun) -> list[list[str]]:
    """Rows of the table: headline, and what it is by each rule."""
    rules = edges_by_rule(run)
    n_tested = run.tested["n_tested"].sum()
    signs = run.findings.signs.set_index("rule")
    rows = [["edges (of tested pairs)", *(f"{len(e):,} ({len(e) / n_tested:.1%})" for e in rules.values())]]
    negative = [f"{(e['mean_delta'] < 0).mean():.1%}" for e in rules.values()]
    chance = [f" ({signs.loc[rule, 'chance_share']:.1%})" for rule in ("published", "calibrated")] + [""]
    rows.append(["negative effects (the rule alone)", *(a + b for a, b in zip(negative, chance, strict=True))])
    degrees = {name: edges_per_source(run, edges) for name, edges in rules.items()}
    rank = [scipy_stats.spearmanr(d["relative_degree"], d["firing_rate"]) for d in degrees.values()]
    rows.append(["degree against firing rate, Spearman (p)", *(f"{r.statistic:.2f} ({r.pvalue:.1g})" for r in rank)])
    controls = run.controls.set_index("direction")
    for direction, name in DIRECTIONS.items():
        if direction in controls.index:
            row = controls.loc[direction]
            numbers = (row[f"edges_{column}"] for column in ("published", "exist", "specific"))
            rows.append([f"edges of {name}", *("-" if np.isnan(n) else count(n) for n in numbers)])
    return rows


def draw(run: OpenRun, name: str, path: Path) -> None:
    """The picture of one run: signs, degree against firing rate, controls, and what merely persists."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    figure.suptitle(f"{name}: what the published headlines become", fontsize=13)
    rules = edges_by_rule(run)
    _draw_signs(axes[0, 0], run, rules)
    _draw_degrees(axes[0, 1], {name: edges_per_source(run, edges) for name, edges in rules.items()})
    _draw_controls(axes[1, 0], run.controls)
    _draw_persistence(axes[1, 1], pair_effects(run))
    for ax in axes.ravel():
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_signs(ax: Axes, run: OpenRun, rules: dict[str, pd.DataFrame]) -> None:
    shares = {rule: (edges["mean_delta"] < 0).mean() for rule, edges in rules.items() if len(edges)}
    ax.bar(list(shares), list(shares.values()), color=[COLOURS[rule] for rule in shares], width=0.6)
    for x, row in enumerate(run.findings.signs.set_index("rule").loc[["published", "calibrated"]].itertuples()):
        ax.hlines(row.chance_share, x - 0.38, x + 0.38, color="black", linestyle="--", linewidth=1.2)
    ax.text(0.02, 0.98, "dashed: the rule alone, from random signs", transform=ax.transAxes, va="top", fontsize=9)
    ax.axhline(0.5, color="grey", linewidth=0.8, zorder=0)
    ax.set(ylabel="share of negative effects", ylim=(0, 1), title="Signs")


def _draw_degrees(ax: Axes, degrees: dict[str, pd.DataFrame]) -> None:
    for rule, table in degrees.items():
        if table["degree"].sum() == 0:
            continue
        rho = scipy_stats.spearmanr(table["relative_degree"], table["firing_rate"]).statistic
        ax.scatter(
            table["firing_rate"],
            table["relative_degree"],
            s=16,
            alpha=0.75,
            color=COLOURS[rule],
            label=f"{rule} (Spearman {rho:.2f})",
        )
    ax.set(xlabel="firing rate of the source", ylabel="edges, relative to the layer's mean", xscale="log")
    ax.set_title("Degree against firing rate")
    low, high = ax.get_xlim()
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False, fontsize=9)


def _draw_controls(ax: Axes, controls: pd.DataFrame) -> None:
    table = controls.set_index("direction").reindex([name for name in DIRECTIONS if name in set(controls["direction"])])
    height = 0.26
    y = np.arange(len(table))
    for offset, (rule, column) in enumerate(zip(COLOURS, ("published", "exist", "specific"), strict=True)):
        values = table[f"edges_{column}"].to_numpy(dtype=float)
        at = y + (offset - 1) * height
        ax.barh(at, np.nan_to_num(values), height, color=COLOURS[rule], label=rule)
        for value, place in zip(values, at, strict=True):
            ax.text(
                np.nan_to_num(value), place, " -" if np.isnan(value) else f" {count(value)}", va="center", fontsize=8
            )
    ax.set_yticks(y, [fill(DIRECTIONS[name], 22) for name in table.index])
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(xlabel="edges", title="What is taken out")
    ax.legend(frameon=False, fontsize=9, loc="upper right")


def _draw_persistence(ax: Axes, effects: pd.DataFrame) -> None:
    drawn = effects.sample(min(DRAWN_PAIRS, len(effects)), random_state=0)
    r = effects["traced"].corr(effects["persists"])
    ax.scatter(drawn["persists"], drawn["traced"], s=5, alpha=0.35, color="#555555", linewidths=0)
    limit = np.quantile(effects["traced"].abs(), 0.999)
    ax.plot([-limit, limit], [-limit, limit], color="black", linewidth=0.8, linestyle="--")
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="what the removed vector alone does, carried upward")
    ax.set(ylabel="traced effect, before TopK", title=f"Without running the blocks: r = {r:.2f}")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A Markdown table."""
    columns = list(columns)
    for row in [columns, ["---"] * len(columns), *rows]:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs are, or are made")
    parser.add_argument("--figures", type=Path, default=Path("."), help="folder for the pictures")
    given = parser.parse_args()
    given.figures.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        run = compared_run(given.folder, family)
        print(f"\n{family}\n")
        print_table(["headline", "published", "calibrated", "calibrated and specific"], headline_rows(run))
        effects = pair_effects(run)
        r = effects["traced"].corr(effects["persists"])
        print(f"\nTraced effect and what merely persists: r = {r:.3f} over {len(effects):,} pairs")
        draw(run, family, given.figures / f"published_vs_calibrated_{family}.png")


if __name__ == "__main__":
    main()
