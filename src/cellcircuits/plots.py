"""Four figures of a run: how far effects reach, how strong they are, which features are hubs, and who acts on whom.

Each function takes tables and returns a matplotlib Figure that belongs to no window; `write_plots` saves all four.
Blue is a negative delta (the source supports the target), vermillion a positive one; safe for all colour vision.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cellcircuits.figure_style import HUB, INK, OPPOSES, QUIET, SUPPORTS, new_axes, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNS = ((-1, SUPPORTS, "Blue", "supports", "lowers"), (1, OPPOSES, "Orange", "opposes", "raises"))
LONGEST_LABEL = 34
LARGEST_SNR = 20.0
"""An effect that hardly varies between cells has an snr of any size; beyond this it would flatten the others."""


def write_plots(
    edges: pd.DataFrame, attenuation: pd.DataFrame, hubs: pd.DataFrame, n_layers: int, folder: Path, title: str = ""
) -> list[Path]:
    """Write attenuation.png, effect_sizes.png, hubs.png and edge_map.png into an existing folder.

    The same tables give the same bytes. `title` says what was traced; it is a line at the foot of every figure.
    """
    figures = {
        "attenuation": attenuation_plot(attenuation),
        "effect_sizes": effect_size_plot(edges),
        "hubs": hub_plot(hubs),
        "edge_map": edge_map_plot(edges, n_layers, hubs),
    }
    for name, figure in figures.items():
        save_figure(figure, Path(folder) / f"{name}.png", title)
    return [Path(folder) / f"{name}.png" for name in figures]


def attenuation_plot(attenuation: pd.DataFrame) -> Figure:
    """Edges per source feature against the distance between source and target layer, one line per source layer."""
    from matplotlib import colormaps

    table = attenuation.dropna(subset="edges_per_source").sort_values(["source_layer", "distance"])
    heading = "How many features does one feature act on, and how far away?"
    figure = new_figure(
        7.5, 5.0, heading, "Mean over the sources of a layer; one line per layer.", table["n_edges"].sum()
    )
    if not table["n_edges"].any():
        return figure
    axes = new_axes(figure, left=0.9, right=0.3, top=0.9, bottom=0.85)
    axes.set(xlabel="Distance from source to target (layers)", ylabel="Edges per source feature")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    distances, height = np.unique(table["distance"]), table["edges_per_source"].to_numpy()
    axes.set(xticks=distances, ylim=(0, height.max() * 1.06))
    axes.set_xlim(distances[0] - 0.2 * max(1, np.ptp(distances)), distances[-1] + 0.15)
    if height.max() > 100 * height[height > 0].min():
        height = _logarithmic(axes, "y", height, 1)
    lines = table.assign(height=height).groupby("source_layer")
    firsts = lines[["distance", "height"]].first()
    # the light end of the colour map would be too pale on white
    colours = colormaps["viridis"](np.linspace(0, 0.78, len(firsts)))
    for (_, line), colour in zip(lines, colours, strict=True):
        axes.plot(line["distance"], line["height"], "o-", color=colour, markersize=5, clip_on=False)
    names = [f"layer {layer}" for layer in firsts.index]
    _label(axes, firsts.to_numpy(), names, np.full(len(names), 0.01), colours, line_from=1)
    return figure


def effect_size_plot(edges: pd.DataFrame) -> Figure:
    """Histograms of snr and of the relative effect of all edges, negative and positive apart."""
    words = "Blue: removing the source lowers the target. Orange: removing the source raises the target."
    figure = new_figure(10.5, 5.0, "How strong are the effects, and in which direction?", words, len(edges))
    if edges.empty:
        return figure
    axes = new_axes(figure, left=0.9, right=5.8, top=1.6, bottom=1.2)
    axes.set(xlabel="Mean change / standard deviation over cells", ylabel="Number of edges")
    snr = edges["snr"].to_numpy()
    limit = float(np.clip(np.ceil(2 * np.quantile(np.abs(snr), 0.995)) / 2, 1.0, LARGEST_SNR))
    per_unit = 20 if limit <= 2 else 10 if limit <= 5 else 2
    borders = np.arange(-limit * per_unit, limit * per_unit + 1) / per_unit
    note = "Gap around 0: effects too weak to be called an edge" if np.abs(snr).min() > 0.2 else ""
    _sign_bars(axes, snr, borders, "Strength: signal-to-noise ratio", note)
    axes = new_axes(figure, left=6.0, right=0.55, top=1.6, bottom=1.2)
    axes.set_xlabel("Mean change / activation in the intact model (%)")
    relative = 100 * edges["relative_effect"].dropna().to_numpy()
    silent = len(edges) - len(relative)
    note = f"{_count(silent)} left out: the target is silent in the intact model" if silent else ""
    # at -100 % a target falls silent, the least possible; there is no most
    _sign_bars(axes, relative, np.arange(-100.0, 201.0, 10.0), "Size: change relative to the intact model", note)
    return figure


def _sign_bars(axes: Axes, values: np.ndarray, borders: np.ndarray, title: str, note: str) -> None:
    """Histogram with the signs apart and their numbers above; values beyond the borders go to the outermost bars."""
    # one of the borders is exactly 0, so that no bar mixes the signs
    clipped = np.clip(values, borders[0], borders[-1])
    for sign, colour, _, verb, _ in SIGNS:
        chosen = np.sign(values) == sign
        counts, _ = np.histogram(clipped[chosen], borders)
        axes.bar(borders[:-1], counts, np.diff(borders), align="edge", color=colour, edgecolor="white", linewidth=0.4)
        text = f"source {verb} target\n{_count(chosen.sum())} ({100 * chosen.sum() / max(len(values), 1):.0f} %)"
        place, side = (0, "left") if sign < 0 else (1, "right")
        axes.text(place, 1.03, text, transform=axes.transAxes, fontsize=9, color=colour, horizontalalignment=side)
    axes.set_title(title, loc="left", fontsize=10, pad=34)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(borders[0], borders[-1])
    axes.locator_params(axis="y", integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    # by rounding, a target that falls silent may be a little below -100 %
    beyond = int((np.abs(values - clipped) > 1e-6).sum())
    note = f"{_count(beyond)} beyond the axis, in the outermost bars\n{note}" if beyond else note
    axes.text(0, -0.24, note, transform=axes.transAxes, va="top", fontsize=8, color=QUIET)


def hub_plot(hubs: pd.DataFrame) -> Figure:
    """Degree per layer against firing rate, and the ten features with the most edges; out and in side by side."""
    words = "Each dot is a feature. Compare dots at similar firing rates: what fires often is easier to measure."
    figure = new_figure(13.0, 8.2, "Which features have the most edges?", words, hubs["degree"].sum())
    if not hubs["degree"].any():
        return figure
    table = hubs.dropna(subset="degree_per_layer").sort_values(["degree_per_layer", "degree"], ascending=False)
    both = (("out", 0.0, "Sources", "Targets per measured layer"), ("in", 6.5, "Targets", "Sources per traced layer"))
    for direction, x, name, unit in both:
        scatter = new_axes(figure, left=x + 0.85, right=9.25 - x, top=1.15, bottom=3.55)
        scatter.set_title(f"{name}: edges against firing rate; the top five are named", loc="left", fontsize=10)
        _hub_scatter(scatter, table[table["direction"] == direction].dropna(subset="firing_rate"), unit)
        bars = new_axes(figure, left=x + 2.75, right=7.3 - x, top=5.65, bottom=0.75)
        figure.text((x + 0.15) / 13.0, 1 - 5.55 / 8.2, f"{name} with the most edges", fontsize=10)
        _hub_bars(bars, table[(table["direction"] == direction) & (table["degree"] > 0)].head(10), unit)
    return figure


def _hub_scatter(axes: Axes, table: pd.DataFrame, unit: str) -> None:
    axes.set(xlabel="Firing rate (% of gene positions)", ylabel=unit)
    x = _logarithmic(axes, "x", table["firing_rate"].to_numpy(), 100)
    y = _logarithmic(axes, "y", table["degree_per_layer"].to_numpy(), 1)
    top = table[table["degree"] > 0].head(5)
    axes.scatter(x, y, s=12, color="#8a8a8a", alpha=0.4, linewidths=0)
    axes.scatter(x[: len(top)], y[: len(top)], color=HUB, linewidths=0)
    _label(axes, np.column_stack([x, y])[: len(top)], _names(top), np.full(len(top), 1.04))


def _logarithmic(axes: Axes, which: Literal["x", "y"], values: np.ndarray, unit: float) -> np.ndarray:
    """Make an axis logarithmic and return the values, zeros moved to a tick "0" below; labels are `unit` * value."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 1.0)
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.outer(powers, [1] if len(powers) > 3 else [1, 2, 5]).ravel()
    ticks = ticks[(ticks >= low / 1.5) & (ticks <= high * 1.5)]
    labels, start, zero = [f"{unit * tick:,g}" for tick in ticks], low / 1.6, low / 3
    if (values <= 0).any():
        ticks, labels, start = np.array([zero, *ticks]), ["0", *labels], zero / 1.6
    # names are spread around the highest points
    end = high * (1.6 if which == "x" else 4.0)
    axes.set(**{f"{which}scale": "log"})
    axes.set(**{f"{which}ticks": ticks, f"{which}ticklabels": labels, f"{which}lim": (start, end)})
    (axes.xaxis if which == "x" else axes.yaxis).set_ticks([], minor=True)
    return np.where(values > 0, values, zero)


