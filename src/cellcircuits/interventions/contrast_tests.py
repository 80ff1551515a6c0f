"""Is a contrast 0 on average over cells? Tests of every group and target, and how many are called by chance.

By chance: in every cell the contrasts of all groups and targets are multiplied by one sign, a fair coin. That leaves
the sizes, and how targets and groups hang together within a cell, but no mean; the whole procedure is then repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from cellcircuits.interventions.contrasts import READOUTS, LayerSums, Plan, subsets
from cellcircuits.interventions.feature_groups import Group
from cellcircuits.stats import count_discoveries, counted_benjamini_hochberg

DRAWS = 199
"""Random signs of the cells."""
FEWEST_SD = 0.5
"""The published ratio looks at targets with |mean / sd| above this in any condition."""
KEYS = ["panel", "members", "n_members", "contrast", "readout"]
CHANGES = ["alone_1", "alone_2", "alone_3", "pair_12", "pair_13", "pair_23"]
STATISTICS = {"n_cells": "n_cells", "clean": "clean", "mean_delta": "epsilon", "sd_delta": "sd_epsilon"}
STATISTICS |= {"low": "low", "high": "high", "p_value": "p_value"}


@dataclass
class Family:
    """Tests that share their q: those of all groups, or of their random directions, at one readout."""

    n_tests: int = 0
    rows: list[pd.DataFrame] = field(default_factory=list)
    """Pairs of a contrast and a target with p <= max_q; no other can have a q as small."""
    null: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """(draw, p) of tests with p <= max_q when the cells have random signs."""

    def called(self, max_q: float) -> pd.DataFrame:
        """The rows with q <= max_q, with `q_value`."""
        rows = pd.concat(self.rows, ignore_index=True)
        p, place, counts = np.unique(rows["p_value"].to_numpy(), return_inverse=True, return_counts=True)
        q = counted_benjamini_hochberg(p, counts, self.n_tests - len(rows))
        rows["q_value"] = q[place]
        return rows[rows["q_value"] <= max_q].reset_index(drop=True)

    def null_counts(self, max_q: float) -> np.ndarray:
        """int64 (draw,): tests that are called when the cells have random signs."""
        draw = np.concatenate([part[0] for part in self.null]) if self.null else np.zeros(0, np.int64)
        p = np.concatenate([part[1] for part in self.null]) if self.null else np.zeros(0)
        order = np.argsort(draw, kind="stable")
        parts = np.split(p[order], np.searchsorted(draw[order], np.arange(1, DRAWS)))
        return np.array([count_discoveries(part, self.n_tests, max_q) for part in parts])


class ContrastTests:
    """Gathers tests block by block of groups."""

    def __init__(self, n_cells: int, min_cells: int, max_q: float, seed: int) -> None:
        self.min_cells, self.max_q = min_cells, max_q
        rng = np.random.default_rng([seed, 22])
        self.signs = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=(DRAWS, n_cells))
        self.families = {(control, readout): Family() for control in (False, True) for readout in READOUTS}
        self.groups: list[dict[str, object]] = []
        """Rows of the table of groups, without what is counted later."""
        self.published: list[np.ndarray] = []
        """|d of both| / (|d of one| + |d of the other|) of targets that respond, for each pair."""

    def add(self, plan: Plan, sums: dict[int, LayerSums]) -> None:
        """Add the groups of a plan."""
        for readout, name in enumerate(READOUTS):
            sizes: list[list[np.ndarray]] = [[] for _ in plan.contrasts]
            cells = np.zeros(len(plan.contrasts), dtype=np.int64)
            for layer, one in sums.items():
                found = one.epsilon[readout].statistics(self.min_cells)
                moved = self._moved(plan, one, readout)
                for row, (group, _) in enumerate(plan.contrasts):
                    targets = np.flatnonzero(found["tested"][row] & moved[group])
                    cells[row] = max(cells[row], int(found["n_cells"][row].max(initial=0)))
                    sizes[row].append(one.sizes[:, readout, row][:, targets])
                    self._test(plan, row, readout, layer, one, found, targets)
            for row in range(len(plan.contrasts)):
                self.groups.append(
                    self._keys(plan, row, name)
                    | _sizes(np.concatenate([np.zeros((4, 0)), *sizes[row]], axis=1))
                    | {"n_cells": int(cells[row])}
                )
        self._publish(plan, sums)

    @staticmethod
    def _keys(plan: Plan, row: int, readout: str) -> dict[str, object]:
        place, contrast = plan.contrasts[row]
        group = plan.groups[place]
        keys = (group.panel, group.name, len(group.members), contrast, readout)
        return dict(zip(KEYS, keys, strict=True)) | {"matched_set": group.matched_set}

    @staticmethod
    def _moved(plan: Plan, one: LayerSums, readout: int) -> np.ndarray:
        """bool (group, target): whether any condition of the group changes the target in any cell.

        This does not depend on the signs of contrasts, so it does not bias their tests.
        """
        changes = one.x[readout].sums["squares"] > 0
        return np.stack([changes[use].any(axis=0) for use in plan.uses])

    def _test(
        self,
        plan: Plan,
        row: int,
        readout: int,
        layer: int,
        one: LayerSums,
        found: dict[str, np.ndarray],
        targets: np.ndarray,
    ) -> None:
        """Test one contrast at the `targets` of a layer."""
        place, _ = plan.contrasts[row]
        control = plan.groups[place].random >= 0
        family = self.families[control, READOUTS[readout]]
        family.n_tests += len(targets)
        small = targets[found["p_value"][row, targets] <= self.max_q]
        values = {name: found[old][row, small] for old, name in STATISTICS.items()}
        values |= _changes(plan, place, one.x[readout].mean[:, small])
        expected = values["joint"] - values["epsilon"]
        more = np.where(np.abs(values["joint"]) > np.abs(expected), "more", "less")
        keys = {key: [value] * len(small) for key, value in self._keys(plan, row, READOUTS[readout]).items()}
        ends = {"target_layer": layer, "target_feature": small, "expected": expected, "together": more}
        family.rows.append(pd.DataFrame(keys | ends | values).drop(columns="matched_set"))
        if not control and len(targets):
            family.null.append(flipped(one.by_cell[readout, row][:, targets], self.signs, self.max_q))

    def _publish(self, plan: Plan, sums: dict[int, LayerSums]) -> None:
        """The published ratio, of standardised effects, for pairs."""
        pairs = [use for group, use in zip(plan.groups, plan.uses, strict=True) if _is_pair(group)]
        for one in sums.values():
            seen = one.x[0].statistics(self.min_cells)
            for use in pairs:
                d = np.abs(seen["snr"][use])
                chosen = (d > FEWEST_SD).any(axis=0) & seen["tested"][use].all(axis=0)
                self.published.append(d[2, chosen] / np.maximum(d[0, chosen] + d[1, chosen], 0.01))


def _is_pair(group: Group) -> bool:
    return len(group.members) == 2 and group.random < 0


def flipped(epsilon: np.ndarray, signs: np.ndarray, max_p: float) -> tuple[np.ndarray, np.ndarray]:
    """(draw, p) of the one-sample t tests with p <= `max_p` of contrasts (cell, target) under `signs` (draw, cell).

    Cells that do not count are NaN. With S the sum of n values and Q that of their squares, which signs leave alone,

        t^2 = S^2 (n - 1) / (n Q - S^2)
    """
    known = np.isfinite(epsilon).all(axis=1)
    values = epsilon[known].astype(np.float64)
    n = len(values)
    squares = n * (values**2).sum(axis=0)
    total = (signs[:, known].astype(np.float64) @ values) ** 2
    # all equal: the rest is rounding
    rest = np.maximum(squares - total, 1e-13 * squares)
    t2 = np.divide(total * (n - 1), rest, out=np.zeros_like(total), where=squares > 0)
    draw, target = np.nonzero(t2 >= scipy_stats.t.isf(max_p / 2, n - 1) ** 2)
    return draw, 2 * scipy_stats.t.sf(np.sqrt(t2[draw, target]), n - 1)


def _changes(plan: Plan, group: int, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Mean change (use, target) by each member alone, by pairs of three, and by all; NaN for what a group has not."""
    members = len(plan.groups[group].members)
    found = {name: np.full(mean.shape[1], np.nan) for name in CHANGES}
    for chosen, row in zip(subsets(members), mean[plan.uses[group]], strict=True):
        number = "".join(str(i + 1) for i in chosen)
        if len(chosen) < members:
            found[("alone_" if len(chosen) == 1 else "pair_") + number] = row
        else:
            found["joint"] = row
    return found


def _sizes(sums: np.ndarray) -> dict[str, float]:
    """How large contrasts are beside what they are measured against, from sums (size, target): see contrasts.SIZES."""
    epsilon, expected, product, square = sums
    effective = expected > 0
    each = epsilon[effective] / expected[effective]

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.sum() / b.sum()) if b.sum() > 0 else float("nan")

    return {
        "n_tested": sums.shape[1],
        "relative_size": ratio(epsilon, expected),
        "median_relative_size": float(np.median(each)) if len(each) else float("nan"),
        "reached": ratio(product, square),
    }
