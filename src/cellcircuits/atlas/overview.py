"""The overview of the atlas as plain HTML: key numbers, figures and small tables. Every text is escaped."""

from __future__ import annotations

import math
import re
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import pandas as pd

from cellcircuits.atlas.inputs import AtlasRun
from cellcircuits.atlas.security import META_POLICY

NOT_AVAILABLE = "not available"


def site_html(template: str, title: str, runs: list[AtlasRun]) -> str:
    """index.html: `template` with the title and, for every run, key numbers, figures and tables."""
    several = len(runs) > 1
    return Template(template).substitute(
        title=escape(title),
        policy=META_POLICY,
        lead=escape(_site_lead(runs)),
        runs=_runs_html(runs) if several else "",
        sections="\n".join(_run_html(run, several) for run in runs),
    )


def _site_lead(runs: list[AtlasRun]) -> str:
    if len(runs) == 1:
        return _lead(runs[0].table("edges"), runs[0].table("features"))
    return f"{len(runs)} runs, each with sparse autoencoder features of a model and the causal edges between them."


def _runs_html(runs: list[AtlasRun]) -> str:
    """What the site holds, one row for each run, with links."""
    rows = []
    for run in runs:
        edges, features = run.table("edges"), run.table("features")
        beyond = number_text(int(edges["specific"].sum())) if edges["specific_q"].notna().any() else NOT_AVAILABLE
        numbers = [features["layer"].nunique(), len(features), len(edges)]
        rows.append([run.name, *map(number_text, numbers), beyond])
    header = ["Run", "Layers", "Features", "Edges", "Edges beyond random directions"]
    table = table_html("Runs of this atlas", header, rows)
    links = "".join(f'<li><a class="action" href="#/{quote(run.key)}">Open {escape(run.name)}</a></li>' for run in runs)
    return (
        f'<section id="runs"><h2>Runs</h2>{table}<ul class="actions">{links}</ul></section>'
        f"<section><h2>Key numbers</h2>{_key_numbers_html(runs)}</section>"
    )


def _key_numbers_html(runs: list[AtlasRun]) -> str:
    """The summaries of all runs side by side, in the order of the first that has a number."""
    summaries = [flat_summary(run.summary).set_index(["section", "name"])["value"] for run in runs]
    names = list(dict.fromkeys(name for summary in summaries for name in summary.index))
    if not names:
        return '<p class="empty">These runs have no summaries. Run the findings stage and build the atlas again.</p>'
    rows = [
        [f"{section}: {name}", *(str(summary.get((section, name), NOT_AVAILABLE)) for summary in summaries)]
        for section, name in names
    ]
    return table_html("Key numbers of all runs", ["Number", *(run.name for run in runs)], rows, "side-by-side")


def _run_html(run: AtlasRun, several: bool) -> str:
    """The overview of one run; circuits and hubs are filled in by the page."""
    title = f'<h2 class="run-title">{escape(run.name)}</h2>' if several else ""
    lead = f'<p class="lead">{escape(_lead(run.table("edges"), run.table("features")))}</p>' if several else ""
    parts = [
        title,
        lead,
        '<section class="top-circuits"></section>',
        f"<section><h2>Summary</h2>{_summary_html(run.summary)}</section>",
        f"<section><h2>Quality of the autoencoders</h2>{_quality_html(run.table('quality'))}</section>",
        f"<section><h2>Figures</h2>{figures_html(run.figures, run.key)}</section>",
        "<section><h2>Do sources support or oppose their targets?</h2><p>Compare each share with the one beside it, "
        "which is what the rule alone makes of effects whose sign is a fair coin.</p>"
        f"{_signs_html(run.table('signs'))}</section>",
        '<section class="top-hubs"></section>',
        "<section><h2>Edges between layers</h2><details><summary>Show every pair of layers</summary>"
        f"{_attenuation_html(run.table('attenuation'))}</details></section>",
    ]
    return f'<section class="run" data-run="{escape(run.key)}">{"".join(parts)}</section>'


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


def flat_summary(summary: dict[str, Any]) -> pd.DataFrame:
    """Key numbers as rows: section, name, value; numbers outside any section come first."""
    rows = [
        (words(section, start=True), words(name), value_text(value))
        for section, values in _sections(summary).items()
        for name, value in _flat(values)
    ]
    return pd.DataFrame(rows, columns=["section", "name", "value"])


def _sections(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    single = {name: value for name, value in summary.items() if not isinstance(value, dict)}
    return ({"general": single} if single else {}) | {k: v for k, v in summary.items() if isinstance(v, dict)}


def _summary_html(summary: dict[str, Any]) -> str:
    """One card per section."""
    sections = _sections(summary)
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


def figures_html(figures: list[Path], key: str) -> str:
    """Pictures of a run, as links to themselves."""
    if not figures:
        return '<p class="empty">This run has no figures. Run the findings stage and build the atlas again.</p>'
    parts = []
    for path in figures:
        address, name = f"findings/{quote(key)}/{quote(path.name)}", escape(words(path.stem, start=True))
        image = f'<img src="{escape(address)}" alt="Figure: {name}" loading="lazy">'
        parts.append(f'<figure><a href="{escape(address)}">{image}</a><figcaption>{name}</figcaption></figure>')
    return f'<div class="plots">{"".join(parts)}</div>'


def _quality_html(quality: pd.DataFrame) -> str:
    """Every layer's autoencoder on held-out cells, each number with its baseline in the next column."""
    if quality.empty:
        return '<p class="empty">The quality of the autoencoders was not measured in this run (stage `train`).</p>'
    columns = [
        ("Variance explained", "variance_explained", percent),
        ("The same, as many principal components", "pca_variance_explained", percent),
        ("The same, random weights", "random_weights_variance_explained", percent),
        ("Final state recovered", "final_state_recovered", percent),
        ("Loss of masked genes recovered", "loss_recovered", percent),
        ("Active features per position", "l0", number_text),
        ("Dead features", "dead_share", percent),
        ("Found by another seed", "stable_share", percent),
        ("The same, random directions", "stable_share_random", percent),
    ]
    shown = [(title, name, form) for title, name, form in columns if quality[name].notna().any()]
    rows = [
        [f"Layer {row['layer']}", *(form(row[name]) for _, name, form in shown)]
        for row in quality.sort_values("layer").to_dict("records")
    ]
    return table_html("Quality of the autoencoders by layer", ["Layer", *(t for t, _, _ in shown)], rows)


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


def table_html(caption: str, header: list[str], rows: list[list[str]], style: str = "numbers cards-on-phone") -> str:
    """A table of text; the first column names the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = ""
    for first, *others in rows:
        cells = (f'<td data-name="{escape(n)}">{escape(c)}</td>' for n, c in zip(header[1:], others, strict=True))
        body += f'<tr><th scope="row">{escape(first)}</th>{"".join(cells)}</tr>'
    return (
        f'<div class="table-frame"><table class="list {style}"><caption>{escape(caption)}</caption>'
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