def _hub_bars(axes: Axes, table: pd.DataFrame, unit: str) -> None:
    bars = axes.barh(range(len(table)), table["degree_per_layer"], color=HUB, height=0.7)
    axes.bar_label(bars, [_count(degree) for degree in table["degree"]], padding=3, fontsize=8)
    axes.set_yticks(range(len(table)), _names(table), fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=unit, ylim=(9.6, -0.6))


def edge_map_plot(
    edges: pd.DataFrame, n_layers: int, features: pd.DataFrame | None = None, max_edges: int = 300
) -> Figure:
    """Map of the `max_edges` edges with the largest |snr|: layers from left to right, features as dots.

    Each of the model's `n_layers` is a column. `features` is any table with `layer`, `feature` and `label`, such as
    `features` or `hubs`; it names the features with the most edges drawn.
    """
    # the strongest edges, weakest of them first, so that the strongest lie on top
    drawn = edges.iloc[np.argsort(-np.abs(edges["snr"].to_numpy()), kind="stable")[:max_edges][::-1]]
    words = f"Strongest {len(drawn):,} of" if len(drawn) < len(edges) else "All"
    words += (
        f" {_count(len(edges))}, darker with a larger |signal-to-noise ratio|. Dots: features, larger with more edges."
    )
    width = min(14.0, max(9.0, 1.2 * n_layers + 3.8))
    figure = new_figure(width, 7.0, "Which features act on which?", words, len(drawn))
    if drawn.empty:
        return figure
    for sign, colour, colour_name, verb, change in SIGNS:
        text = f"{colour_name}: source {verb} target (removing it {change} the target)"
        figure.text(0.15 / width, 1 - (0.82 + 0.1 * sign) / 7.0, text, va="top", fontsize=9, color=colour)
    dots = _dots(drawn).sort_values(["degree", "strength"], ascending=False)
    hubs = dots.head(6).reset_index()
    # names stand right of their dots and may need room beyond the last layer
    right = max(0.3, 2.6 - (n_layers - 1 - hubs["layer"].max()) * (width - 2.8) / n_layers)
    axes = new_axes(figure, left=0.2, right=right, top=1.15, bottom=0.85)
    axes.set_frame_on(False)
    axes.tick_params(length=0)
    axes.set(xlim=(-0.3, n_layers - 0.9), ylim=(-0.02, 1.02), yticks=[], xticks=range(n_layers))
    axes.set_xlabel("Layer of the model (effects run from left to right)")
    _draw_edges(axes, drawn, dots["height"])
    size, layer = 6 + 5 * dots["degree"].clip(upper=60), dots.index.get_level_values("layer")
    axes.scatter(layer, dots["height"], size, INK, linewidths=0.5, edgecolors="white")
    known = {} if features is None else features.set_index(["layer", "feature"])["label"].to_dict()
    hubs["label"] = [known.get(key, "") for key in zip(hubs["layer"], hubs["feature"], strict=True)]
    points = hubs[["layer", "height"]].to_numpy()
    _label(axes, points, _names(hubs), (points[:, 0] + 0.4) / (n_layers - 0.6))
    return figure


