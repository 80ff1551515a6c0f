"""The overview of the atlas as plain HTML: summary, plots and small tables. Every text is escaped."""

from __future__ import annotations

import math
import re
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import pandas as pd

NOT_AVAILABLE = "not available"


def overview_html(
    template: str, title: str, summary: dict[str, Any], plots: list[Path], tables: dict[str, pd.DataFrame]
) -> str:
    """index.html: `template` with the title, the key numbers, the plots and the tables of signs and layers."""
    return Template(template).substitute(
        title=escape(title),
        lead=escape(_lead(tables["edges"], tables["features"])),
        summary=_summary_html(summary),
        plots=_plots_html(plots),
        signs=_signs_html(tables["signs"]),
        attenuation=_attenuation_html(tables["attenuation"]),
    )


def _lead(edges: pd.DataFrame, features: pd.DataFrame) -> str:
    sources = len(edges[["source_layer", "source_feature"]].drop_duplicates())
    n_layers = features["layer"].nunique()
    beyond = ""
    if edges["specific_q"].notna().any():
        beyond = f", {number_text(int(edges['specific'].sum()))} of them beyond what random directions do"
    return (
        f"{number_text(len(edges))} causal edges{beyond}. {number_text(len(features))} features in {n_layers} layers, "
        f"of which {number_text(sources)} have outgoing edges."
    )


def _summary_html(summary: dict[str, Any]) -> str:
    """One card per section; numbers outside any section come first."""
    single = {name: value for name, value in summary.items() if not isinstance(value, dict)}
    sections = ({"general": single} if single else {}) | {k: v for k, v in summary.items() if isinstance(v, dict)}
    if not sections:
        return '<p class="empty">This run has no summary. Run the findings stage and build the atlas again.</p>'
    return f'<div class="cards">{"".join(_section_html(name, values) for name, values in sections.items())}</div>'


def _section_html(name: str, values: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(words(key))}</th><td>{escape(value_text(value))}</td></tr>'
        for key, value in _flat(values)
    )
    body = f"<tbody>{rows}</tbody>" if rows else "<tbody><tr><td>Nothing to report.</td></tr></tbody>"
    return (
        f'<section class="card"><h3>{escape(words(name, start=True))}</h3><table class="pairs">{body}</table></section>'
    )


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested dictionaries as one list, with names such as "outer: inner"."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        full = f"{prefix}{name}"
        rows += _flat(value, f"{full}: ") if isinstance(value, dict) else [(full, value)]
    return rows


def _plots_html(plots: list[Path]) -> str:
    if not plots:
        return '<p class="empty">This run has no plots. Run the findings stage and build the atlas again.</p>'
    figures = []
    for path in plots:
        address, name = f"plots/{quote(path.name)}", escape(words(path.stem, start=True))
        image = f'<img src="{escape(address)}" alt="Plot: {name}" loading="lazy">'
        figures.append(f'<figure><a href="{escape(address)}">{image}</a><figcaption>{name}</figcaption></figure>')
    return f'<div class="plots">{"".join(figures)}</div>'


def _signs_html(signs: pd.DataFrame) -> str:
    if signs.empty:
        return '<p class="empty">The signs of edges were not tested in this run.</p>'
    rows = [
        [
            row.rule,
            number_text(row.n_edges),
            f"{percent(row.share_negative)} ({percent(row.interval_low)} to {percent(row.interval_high)})",
            percent(row.chance_share),
        ]
        for row in signs.itertuples()
    ]
    header = ["Rule", "Edges", "▼ Source supports target (95 % interval)", "The same, by chance"]
    return table_html("Signs of edges under each rule", header, rows)


def _attenuation_html(attenuation: pd.DataFrame) -> str:
    if attenuation.empty:
        return '<p class="empty">Edges were not compared between layers in this run.</p>'
    rows = [
        [
            f"L{row.source_layer} → L{row.target_layer}",
            number_text(row.n_edges),
            number_text(row.edges_per_source),
            percent(row.share_of_tested),
            percent(row.chance_share),
            number_text(row.mean_abs_snr),
            number_text(row.median_abs_relative_effect),
            percent(row.share_negative),
        ]
        for row in attenuation.sort_values(["source_layer", "target_layer"]).itertuples()
    ]
    header = ["Layers", "Edges", "Edges per source", "Share of tested pairs", "The same, by chance (at most)"]
    header += ["Mean |snr|", "Median |relative effect|", "▼ Source supports target"]
    return table_html("Edges between each pair of layers", header, rows)


def table_html(caption: str, header: list[str], rows: list[list[str]]) -> str:
    """A table of text; the first column names the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = ""
    for first, *others in rows:
        cells = (f'<td data-name="{escape(n)}">{escape(c)}</td>' for n, c in zip(header[1:], others, strict=True))
        body += f'<tr><th scope="row">{escape(first)}</th>{"".join(cells)}</tr>'
    return (
        f'<div class="table-frame"><table class="list numbers cards-on-phone"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def words(name: str, start: bool = False) -> str:
    """A name from code as words: "n_cells" becomes "number of cells"."""
    text = re.sub(r"^n ", "number of ", str(name).replace("_", " ").strip())
    return text[:1].upper() + text[1:] if start else text


def value_text(value: Any) -> str:
    """Any value of the summary as text."""
    if isinstance(value, list | tuple | set):
        return ", ".join(value_text(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOT_AVAILABLE
    return str(value) if isinstance(value, str) else number_text(value)


def number_text(value: Any) -> str:
    """Integers in full with thin spaces between thousands, other numbers with three significant digits."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if math.isnan(number):
        return NOT_AVAILABLE
    if math.isfinite(number) and number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{number:.3g}"


def percent(share: float) -> str:
    """A share as a percentage with three significant digits at most."""
    if math.isnan(share):
        return NOT_AVAILABLE
    return f"{100 * share:.1f} %" if abs(share) >= 0.001 or share == 0 else f"{100 * share:.2g} %"
