"""Figures: they are drawn from the tables as given, for many edges, few and none."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text

from cellcircuits.plots import (
    LONGEST_LABEL,
    OPPOSES,
    SUPPORTS,
    attenuation_plot,
    edge_map_plot,
    effect_size_plot,
    hub_plot,
    write_plots,
)
from cellcircuits.tables import TABLES, make_table

LABELS = ["", "ribosome", "T cell activation", "HALLMARK_TNFA_SIGNALING_VIA_NFKB", "type I interferon signaling"]
ENDS = ("source", "target")
N_FEATURES = 400


def fake_tables(n_edges: int = 4000, n_layers: int = 6, seed: int = 0) -> tuple[pd.DataFrame, ...]:
    """Tables edges, attenuation and hubs as a run leaves them: heavy tails, silent targets, features without edges."""
    rng = np.random.default_rng(seed)
    edges = fake_edges(rng, n_edges, n_layers)
    return edges, fake_attenuation(edges, n_layers), fake_hubs(rng, edges, n_layers)


def fake_edges(rng: np.random.Generator, n_edges: int, n_layers: int) -> pd.DataFrame:
    source_layer = rng.choice(n_layers - 1, n_edges, p=np.arange(n_layers - 1, 0, -1) / np.arange(n_layers).sum())
    target_layer = np.minimum(source_layer + rng.geometric(0.5, n_edges), n_layers - 1)
    snr = (0.5 + rng.gamma(1.2, 0.5, n_edges)) * rng.choice([-1, 1], n_edges, p=[0.68, 0.32])
    clean = np.where(rng.random(n_edges) < 0.03, 0, rng.gamma(2.0, 0.5, n_edges))
    mean = np.where(snr < 0, -clean * rng.beta(1.2, 4, n_edges), rng.gamma(1, 0.3, n_edges))
    mean, clean = np.where(mean == 0, -0.01, mean), np.where((clean == 0) & (snr < 0), 0.5, clean)
    columns: dict[str, object] = {column.name: np.zeros(n_edges) for column in TABLES["edges"]}
    columns |= {
        "source_layer": source_layer,
        "source_feature": (N_FEATURES * rng.beta(0.5, 3, n_edges)).astype(int),
        "target_layer": target_layer,
        "target_feature": (N_FEATURES * rng.beta(0.6, 2, n_edges)).astype(int),
        "mean_delta": mean,
        "sd_delta": mean / snr,
        "snr": snr,
        "clean_activation": clean,
        "relative_effect": np.divide(mean, clean, out=np.full(n_edges, np.nan), where=clean > 0),
    }
    return make_table("edges", columns)


def fake_attenuation(edges: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    rows = []
    for source in range(n_layers - 1):
        for target in range(source + 1, n_layers):
            n_edges = int(((edges["source_layer"] == source) & (edges["target_layer"] == target)).sum())
            rows.append({column.name: 0.0 for column in TABLES["attenuation"]})
            rows[-1] |= {"source_layer": source, "target_layer": target, "distance": target - source}
            rows[-1] |= {"n_sources": 30, "n_edges": n_edges, "edges_per_source": n_edges / 30}
    return make_table("attenuation", pd.DataFrame(rows))


def fake_hubs(rng: np.random.Generator, edges: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    parts = []
    for direction, end in (("out", "source"), ("in", "target")):
        degree = edges.groupby([f"{end}_layer", f"{end}_feature"]).size()
        degree = degree.reindex(pd.MultiIndex.from_product([range(n_layers), range(0, N_FEATURES)]), fill_value=0)
        layer = degree.index.get_level_values(0).to_numpy()
        layers = np.maximum(n_layers - 1 - layer if direction == "out" else layer, 1)
        rate = np.clip(10 ** (-3.2 + 0.8 * np.log10(1 + degree) + rng.normal(0, 0.4, len(degree))), 0, 1)
        columns = {
            "direction": direction,
            "layer": layer,
            "feature": degree.index.get_level_values(1),
            "label": rng.choice(LABELS, len(degree)),
            "degree": degree.to_numpy(),
            "degree_per_layer": degree.to_numpy() / layers,
            "firing_rate": np.where(rng.random(len(degree)) < 0.02, 0.0, rate),
            "degree_residual": 0.0,
        }
        parts.append(pd.DataFrame(columns))
    return make_table("hubs", pd.concat(parts, ignore_index=True))


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, ...]:
    return fake_tables()


def all_text(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def drawn_edges(figure) -> LineCollection:
    return next(c for c in figure.axes[0].collections if isinstance(c, LineCollection))


def bars_of(axes, colour: str) -> np.ndarray:
    return np.array([bar.get_height() for bar in axes.patches if to_hex(bar.get_facecolor()) == colour.lower()])


@pytest.mark.parametrize("n_edges", [4000, 1, 0])
def test_write_plots_writes_png_with_the_same_bytes_twice(tmp_path, n_edges):
    tables = fake_tables(n_edges)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    paths = write_plots(*tables, 6, first, title="toy, 500 cells, costs $5 to $7")
    assert [path.name for path in paths] == ["attenuation.png", "effect_sizes.png", "hubs.png", "edge_map.png"]
    again = write_plots(*tables, 6, second, title="toy, 500 cells, costs $5 to $7")
    for path, other in zip(paths, again, strict=True):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.read_bytes() == other.read_bytes()
        assert b"Matplotlib" not in path.read_bytes()


def test_drawing_never_loads_pyplot():
    code = (
        "import sys, cellcircuits.plots as p; assert 'matplotlib' not in sys.modules;"
        "from cellcircuits.tables import empty_table;"
        "p.edge_map_plot(empty_table('edges'), 3);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("n_layers", [2, 6, 12, 24])
def test_all_text_lies_inside_the_figure(n_layers):
    edges, attenuation, hubs = fake_tables(3000, n_layers, seed=n_layers)
    figures = [attenuation_plot(attenuation), effect_size_plot(edges), hub_plot(hubs)]
    for figure in [*figures, edge_map_plot(edges, n_layers, hubs)]:
        FigureCanvasAgg(figure).draw()
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text():
                box = Text.get_window_extent(text)
                assert box.x0 >= 0 and box.y0 >= 0, text
                assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text


def test_names_do_not_overlap(tables):
    figures = [attenuation_plot(fake_tables(30_000, 16)[1]), hub_plot(tables[2]), edge_map_plot(tables[0], 6)]
    for axes in [axes for figure in figures for axes in figure.axes]:
        FigureCanvasAgg(axes.figure).draw()
        names = [text for text in axes.texts if isinstance(text, Annotation) and text.arrow_patch]
        boxes = sorted((Text.get_window_extent(name) for name in names), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))


def test_tables_without_edges_say_so():
    edges, attenuation, hubs = fake_tables(0)
    figures = [attenuation_plot(attenuation), effect_size_plot(edges), hub_plot(hubs), edge_map_plot(edges, 6)]
    figures += [attenuation_plot(attenuation[:0]), hub_plot(hubs[:0])]
    for figure in figures:
        assert "No edges were called." in all_text(figure)
        assert not figure.axes


def test_attenuation_lines_are_the_table(tables):
    table = tables[1]
    axes = attenuation_plot(table).axes[0]
    assert len(axes.lines) == table["source_layer"].nunique()
    for line, (layer, expected) in zip(axes.lines, table.groupby("source_layer"), strict=True):
        assert line.get_xdata().tolist() == expected["distance"].tolist()
        assert line.get_ydata().tolist() == expected["edges_per_source"].tolist()
        assert f"layer {layer}" in all_text(axes)
    assert axes.get_ylim()[0] == 0


def test_attenuation_is_logarithmic_only_over_a_wide_range_and_keeps_zeros():
    table = fake_tables()[1]
    table["edges_per_source"] = 1000.0 ** (2 - table["distance"]) * (table["distance"] < 4)
    axes = attenuation_plot(table).axes[0]
    assert axes.get_yscale() == "log"
    labels = dict(zip([label.get_text() for label in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    assert axes.lines[0].get_ydata().tolist() == [1000, 1, 0.001, labels["0"], labels["0"]]
    assert axes.get_ylim()[0] < labels["0"] < 0.001


def test_attenuation_leaves_out_layers_without_sources(tables):
    table = tables[1].copy()
    table.loc[table["source_layer"] == 2, "edges_per_source"] = np.nan
    assert "layer 2" not in all_text(attenuation_plot(table))


def test_effect_size_bars_count_the_edges(tables):
    edges = tables[0]
    left, right = effect_size_plot(edges).axes
    negative, positive = (edges["snr"] < 0).sum(), (edges["snr"] > 0).sum()
    assert bars_of(left, SUPPORTS).sum() == negative
    assert bars_of(left, OPPOSES).sum() == positive
    width, low = left.patches[0].get_width(), left.get_xlim()[0]
    for bar in left.patches[1 : len(left.patches) // 2]:
        inside = (edges["snr"] >= bar.get_x() - 1e-9) & (edges["snr"] < bar.get_x() + width - 1e-9) & (edges["snr"] < 0)
        assert bar.get_height() == inside.sum()
    assert left.patches[0].get_height() == (edges["snr"] < low + width).sum()
    relative = edges["relative_effect"].dropna()
    assert bars_of(right, SUPPORTS).sum() == (relative < 0).sum()
    assert bars_of(right, OPPOSES).sum() == (relative > 0).sum()
    assert bars_of(right, OPPOSES)[-1] == (relative >= 1.9).sum()


def test_effect_sizes_state_shares_and_what_is_left_out(tables):
    edges = tables[0]
    figure = effect_size_plot(edges)
    left, right = (all_text(axes) for axes in figure.axes)
    n_negative = (edges["snr"] < 0).sum()
    assert f"source supports target\n{n_negative:,} edges ({100 * n_negative / len(edges):.0f} %)" in left
    assert f"{(edges['relative_effect'] > 2).sum()} edges beyond the axis" in right
    assert f"{edges['relative_effect'].isna().sum()} edges left out: the target is silent" in right


def test_effect_sizes_survive_a_huge_ratio_and_rounding_below_minus_100_percent():
    edges = fake_tables(50)[0]
    edges.loc[0, ["snr", "relative_effect"]] = [-1e12, -1.0000000001]
    left, right = effect_size_plot(edges).axes
    assert left.get_xlim() == (-20, 20)
    assert bars_of(left, SUPPORTS)[0] == 1
    assert "beyond the axis" in all_text(left)
    assert (edges["relative_effect"] > 2).sum() or "beyond the axis" not in all_text(right)


def test_hubs_are_named_and_listed_in_order(tables):
    hubs = tables[2]
    figure = hub_plot(hubs)
    for (scatter, bars), direction in zip((figure.axes[:2], figure.axes[2:]), ("out", "in"), strict=True):
        table = hubs[hubs["direction"] == direction].sort_values("degree_per_layer", ascending=False)
        assert len(scatter.collections[0].get_offsets()) == len(table)
        assert [bar.get_width() for bar in bars.patches] == table["degree_per_layer"].head(10).tolist()
        for row in table.head(5).itertuples():
            assert f"L{row.layer} F{row.feature}" in all_text(scatter)


def test_long_labels_are_shortened_and_dollars_are_no_formula():
    hubs = fake_tables()[2]
    hubs["label"] = "costs $5 and $x_1$ and a very long name of a gene set"
    names = [text for text in hub_plot(hubs).findobj(Text) if text.get_visible() and "costs" in text.get_text()]
    assert len(names) == 5 + 10 + 5 + 10
    for name in names:
        assert name.get_text().endswith("…") and len(name.get_text()) <= LONGEST_LABEL
        assert not name.get_parse_math()


@pytest.mark.parametrize("keep", ["out", "in"])
def test_hubs_of_one_direction(keep):
    hubs = fake_tables()[2]
    FigureCanvasAgg(hub_plot(hubs[hubs["direction"] == keep])).draw()


@pytest.mark.parametrize(("n_edges", "max_edges"), [(4000, 300), (4000, 7), (40, 300), (300, 300), (1, 5)])
def test_edge_map_draws_the_strongest_edges(n_edges, max_edges):
    edges = fake_tables(n_edges)[0]
    figure = edge_map_plot(edges, 6, max_edges=max_edges)
    n = min(max_edges, n_edges)
    lines = drawn_edges(figure)
    assert len(lines.get_segments()) == n
    strongest = edges.loc[edges["snr"].abs().nlargest(n).index]
    ends = sorted((round(path[0, 0]), round(path[-1, 0])) for path in lines.get_segments())
    assert ends == sorted(zip(strongest["source_layer"], strongest["target_layer"], strict=True))
    n_blue = sum(to_hex(colour) == SUPPORTS.lower() for colour in np.asarray(lines.get_colors()))
    assert n_blue == (strongest["snr"] < 0).sum()
    assert (f"Strongest {n:,} of {n_edges:,} edges" if n < n_edges else "All") in all_text(figure)


def test_edge_map_lines_end_at_dots_of_their_features(tables):
    edges = tables[0]
    figure = edge_map_plot(edges, 6)
    dots = {tuple(np.round(dot, 9)) for dot in figure.axes[0].collections[1].get_offsets()}
    strongest = edges.loc[edges["snr"].abs().nlargest(300).index]
    ends = [strongest[[f"{end}_layer", f"{end}_feature"]].to_numpy() for end in ("source", "target")]
    assert len(dots) == len(np.unique(np.concatenate(ends), axis=0))
    paths = drawn_edges(figure).get_segments()
    assert {tuple(np.round(path[i], 9)) for path in paths for i in (0, -1)} == dots
    # the strongest edge is drawn last, and darkest
    alphas = np.asarray(drawn_edges(figure).get_colors())[:, 3]
    assert (np.diff(alphas) >= 0).all() and alphas[-1] == pytest.approx(0.9)


def test_edge_map_names_the_features_with_most_edges(tables):
    edges, _, hubs = tables
    strongest = edges.loc[edges["snr"].abs().nlargest(300).index]
    ends = [strongest[[f"{end}_layer", f"{end}_feature"]].set_axis(["layer", "feature"], axis=1) for end in ENDS]
    layer, feature = pd.concat(ends).value_counts().index[0]
    label = hubs[(hubs["layer"] == layer) & (hubs["feature"] == feature)]["label"].iloc[-1]
    assert f"L{layer} F{feature} {label}".strip()[:30] in all_text(edge_map_plot(edges, 6, hubs))
    assert f"L{layer} F{feature}" in all_text(edge_map_plot(edges, 6)).splitlines()