def _dots(drawn: pd.DataFrame, sweeps: int = 12) -> pd.DataFrame:
    """Per (layer, feature) the number of edges, the largest |snr|, and the height in 0..1.

    Heights are evenly spaced within a layer, in order of the mean height of the neighbours, which untangles the edges.
    """
    source, target = ["source_layer", "source_feature"], ["target_layer", "target_feature"]
    strength = drawn["snr"].abs()
    ends = [drawn[pair].set_axis(["layer", "feature", 0, 1], axis=1) for pair in (source + target, target + source)]
    both = pd.concat([end.assign(strength=strength) for end in ends], ignore_index=True)
    neighbour = pd.MultiIndex.from_frame(both[[0, 1]])
    dots = both.groupby(["layer", "feature"]).agg(degree=("strength", "size"), strength=("strength", "max"))
    score = pd.Series(np.arange(len(dots)), dots.index)
    for _ in range(sweeps):
        column = score.groupby(level="layer")
        dots["height"] = (column.rank(method="first") - 0.5) / column.transform("size")
        both["height"] = dots["height"].loc[neighbour].to_numpy()
        score = both.groupby(["layer", "feature"])["height"].mean()
    return dots


def _draw_edges(axes: Axes, drawn: pd.DataFrame, height: pd.Series) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba_array

    step = np.linspace(0, 1, 25)
    ends = [pd.MultiIndex.from_frame(drawn[[f"{end}_layer", f"{end}_feature"]]) for end in ("source", "target")]
    x, y = drawn[["source_layer", "target_layer"]].to_numpy(), np.column_stack([height.loc[end] for end in ends])
    paths = np.stack([x[:, :1] + np.diff(x) * step, y[:, :1] + np.diff(y) * (3 - 2 * step) * step**2], axis=-1)
    strength = np.minimum(np.abs(drawn["snr"].to_numpy()), LARGEST_SNR)
    colours = to_rgba_array(np.where(drawn["snr"] < 0, SUPPORTS, OPPOSES).tolist())
    colours[:, 3] = 0.2 + 0.7 * (strength - strength.min()) / max(np.ptp(strength), 1e-9)
    axes.add_collection(LineCollection(list(paths), colors=colours, linewidths=1.1, zorder=0))


