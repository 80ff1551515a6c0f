"""Pictures of features, in the manner of scanpy's `pl`: every function takes a run, draws on `ax`, and returns it.

Without `ax` a figure of a fitting size is made that belongs to no window: ``ax.figure`` shows it in a notebook,
``ax.figure.savefig("features.png")`` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cellcircuits.errors import DataError, listed
from cellcircuits.formats import RANDOM_WEIGHTS
from cellcircuits.opened import OpenRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933", "#332288", "#44AA99")
"""Told apart in all colour vision."""
GREY, INK, QUIET = "#c9c9c9", "#222222", "#666666"
LONGEST_LABEL = 38
QUALITY_BASELINES = (
    ("", "-", ""),
    (f"{RANDOM_WEIGHTS}_", "--", ", random weights"),
    ("pca_", ":", ", principal components"),
)
"""(prefix of a column of the table `quality`, line, what it is)."""


def feature_umap(
    run: OpenRun,
    layer: int,
    color: str = "label",
    basis: Literal["decoder", "genes"] = "decoder",
    ax: Axes | None = None,
    n_neighbors: int = 15,
    seed: int = 0,
) -> Axes:
    """UMAP of the features of a layer that fire, by cosine distance, coloured by a column.

    `color` is a column of the table features ("label", "firing_rate", ...), or "module" (after `cellcircuits
    structure`). `basis`: decoder directions, or the scores of top genes. Of labels and modules the ten commonest are
    coloured.
    """
    features = _layer(run.features, layer).query("n_firings > 0")
    if color == "module":
        values = _modules(run, layer, features["feature"])
    elif color in features:
        values = features[color]
    else:
        raise DataError(
            f"Features have no column {color!r} to colour by; they have {listed(features.columns, 20)}, module."
        )
    points = _embedding(_basis(run, layer, features["feature"].to_numpy(), basis), n_neighbors, seed)
    ax = _axes(ax, 7.6, 5.0)
    if values.dtype.kind in "fiu":
        # a few large values would make all others one colour
        most = values.quantile(0.98)
        x, y = points.T
        dots = ax.scatter(x, y, c=values, s=14, cmap="viridis", linewidths=0, vmax=most)
        beyond: Literal["max", "neither"] = "max" if values.max() > most else "neither"
        ax.figure.colorbar(dots, ax=ax, label=color.replace("_", " "), shrink=0.7, extend=beyond)
    else:
        _categories(ax, points, values.to_numpy(dtype=object), "no " + color)
    by = "decoder directions" if basis == "decoder" else "top genes"
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    _title(ax, f"Layer {layer}: {len(features):,} features by {by}")
    return ax


def top_genes(
    run: OpenRun, layer: int, features: Sequence[int] | None = None, n_genes: int = 4, ax: Axes | None = None
) -> Axes:
    """Dot plot of the top genes of some features: size is how often a feature fires on the gene, colour how strongly.

    `features`: by default the ten with the highest annotation score. A gene that is not on a feature's list has no dot.
    """
    table = _layer(run.features, layer)
    chosen = _chosen(table, features if features is not None else _annotated(table, 10))
    genes = _layer(run.feature_genes, layer)
    genes = genes[genes["feature"].isin(chosen)].assign(share=lambda t: t["n_firings"] / t["n_positions"])
    first = genes[genes["rank"] <= n_genes].assign(row=lambda t: t["feature"].map({f: i for i, f in enumerate(chosen)}))
    symbols = list(dict.fromkeys(first.sort_values(["row", "rank"])["symbol"]))
    shown = genes[genes["symbol"].isin(symbols)]
    ax = _axes(ax, 3.9 + 0.24 * len(symbols), 1.9 + 0.3 * len(chosen))
    x = shown["symbol"].map({s: i for i, s in enumerate(symbols)})
    y = shown["feature"].map({f: i for i, f in enumerate(chosen)})
    dots = ax.scatter(x, y, s=8 + 112 * shown["share"], c=shown["score"], cmap="Reds", edgecolors=QUIET, linewidths=0.4)
    ax.set_xticks(range(len(symbols)), symbols, rotation=90, fontsize=8)
    ax.set_yticks(range(len(chosen)), _names(table, chosen), fontsize=8, parse_math=False)
    ax.set(xlim=(-0.7, len(symbols) - 0.3), ylim=(len(chosen) - 0.4, -0.6))
    ax.figure.colorbar(dots, ax=ax, label="score (activation)", shrink=0.8, aspect=12, pad=0.02)
    handles = [
        ax.scatter([], [], s=8 + 112 * s, c="white", edgecolors=QUIET, label=f"{s:.0%}") for s in (0.1, 0.5, 1.0)
    ]
    ax.legend(
        handles=handles,
        title="fires at, of the gene's positions",
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
        borderaxespad=0.2,
    )
    _title(ax, f"Layer {layer}: top genes", pad=46)
    return ax


def cell_labels(
    run: OpenRun,
    layer: int,
    column: str = "",
    features: Sequence[int] | None = None,
    n_features: int = 2,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of AUROC, features by labels of an obs column: 1, the feature is higher in every cell of the label.

    `features`: by default the `n_features` with the highest AUROC for each label. `column`: by default the first one.
    """
    table = _layer(run.cell_labels, layer)
    columns = list(dict.fromkeys(table["column"]))
    if not columns or (column and column not in columns):
        raise DataError(f"No feature was tested for the obs column {column!r}; tested: {listed(columns) or 'none'}.")
    table = table[table["column"] == (column or columns[0])]
    grid = table.pivot(index="feature", columns="label", values="auroc")
    if features is None:
        best = [f for label in grid for f in grid[label].nlargest(n_features).index]
        features = list(dict.fromkeys(best))
    chosen = _chosen(table, features)
    grid = grid.loc[chosen]
    ax = _axes(ax, 4.6 + 0.36 * grid.shape[1], 1.9 + 0.26 * len(grid))
    image = ax.imshow(grid, cmap="RdBu_r", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(grid.shape[1]), grid.columns, rotation=90, fontsize=8, parse_math=False)
    ax.set_yticks(range(len(grid)), _names(_layer(run.features, layer), chosen), fontsize=8, parse_math=False)
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, label="AUROC (0.5: no association)", shrink=0.8, pad=0.03)
    _title(ax, f"Layer {layer}: features by {column or columns[0]}")
    return ax


