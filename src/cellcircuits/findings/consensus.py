"""Do runs agree on which gene program acts on which, beyond what the popularity of the programs explains?"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import nan

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, Found, untestable
from cellcircuits.evidence import Evidence
from cellcircuits.measures.paired_effects import Agreement, sign_agreement
from cellcircuits.measures.program_overlap import (
    Overlap,
    affordable,
    published_overlap,
    ratio_interval,
    share_interval,
    shared_pairs,
    shuffled_overlap,
)
from cellcircuits.measures.rewiring import rewired
from cellcircuits.measures.run_programs import ProgramPairs, by_pair, program_pairs
from cellcircuits.settings import FindingsSettings
from cellcircuits.tables import empty_table, make_table

QUESTION = "consensus"
ALL_RUNS = "all runs"
STATISTIC = "pairs of gene programs joined in both runs, relative to chance"
REWIRED = (
    "joined pairs rewired at random, every label keeps its number of pairs as a source and as a target; what is "
    "permuted is which source leads to which target"
)
SHUFFLED = (
    "target labels permuted among the edges of each pair of layers: sources keep their edges, labels their numbers of "
    "edges; what is permuted is which source leads to which label"
)
PUBLISHED = (
    "shared pairs / mean under random renaming of one run's labels (pairs of equal labels included). Renaming also "
    "destroys how common each label is, so it counts shared popularity as agreement. The paper: 1,142 shared, 107 "
    "expected, 10.6x"
)
SIGNS_INDEPENDENT = "signs of the shared pairs drawn independently, with each run's share of negative ones"


def ask(runs: dict[str, Evidence], settings: FindingsSettings) -> Found:
    """Tables `consensus`, `consensus_overlap` and `held_out`; three answers per pair of runs."""
    if len(runs) < 2:
        note = "A consensus needs two runs or more. Name a second run."
        asked = "Do the runs join the same pairs of gene programs?"
        return Found({}, [untestable(QUESTION, asked, STATISTIC, note)])
    names, found = program_pairs(runs)
    draws, rng = settings.permutations, np.random.default_rng(settings.seed)
    overlaps = [_compare(a, b, found, draws, rng) for a, b in combinations(runs, 2)]
    held = []
    if len(runs) > 2:
        overlaps.append(_compare_all(found, draws, rng))
        held = [_hold_out(name, found, draws, rng) for name in runs]
    tables = {
        QUESTION: consensus_table(names, found),
        "consensus_overlap": make_table("consensus_overlap", pd.DataFrame(overlaps)),
        "held_out": make_table("held_out", pd.DataFrame(held)) if held else empty_table("held_out"),
    }
    answers = [answer for row in overlaps for answer in _answers(row)] + [_held_answer(row) for row in held]
    return Found(tables, answers)


def _compare(first: str, second: str, found: dict[str, ProgramPairs], draws: int, rng: np.random.Generator) -> dict:
    """Row of `consensus_overlap`."""
    a, b = found[first], found[second]
    sources, targets = a.can_be_source & b.can_be_source, a.can_be_target & b.can_be_target
    inner_a, inner_b = a.among(sources, targets), b.among(sources, targets)
    overlap, in_a, in_b = shared_pairs(inner_a, inner_b, draws, rng)
    snr = inner_a.mean_snr[in_a], inner_b.mean_snr[in_b]
    signs = sign_agreement(*snr, inner_a.source[in_a], inner_a.target[in_a], draws, rng)
    published, shuffled = published_overlap(a, b), shuffled_overlap(inner_a, b, overlap.n_shared)
    labels = int(a.known.sum()), int(b.known.sum()), int((a.known & b.known).sum())
    n_same = int((np.sign(snr[0]) == np.sign(snr[1])).sum())
    return _row((first, second), labels, (len(inner_a), len(inner_b)), overlap, published, shuffled, signs, n_same)


def _row(runs, labels, sizes, overlap: Overlap, published, shuffled, signs: Agreement, n_same: int) -> dict:
    return {
        **dict(zip(("first", "second"), runs, strict=True)),
        **dict(zip(("n_labels_first", "n_labels_second", "n_labels_shared"), labels, strict=True)),
        **dict(zip(("n_first", "n_second"), sizes, strict=True)),
        "n_shared": overlap.n_shared,
        "n_expected": overlap.n_expected,
        "sd_expected": float(overlap.drawn.std()) if len(overlap.drawn) else nan,
        "enrichment": overlap.ratio,
        "interval_low": overlap.low,
        "interval_high": overlap.high,
        "p_value": overlap.p_value if len(overlap.drawn) else nan,
        "shuffled_expected": shuffled[0],
        "shuffled_p_value": shuffled[1],
        "published_shared": published[0],
        "published_expected": published[1],
        "published_enrichment": published[0] / published[1] if published[1] > 0 else nan,
        "n_same_sign": n_same,
        "share_same_sign": n_same / overlap.n_shared if overlap.n_shared else nan,
        "expected_same_sign": signs.expected,
        "sign_low": signs.low,
        "sign_high": signs.high,
        "sign_p_value": signs.p_value,
    }


def _compare_all(found: dict[str, ProgramPairs], draws: int, rng: np.random.Generator) -> dict:
    """Row of `consensus_overlap` for all runs: shared pairs summed over the pairs of runs, each run rewired.

    A pair of labels that n runs join counts n (n - 1) / 2 times; only labels that all runs have.
    """
    every = list(found.values())
    sources = np.logical_and.reduce([pairs.can_be_source for pairs in every])
    targets = np.logical_and.reduce([pairs.can_be_target for pairs in every])
    inner = [pairs.among(sources, targets) for pairs in every]

    def shared_by_source(graphs) -> np.ndarray:
        count = np.zeros((len(sources), len(sources)), dtype=np.int16)
        for source, target in graphs:
            count[source, target] += 1
        return (count * (count - (count > 0)) // 2).sum(axis=1)

    observed = shared_by_source((pairs.source, pairs.target) for pairs in inner)
    rewirings = affordable(draws, sum(len(pairs) for pairs in inner))
    start = int(rng.integers(rewirings + 1))
    chains = [rewired(pairs.source, pairs.target, rewirings, rng, start) for pairs in inner if len(pairs)]
    random = np.array([shared_by_source(graphs) for graphs in zip(*chains, strict=True)])
    low, high = ratio_interval(observed, random.mean(axis=0) if len(random) else observed * 0.0, draws, rng)
    overlap = Overlap(int(observed.sum()), random.sum(axis=1) if len(random) else random, low, high)
    known = np.array([pairs.known for pairs in every])
    labels = int(known.any(axis=0).sum()), 0, int(known.all(axis=0).sum())
    table = by_pair(inner)
    n_same = int(sum((table[n] * (table[n] - 1) // 2).sum() for n in ("n_negative", "n_positive")))
    return _row((ALL_RUNS, ""), labels, (len(table), 0), overlap, (0, nan), (nan, nan), Agreement(), n_same)


def _hold_out(name: str, found: dict[str, ProgramPairs], draws: int, rng: np.random.Generator) -> dict:
    """Row of `held_out`: pairs that at least two of the other runs join, looked for in this one."""
    left_out, others = found[name], [pairs for run, pairs in found.items() if run != name]
    sources = left_out.can_be_source & (np.sum([pairs.can_be_source for pairs in others], axis=0) >= 2)
    targets = left_out.can_be_target & (np.sum([pairs.can_be_target for pairs in others], axis=0) >= 2)
    table = by_pair([pairs.among(sources, targets) for pairs in others])
    kept = table[table["n_runs"] >= 2]
    columns = {column: kept[column].to_numpy() for column in ("source", "target", "n_edges", "mean_snr")}
    consensus = replace(left_out, **columns)
    own = left_out.among(sources, targets)
    overlap, _, hits = shared_pairs(consensus, own, draws, rng)
    low, high = share_interval(
        np.bincount(own.source[hits], minlength=len(sources)),
        np.bincount(consensus.source, minlength=len(sources)),
        draws,
        rng,
    )
    return {
        "run": name,
        "n_pairs": len(own),
        "n_consensus": len(consensus),
        "n_found": overlap.n_shared,
        "n_expected": overlap.n_expected,
        "recall": overlap.n_shared / len(own) if len(own) else nan,
        "expected_recall": overlap.n_expected / len(own) if len(own) else nan,
        "precision": overlap.n_shared / len(consensus) if len(consensus) else nan,
        "expected_precision": overlap.n_expected / len(consensus) if len(consensus) else nan,
        "interval_low": low,
        "interval_high": high,
        "p_value": overlap.p_value if len(overlap.drawn) else nan,
    }


def consensus_table(names: np.ndarray, found: dict[str, ProgramPairs]) -> pd.DataFrame:
    """Table `consensus`: pairs of different labels that at least two runs join, most runs and edges first."""
    different = {run: pairs.among(*[np.ones(len(names), dtype=bool)] * 2) for run, pairs in found.items()}
    table = by_pair(list(different.values()))
    table = table[table["n_runs"] >= 2].reset_index(drop=True)
    key = table["source"].to_numpy() * len(names) + table["target"].to_numpy()
    chance, members = np.zeros(len(table)), np.full(len(table), "", dtype=object)
    for run, pairs in different.items():
        leaving = np.bincount(pairs.source, minlength=len(names))[table["source"]]
        reaching = np.bincount(pairs.target, minlength=len(names))[table["target"]]
        chance += np.minimum(1.0, leaving * reaching / max(len(pairs), 1))
        joined = np.isin(key, pairs.source * len(names) + pairs.target)
        members[joined] += f";{run}"
    table = table.assign(
        source_label=names[table["source"]],
        target_label=names[table["target"]],
        runs=[text[1:] for text in members],
        chance_runs=chance,
    ).drop(columns=["source", "target", "n_positive"])
    order = ["n_runs", "n_edges", "source_label", "target_label"]
    return make_table(QUESTION, table.sort_values(order, ascending=[False, False, True, True], ignore_index=True))


def _answers(row: dict) -> list[Answer]:
    """How many pairs are shared, and whether their signs agree."""
    every = row["first"] == ALL_RUNS
    who = ALL_RUNS if every else f"{row['first']} and {row['second']}"
    statistic = f"{STATISTIC}, summed over the pairs of runs" if every else STATISTIC
    asked = f"Do {who} join the same pairs of gene programs?"
    labels = f"{row['n_labels_shared']:,} labels are common to {who}"
    if not np.isfinite(row["enrichment"]):
        sizes = f"they join {row['n_first']:,} and {row['n_second']:,} ordered pairs of labels that both could join"
        more = "Trace more sources, or annotate with the same gene sets."
        return [untestable(QUESTION, asked, statistic, f"Nothing to compare: {labels}; {sizes}. {more}")]
    note = f"{row['n_shared']:,} pairs joined, {row['n_expected']:.1f} by chance; {labels}."
    note += " An excess of a few per cent can come from the form of the null: read both baselines."
    if row["sd_expected"] == 0:
        note += " The labels leave no room for agreement: every rewiring shares as many."
    if not every:
        note += f" By the published null {row['published_shared']:,} against {row['published_expected']:.1f}."
    overlap = Answer(
        QUESTION,
        asked,
        statistic,
        value=row["enrichment"],
        baseline=1.0,
        baseline_is=f"{'each run' if every else row['second']}: {REWIRED}",
        low=row["interval_low"],
        high=row["interval_high"],
        p_value=row["p_value"],
        claim="higher",
        published=row["published_enrichment"],
        published_is="" if every else PUBLISHED,
        unit="ratio",
        note=note,
    )
    if every:
        return [overlap]
    scale = row["n_expected"] / row["shuffled_expected"] if row["shuffled_expected"] > 0 else nan
    shuffled = replace(
        overlap,
        asked=f"Do {who} join the same pairs of gene programs, beyond how many edges each program has?",
        value=row["enrichment"] * scale,
        baseline_is=f"{row['second']}: {SHUFFLED}",
        low=row["interval_low"] * scale,
        high=row["interval_high"] * scale,
        p_value=row["shuffled_p_value"],
        note=f"{row['n_shared']:,} pairs joined, {row['shuffled_expected']:.1f} by chance, exact.",
    )
    return [overlap, shuffled, _sign_answer(row, who)]


def _sign_answer(row: dict, who: str) -> Answer:
    asked = f"Do the pairs of gene programs that {who} share have the same sign?"
    statistic = "share of the shared pairs whose mean snr has the same sign in both"
    if not row["n_shared"]:
        return untestable(QUESTION, asked, statistic, "No pair of gene programs is shared.")
    return Answer(
        QUESTION,
        asked,
        statistic,
        value=row["share_same_sign"],
        baseline=row["expected_same_sign"],
        baseline_is=SIGNS_INDEPENDENT,
        low=row["sign_low"],
        high=row["sign_high"],
        p_value=row["sign_p_value"],
        claim="higher",
        unit="share",
        note=f"{row['n_same_sign']:,} of {row['n_shared']:,} shared pairs. The published consensus ignores the sign.",
    )


def _held_answer(row: dict) -> Answer:
    asked = f"Does the consensus of the other runs hold in {row['run']}?"
    statistic = "precision: share of the pairs joined in at least two other runs that this run joins"
    if not np.isfinite(row["p_value"]):
        note = f"The others agree on {row['n_consensus']:,} pairs that it could join; it joins {row['n_pairs']:,}."
        return untestable(QUESTION, asked, statistic, note)
    return Answer(
        QUESTION,
        asked,
        statistic,
        value=row["precision"],
        baseline=row["expected_precision"],
        baseline_is=f"{row['run']}: {REWIRED}",
        low=row["interval_low"],
        high=row["interval_high"],
        p_value=row["p_value"],
        claim="higher",
        unit="share",
        note=f"Recall {row['recall']:.1%}, by chance {row['expected_recall']:.1%}.",
    )