def _label(axes: Axes, points: np.ndarray, texts: list[str], x: np.ndarray, colours=None, line_from: int = 0) -> None:
    """Name points at `x` (share of the axes' width) by a thin line from the text's left (0) or right (1) end.

    Each name is near the height of its point, but no two names of the axes share a height, so that none overlap; of
    equal points the first is on top.
    """
    from scipy.optimize import isotonic_regression

    if not texts:
        return
    height = (axes.transData + axes.transAxes.inverted()).transform(points)[:, 1]
    order = np.lexsort((-np.arange(len(height)), height))
    # once these steps are taken off, "a step apart" means "not descending"
    steps = min(0.045, 0.96 / len(points)) * np.arange(len(points))
    spread = np.clip(isotonic_regression(height[order] - steps).x, 0.02, 0.98 - steps[-1]) + steps
    style: dict[str, Any] = {"va": "center", "parse_math": False, "zorder": 4}
    style["bbox"] = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6}
    for i, at in zip(order, spread, strict=True):
        colour = INK if colours is None else colours[i]
        arrow = {"arrowstyle": "-", "linewidth": 0.6, "color": colour, "shrinkB": 3, "relpos": (line_from, 0.5)}
        style |= {"color": colour, "arrowprops": arrow, "fontsize": 8 if colours is None else 9}
        axes.annotate(texts[i], tuple(points[i]), (x[i], at), "data", "axes fraction", **style)


def _count(number: int) -> str:
    return f"{number:,} edge{'' if number == 1 else 's'}"


def _names(table: pd.DataFrame) -> list[str]:
    """Names such as "L0 F12 ribosome", long ones shortened."""
    names = (f"L{row.layer} F{row.feature} {row.label}".strip() for row in table.itertuples())
    return [name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1].rstrip()}…" for name in names]
