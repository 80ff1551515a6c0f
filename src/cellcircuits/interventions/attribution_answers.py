"""The answers of the experiment `attribution`: what is confirmed, and how good the screen is."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellcircuits.answers import Answer, untestable
from cellcircuits.intervention_settings import InterventionSettings
from cellcircuits.interventions import screen_accuracy
from cellcircuits.interventions.targets import Target

ASKED = (
    "Does removal in other cells confirm the features that attribution names?",
    "Does attribution find the features whose removal moves the target most?",
    "Does attribution tell sign and size of what removal does?",
)
STATISTICS = (
    "Share of candidates whose removal moves the target, with the sign that attribution says",
    "Share of the tenth of a random slice with the largest effects of removal that is in the top tenth by attribution",
    "Rank correlation of attribution and effect of removal over a random slice of features",
)
WITHIN_LAYERS = "attribution permuted among the features of the same layer; features are the units, p one-sided"
FEWEST_COMPARED = 10
"""Features that a comparison needs."""
STREAM = 22


def answers_of(
    settings: InterventionSettings, target: Target, tables: dict[str, pd.DataFrame], n_cells: tuple[int, ...]
) -> list[Answer]:
    """All three; `n_cells` are the cells with the target, screened and ablated."""
    candidates, chosen = tables["attribution_candidates"], tables["attribution_slice"]
    confirmed = _confirmed(settings, target, candidates, chosen, n_cells)
    if len(chosen) < FEWEST_COMPARED:
        why = f"A slice of {len(chosen)} features is too small; {FEWEST_COMPARED} are needed: set attribution_slice."
        pairs = zip(ASKED[1:], STATISTICS[1:], strict=True)
        return [confirmed, *(untestable("attribution", asked, statistic, why) for asked, statistic in pairs)]
    return [confirmed, _recall(settings, chosen), _correlation(settings, chosen)]


def _confirmed(
    settings: InterventionSettings,
    target: Target,
    candidates: pd.DataFrame,
    chosen: pd.DataFrame,
    n_cells: tuple[int, ...],
) -> Answer:
    ends = ["layer", "feature"]
    named = set(candidates[ends].itertuples(index=False, name=None))
    others = chosen[[key not in named for key in chosen[ends].itertuples(index=False, name=None)]]
    if others.empty:
        why = (
            "Every feature of the slice is a candidate, so there is nothing to compare with. "
            "Set a smaller attribution_candidates or a larger attribution_slice."
        )
        return untestable("attribution", ASKED[0], STATISTICS[0], why)
    both = pd.concat([candidates, others], ignore_index=True)
    good, layer = both["confirmed"].to_numpy(), both["layer"].to_numpy()
    n, rng = len(candidates), np.random.default_rng([settings.seed, STREAM, 0])
    tested = screen_accuracy.permuted(good.astype(float), (np.arange(len(both)) < n) / n, layer, rng)
    strongest = "; ".join(f"{row.layer}:{row.feature} ({row.mean_delta:+.3g})" for row in candidates[:3].itertuples())
    return Answer(
        "attribution",
        ASKED[0],
        STATISTICS[0],
        tested.value,
        screen_accuracy.standardised_share(good[n:], layer[n:], layer[:n]),
        f"the same of {len(others):,} random features of the same layers; p permutes candidates and random features "
        "within layers (one-sided); features are the units",
        p_value=tested.p_value,
        unit="share",
        note=f"Target {target.name}. Screened in {n_cells[0]:,} cells, removed in {n_cells[1]:,} others; "
        f"{n:,} candidates, confirmed at q ≤ {settings.max_q}. By attribution first, with the mean effect of removal: "
        f"{strongest}. A negative effect: the feature supports the target.",
    )


def _recall(settings: InterventionSettings, chosen: pd.DataFrame) -> Answer:
    truth, layer = chosen["mean_delta"].to_numpy(), chosen["layer"].to_numpy()
    found = {}
    for name in ("attribution", "attribution_here", "removed"):
        rng = np.random.default_rng([settings.seed, STREAM, 1])
        found[name] = screen_accuracy.recall(chosen[name].to_numpy(), truth, layer, rng)
    tested, n = found["attribution"], max(1, round(screen_accuracy.TOP_SHARE * len(chosen)))
    return Answer(
        "attribution",
        ASKED[1],
        STATISTICS[1],
        tested.value,
        tested.chance,
        WITHIN_LAYERS,
        p_value=tested.p_value,
        unit="share",
        note=f"{n} of {len(chosen):,} random features of {len(np.unique(layer))} layers; chance without regard to "
        f"layers: {n / len(chosen):.0%}. A screen by the size of what is removed, which knows nothing of the target, "
        f"finds {found['removed'].value:.0%}; attribution in the very cells of the removal "
        f"{found['attribution_here'].value:.0%}.",
    )


def _correlation(settings: InterventionSettings, chosen: pd.DataFrame) -> Answer:
    guess, here, truth = (chosen[name].to_numpy() for name in ("attribution", "attribution_here", "mean_delta"))
    test_rng, interval_rng = (np.random.default_rng([settings.seed, STREAM, stream]) for stream in (2, 3))
    tested = screen_accuracy.tested_rank_correlation(guess, truth, chosen["layer"].to_numpy(), test_rng)
    low, high = screen_accuracy.rank_correlation_interval(guess, truth, interval_rng)
    moves = chosen["q_value"].to_numpy() <= settings.max_q
    agree = (np.sign(guess) == np.sign(truth))[moves].mean() if moves.any() else np.nan
    steps = settings.attribution_steps
    return Answer(
        "attribution",
        ASKED[2],
        STATISTICS[2],
        tested.value,
        tested.chance,
        WITHIN_LAYERS,
        low,
        high,
        p_value=tested.p_value,
        note=f"Pearson {screen_accuracy.pearson(guess, truth):.2f}; in the very cells of the removal, where only the "
        f"approximation errs: rank {screen_accuracy.rank_correlation(here, truth):.2f}, Pearson "
        f"{screen_accuracy.pearson(here, truth):.2f}. "
        + (f"Signs agree for {agree:.0%} of the {moves.sum():,} features that move the target. " if moves.any() else "")
        + (f"Integrated gradients of {steps} steps." if steps > 1 else "Gradient of the undisturbed cell."),
    )
