"""What features do together beyond what they do alone, cell by cell.

In one cell let x_S be the change of a target when the members S of a group are changed together, measured for every S
at the same positions: those of any member. With n members,

    additivity   epsilon = x_all - sum over members of x_i
    three-way    epsilon = x_ABC - x_AB - x_AC - x_BC + x_A + x_B + x_C      (of triplets)

For a pair the first is x_AB - x_A - x_B. A cell counts if each member alone changes something in it; elsewhere epsilon
is 0 for no reason that tells anything. What the contrast is measured against is x_all - epsilon: what members do alone
(additivity), or alone and in pairs (three-way).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from cellcircuits.ablate import CleanPass
from cellcircuits.interventions.changes import Change, Condition, condition
from cellcircuits.interventions.engine import Intervener
from cellcircuits.interventions.feature_groups import Group
from cellcircuits.interventions.features import layer_of
from cellcircuits.interventions.observations import Observations
from cellcircuits.readouts import measure, rounding
from cellcircuits.tokens import Tokens

READOUTS = ("source", "pre")
"""The activation, and what is computed before TopK and the floor at 0, which alone can make contrasts."""
SIZES = ("epsilon", "expected", "product", "square")
"""Sums over cells of |epsilon|, |expected|, joint x expected, and expected squared."""
ADDITIVITY, THREE_WAY = "additivity", "three-way"


def subsets(n: int) -> list[tuple[int, ...]]:
    """Members that are changed together: each alone, then pairs, then all."""
    return [chosen for size in range(1, n + 1) for chosen in combinations(range(n), size)]


def contrast_weights(n: int) -> dict[str, np.ndarray]:
    """{contrast: float64 (subset,)}: epsilon is their product with the changes x of `subsets(n)`."""
    sizes = np.array([len(chosen) for chosen in subsets(n)])
    found = {ADDITIVITY: np.where(sizes == n, 1.0, 0.0) - (sizes == 1)}
    if n == 3:
        found[THREE_WAY] = (-1.0) ** (n - sizes)
    return found


class Plan:
    """What is run and measured of some groups: every condition once, though several groups may look at it.

    A use is a condition that a group looks at; those of a group follow each other in the order of `subsets`.
    """

    def __init__(self, groups: Sequence[Group], change: Change) -> None:
        self.groups = list(groups)
        number: dict[Condition, int] = {}
        condition_of: list[int] = []
        group_of: list[int] = []
        weights: list[tuple[int, np.ndarray]] = []
        self.contrasts: list[tuple[int, str]] = []
        """(group, name of the contrast), in the order of the rows of `weights`."""
        self.uses: list[slice] = []
        """Uses of each group."""
        for place, group in enumerate(self.groups):
            first = len(condition_of)
            for chosen in subsets(len(group.members)):
                asked = condition([group.members[i] for i in chosen], change, random=group.random)
                condition_of.append(number.setdefault(asked, len(number)))
                group_of.append(place)
            self.uses.append(slice(first, len(condition_of)))
            for name, row in contrast_weights(len(group.members)).items():
                self.contrasts.append((place, name))
                weights.append((first, row))
        self.conditions = list(number)
        self.condition_of, self.group_of = np.array(condition_of), np.array(group_of)
        self.weights = np.zeros((len(weights), len(condition_of)))
        for line, (first, row) in enumerate(weights):
            self.weights[line, first : first + len(row)] = row

    @cached_property
    def highest(self) -> np.ndarray:
        """int64 (group,): layer of the highest member."""
        return np.array([max(layer for layer, _ in group.members) for group in self.groups])

    @cached_property
    def alone(self) -> list[np.ndarray]:
        """Conditions that change one member of each group."""
        starts = [use.start for use in self.uses]
        return [self.condition_of[s : s + len(g.members)] for s, g in zip(starts, self.groups, strict=True)]

    @cached_property
    def joint(self) -> np.ndarray:
        """int64 (group,): the use in which all members are changed."""
        return np.array([use.stop - 1 for use in self.uses])

    @cached_property
    def group_of_contrast(self) -> np.ndarray:
        """int64 (contrast,)."""
        return np.array([group for group, _ in self.contrasts])


@dataclass
class LayerSums:
    """Sums over cells of one target layer, for each of READOUTS."""

    x: list[Observations]
    """(use, target)."""
    epsilon: list[Observations]
    """(contrast, target)."""
    sizes: np.ndarray
    """float64 (size, readout, contrast, target): see SIZES."""
    by_cell: np.ndarray
    """float32 (readout, contrast, cell, target): epsilon, NaN where the cell does not count."""

    @classmethod
    def empty(cls, plan: Plan, n_cells: int, n_targets: int) -> LayerSums:
        """Nothing yet."""
        n_uses, n_contrasts = len(plan.condition_of), len(plan.contrasts)
        return cls(
            [Observations(n_uses, n_targets) for _ in READOUTS],
            [Observations(n_contrasts, n_targets) for _ in READOUTS],
            np.zeros((len(SIZES), len(READOUTS), n_contrasts, n_targets)),
            np.full((len(READOUTS), n_contrasts, n_cells, n_targets), np.nan, dtype=np.float32),
        )

    def add(self, plan: Plan, number: int, counts: np.ndarray, seen: Effects) -> None:
        """Add the cell `number`, in which the groups `counts`, bool (group,), count."""
        uses, rows = np.flatnonzero(counts[plan.group_of]), np.flatnonzero(counts[plan.group_of_contrast])
        weights = plan.weights[rows]
        joint = plan.joint[plan.group_of_contrast[rows]]
        for readout in range(len(READOUTS)):
            x, clean = seen.x[readout], seen.clean[readout]
            epsilon = weights @ x
            epsilon[np.abs(epsilon) <= np.abs(weights) @ seen.rounding] = 0.0
            expected = x[joint] - epsilon
            self.x[readout].add(uses, x[uses], clean[uses])
            self.epsilon[readout].add(rows, epsilon, clean[joint])
            self.by_cell[readout, rows, number] = epsilon
            sizes = np.abs(epsilon), np.abs(expected), x[joint] * expected, expected**2
            for size, values in enumerate(sizes):
                self.sizes[size, readout, rows] += values


@dataclass
class Effects:
    """Changes by every use in one cell and layer."""

    x: np.ndarray
    """float64 (readout, use, target)."""
    clean: np.ndarray
    """float64 (readout, use, target): the same in the clean pass."""
    rounding: np.ndarray
    """float64 (use, target): how much a change may be without being one."""

    @classmethod
    def empty(cls, n_uses: int, n_targets: int) -> Effects:
        """Nothing yet."""
        shape = len(READOUTS), n_uses, n_targets
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape[1:]))


@dataclass
class Observer:
    """Makes the observations of a plan."""

    engine: Intervener
    cells: Tokens
    layers: list[int] = field(default_factory=list)
    """Layers whose features are targets."""

    def observe(self, plan: Plan, advance: Callable[[float], None] = lambda _: None) -> dict[int, LayerSums]:
        """{target layer: sums over cells}; `advance` is called once per cell."""
        layers = [layer for layer in self.layers if layer > plan.highest.min()]
        saes = self.engine.saes
        sums = {layer: LayerSums.empty(plan, len(self.cells), saes[layer].n_features) for layer in layers}
        for number in range(len(self.cells)):
            clean = self.engine.clean(self.cells.take([number]), plan.conditions)
            where = self.engine.positions(clean, plan.conditions)
            counts = np.array([where[alone].any(axis=1).all() for alone in plan.alone])
            if counts.any():
                for layer, seen in self._effects(plan, clean, where, counts, number, layers).items():
                    sums[layer].add(plan, number, counts & (plan.highest < layer), seen)
            advance(1)
        return sums

    def _effects(
        self, plan: Plan, clean: CleanPass, where: np.ndarray, counts: np.ndarray, number: int, layers: list[int]
    ) -> dict[int, Effects]:
        """{layer: changes} in one cell by the uses of the groups that count and lie below."""
        uses = np.flatnonzero(counts[plan.group_of])
        needed = np.unique(plan.condition_of[uses])
        found = {layer: Effects.empty(len(plan.condition_of), self.engine.saes[layer].n_features) for layer in layers}
        common = where[plan.condition_of[plan.joint]]
        for changed in self.engine.run(clean, [plan.conditions[i] for i in needed], number, layers):
            copy = np.full(len(plan.conditions), -1)
            copy[needed[changed.rows]] = np.arange(len(changed.rows))
            above = plan.highest[plan.group_of[uses]] < changed.layer
            mine = uses[above & (copy[plan.condition_of[uses]] >= 0)]
            if not len(mine):
                continue
            layer = layer_of(
                clean, changed, common[plan.group_of[mine]], self.engine.saes, copy[plan.condition_of[mine]]
            )
            seen = found[changed.layer]
            delta, before = measure(layer, READOUTS)
            seen.x[:, mine], seen.clean[:, mine] = delta.double().cpu().numpy(), before.double().cpu().numpy()
            seen.rounding[mine] = rounding(layer).double().cpu().numpy()
        return found


def blocks(groups: Sequence[Group], n_targets: int, n_cells: int, most_bytes: float) -> Iterator[list[Group]]:
    """The groups in order, so many at a time that their sums over cells take about `most_bytes` at most."""
    part: list[Group] = []
    taken = 0.0
    for group in groups:
        n_uses, n_contrasts = len(subsets(len(group.members))), len(contrast_weights(len(group.members)))
        sums = 8 * 6 * (n_uses + n_contrasts) + 8 * len(SIZES) * n_contrasts + 4 * n_cells * n_contrasts
        needs = float(len(READOUTS) * n_targets * sums)
        if part and taken + needs > most_bytes:
            yield part
            part, taken = [], 0.0
        part.append(group)
        taken += needs
    if part:
        yield part