def quality(
    run: OpenRun,
    values: Sequence[str] = ("variance_explained", "final_state_recovered", "loss_recovered", "dead_share"),
    ax: Axes | None = None,
) -> Axes:
    """Quality of the autoencoders on held-out cells by layer.

    Dashed: those on the model with random weights; dotted: as many principal components as features are active.
    `values` are columns of the table `quality`; what was not measured is left out.
    """
    table = run.quality
    ax = _axes(ax, 6.4, 4.0)
    for prefix, style, what in QUALITY_BASELINES:
        for number, value in enumerate(values):
            if value not in table:
                raise DataError(f"Autoencoders have no {value!r}; they have {listed(table.columns, 20)}.")
            if prefix + value not in table or table[prefix + value].isna().all():
                continue
            label = f"{value.replace('_', ' ')}{what}"
            colour = COLOURS[number % len(COLOURS)]
            ax.plot(table["layer"], table[prefix + value], style, marker="o", markersize=5, color=colour, label=label)
    ax.set(xlabel="Layer", ylabel="Held-out cells")
    ax.set_xticks(table["layer"])
    if ax.dataLim.y0 >= 0 and ax.dataLim.y1 <= 1:  # shares, of which 0 and 1 mean something
        ax.set_ylim(-0.03, 1.03)
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))
    _title(ax, "Quality of the autoencoders")
    return ax


def _layer(table: pd.DataFrame, layer: int) -> pd.DataFrame:
    found = table[table["layer"] == layer]
    if found.empty:
        raise DataError(
            f"There is nothing of layer {layer}; there are layers {listed(sorted(set(table['layer'])), 30)}."
        )
    return found


def _chosen(table: pd.DataFrame, features: Sequence[int]) -> list[int]:
    unknown = sorted(set(features) - set(table["feature"]))
    if unknown or not len(features):
        raise DataError(f"The layer's table has no features {listed(unknown) or '(none were given)'}.")
    return list(features)


def _annotated(table: pd.DataFrame, n: int) -> list[int]:
    return (
        table.sort_values(["annotation_score", "n_firings"], ascending=False, kind="stable")["feature"].head(n).tolist()
    )


def _names(table: pd.DataFrame, features: Sequence[int]) -> list[str]:
    labels = table.set_index("feature")["label"]
    names = [f"F{feature} {labels[feature]}".strip() for feature in features]
    return [n if len(n) <= LONGEST_LABEL else f"{n[: LONGEST_LABEL - 1].rstrip()}…" for n in names]


def _basis(run: OpenRun, layer: int, features: np.ndarray, basis: str) -> np.ndarray:
    if basis == "decoder":
        return run.saes[layer].W_dec.cpu().numpy()[features]
    genes = _layer(run.feature_genes, layer)
    grid = genes.pivot_table(index="feature", columns="symbol", values="score", fill_value=0.0)
    return grid.reindex(features, fill_value=0.0).to_numpy()


def _modules(run: OpenRun, layer: int, features: pd.Series) -> pd.Series:
    """Module of every feature as text, with its label where that is more than chance; "" for none."""
    labels = _layer(run.structure.modules, layer).set_index("feature")["module"]
    found = run.structure.module_labels
    named = found[(found["layer"] == layer) & (found["q_value"] <= 0.05)].set_index("module")["label"]
    return features.map(lambda f: "" if labels[f] < 0 else f"module {labels[f]} {named.get(labels[f], '')}".strip())


def _embedding(vectors: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    """UMAP of the rows by cosine distance, (row, 2)."""
    from umap import UMAP

    neighbours = min(n_neighbors, len(vectors) - 1)
    return UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1, min_dist=0.3).fit_transform(
        vectors
    )


def _categories(ax: Axes, points: np.ndarray, values: np.ndarray, none: str) -> None:
    """Dots with the commonest categories in colours, and a legend beside them."""
    counts = pd.Series(values[values != ""]).value_counts()
    shown = sorted(counts.index, key=lambda name: (-counts[name], name))[: len(COLOURS)]
    rest = ~np.isin(values, shown)
    ax.scatter(
        points[rest, 0],
        points[rest, 1],
        s=8,
        color=GREY,
        linewidths=0,
        label=none if len(counts) <= len(shown) else f"{none}, or a rarer one",
    )
    for name, colour in zip(shown, COLOURS[: len(shown)], strict=True):
        text = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1].rstrip()}…"
        x, y = points[values == name].T
        ax.scatter(x, y, s=22, color=colour, linewidths=0, label=f"{text} ({counts[name]})")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or those of a new figure (inches)."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(width, height), layout="constrained", facecolor="white").subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _title(ax: Axes, text: str, **more: Any) -> None:
    ax.set_title(text, loc="left", fontsize=11, weight="bold", color=INK, **more)
