"""Pairs and triplets of features, in panels that differ in what their members share.

    same pathway        members share an enriched gene set
    cross pathway       every member has enriched gene sets, and no two share one
    random              no two share one; members may have none
    random directions   the members of the first panel, of each a random direction of the same norm in its place
    named               features that the user names

Groups of the other panels are matched to those of the same pathway: members lie in the same layers, fire as nearly as
often as can be, and have as nearly as can be the same size when they do (mean activation x norm of the decoder), since
what is larger bends the response of a model more. Random directions are matched in both exactly. Members are active
together in `min_cells` cells or more, and no edge of the run leads from one to another, as the effect of the lower
would contain that of the higher. Effects are not looked at. For the same pathway a gene set is drawn first, then its
members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np
import torch

from cellcircuits.interventions.inputs import Feature, Inputs

SAME, CROSS, RANDOM, DIRECTIONS, NAMED = "same pathway", "cross pathway", "random", "random directions", "named"
SIZES = {2: "interaction_pairs", 3: "interaction_triplets"}
"""Settings with the number of groups of each size."""
ATTEMPTS = 500
"""Draws per wanted group."""
NEAREST = 12
"""Most similar features among which a match is sought for each member."""
TINY = 1e-12
"""Firing rates and sizes are taken to be at least that."""
REUSED = 1.0
"""A member that the panel has already is as bad as a firing rate or a size that is off by a factor of e."""


Near = tuple[float, Feature]
"""How far a feature is from another, and the other."""


@dataclass(frozen=True)
class Group:
    """Features that are changed together."""

    panel: str
    members: tuple[Feature, ...]
    """In order of layer and number."""
    matched_set: int
    """Groups of different panels with the same number are matched."""
    random: int = -1
    """Number of the random direction in each member's place; -1: its own."""

    @property
    def name(self) -> str:
        """ "0:12+1:3"."""
        return "+".join(f"{layer}:{feature}" for layer, feature in self.members)


def choose_groups(inputs: Inputs) -> list[Group]:
    """Groups of all panels; the first is what the others are compared with."""
    if inputs.settings.features:
        own = _named(inputs)
    else:
        pool = Pool(inputs)
        same = pool.same_pathway()
        cross = pool.matched(same, CROSS)
        own = same + cross + pool.matched(same, RANDOM, cross) if same else pool.unmatched()
    first = [group for group in own if group.panel == own[0].panel]
    directions = [replace(g, panel=DIRECTIONS, random=0) for g in first if inputs.settings.random_directions]
    return own + directions


def _named(inputs: Inputs) -> list[Group]:
    """All pairs and triplets of the named features; where there are more than wanted, a random choice."""
    found: list[Group] = []
    rng = np.random.default_rng([inputs.settings.seed, 20])
    for size, wanted in _wanted(inputs):
        every = list(combinations(inputs.sources, size))
        chosen = np.sort(rng.choice(len(every), min(wanted, len(every)), replace=False))
        found += [Group(NAMED, every[i], len(found) + n) for n, i in enumerate(chosen)]
    return found


def _wanted(inputs: Inputs) -> Iterator[tuple[int, int]]:
    """(members, number of groups)."""
    return ((size, getattr(inputs.settings, name)) for size, name in SIZES.items())


class Pool:
    """Features that groups are drawn from: those below the highest autoencoder that are active in enough cells."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.min_cells = inputs, inputs.settings.min_cells
        below = [layer for layer in sorted(inputs.saes) if layer < max(inputs.saes)]
        self.active = active_in_cells(inputs, below)
        table = inputs.run.features
        ends = zip(table["layer"].tolist(), table["feature"].tolist(), strict=True)
        size = table["mean_activation"] * table["decoder_norm"]
        logs = np.log(np.maximum(np.column_stack([table["firing_rate"], size]), TINY))
        self.traits = {
            (layer, feature): row
            for (layer, feature), row in zip(ends, logs, strict=True)
            if layer in self.active and self.active[layer][:, feature].sum() >= self.min_cells
        }
        """{feature: logarithms of firing rate and size} of those that can be used."""
        self.terms = self._terms()
        traced = inputs.run.sources
        traced_here = set(zip(traced["layer"].tolist(), traced["feature"].tolist(), strict=True)) & set(self.traits)
        # where no source can be used, any feature with gene sets will do
        self.sources = sorted(traced_here) or sorted(self.terms)

    def _terms(self) -> dict[Feature, set[str]]:
        """Enriched gene sets of the features that have any."""
        table = self.inputs.run.terms
        found: dict[Feature, set[str]] = {}
        columns = (table[name].tolist() for name in ("layer", "feature", "collection", "term"))
        for layer, feature, collection, term in zip(*columns, strict=True):
            if (layer, feature) in self.traits:
                found.setdefault((layer, feature), set()).add(f"{collection}\t{term}")
        return found

    @cached_property
    def edges(self) -> set[tuple[Feature, Feature]]:
        """Ends of the edges of the run."""
        table = self.inputs.run.edges
        names = ("source_layer", "source_feature", "target_layer", "target_feature")
        ends = zip(*(table[name].tolist() for name in names), strict=True)
        return {((a, b), (c, d)) for a, b, c, d in ends}

    def usable(self, members: Sequence[Feature]) -> bool:
        """Whether the members are active together in enough cells, and no edge leads from one to another."""
        together = np.logical_and.reduce([self.active[layer][:, feature] for layer, feature in members])
        serial = any(pair in self.edges for pair in combinations(sorted(members), 2))
        return bool(together.sum() >= self.min_cells) and not serial

    def unrelated(self, members: Sequence[Feature]) -> bool:
        """Whether no two members share a gene set."""
        of = [self.terms.get(member, set()) for member in members]
        return all(a.isdisjoint(b) for a, b in combinations(of, 2))

    def same_pathway(self) -> list[Group]:
        """Groups whose members share a gene set: a random one, and random members of it among the sources."""
        members_of: dict[str, list[Feature]] = {}
        for source in self.sources:
            for term in self.terms.get(source, ()):
                members_of.setdefault(term, []).append(source)

        def draw(rng: np.random.Generator, size: int) -> list[Feature]:
            large = large_enough[size]
            members = members_of[large[rng.integers(len(large))]]
            return [members[i] for i in rng.choice(len(members), size, replace=False)]

        large_enough = {size: sorted(t for t, m in members_of.items() if len(m) >= size) for size in SIZES}
        return self._drawn(SAME, lambda rng, size: draw(rng, size) if large_enough[size] else [])

    def unmatched(self) -> list[Group]:
        """Random groups of sources, where none share a gene set."""

        def draw(rng: np.random.Generator, size: int) -> list[Feature]:
            if len(self.sources) < size:
                return []
            return [self.sources[i] for i in rng.choice(len(self.sources), size, replace=False)]

        return self._drawn(RANDOM, draw)

    def _drawn(self, panel: str, draw: Callable[[np.random.Generator, int], list[Feature]]) -> list[Group]:
        """Groups by `draw(rng, size)`, at first without any feature in two of one size, then as they come."""
        found: list[Group] = []
        for size, wanted in _wanted(self.inputs):
            rng = np.random.default_rng([self.inputs.settings.seed, 21, size])
            chosen: list[tuple[Feature, ...]] = []
            for reuse in (False, True):
                for _ in range(ATTEMPTS * wanted):
                    members = tuple(sorted(draw(rng, size)))
                    if len(chosen) == wanted or not members:
                        break
                    met = members in chosen or not (reuse or {m for c in chosen for m in c}.isdisjoint(members))
                    if not met and self.usable(members):
                        chosen.append(members)
            found += [Group(panel, members, len(found) + i) for i, members in enumerate(chosen)]
        return found

    def matched(self, groups: Sequence[Group], panel: str, but: Sequence[Group] = ()) -> list[Group]:
        """For each group the most similar unrelated one, if there is one; none of `but`."""
        others = {group.members for group in but}
        chosen: dict[int, tuple[Feature, ...]] = {}
        for group in groups:
            taken = {member for members in chosen.values() for member in members}
            candidates = [self._candidates(group, member, panel, taken) for member in group.members]
            by_distance = sorted(
                (sum(d for d, _ in combination), tuple(sorted(m for _, m in combination)))
                for combination in product(*candidates)
            )
            for _, members in by_distance:
                new = len(set(members)) == len(members) and members not in others | set(chosen.values())
                if new and self.unrelated(members) and self.usable(members):
                    chosen[group.matched_set] = members
                    break
        return [Group(panel, members, number) for number, members in chosen.items()]

    def _candidates(self, group: Group, member: Feature, panel: str, taken: set[Feature]) -> list[Near]:
        """The features of the member's layer that are most like it."""
        among = [s for s in self.sources if s in self.terms] if panel == CROSS else self.traits
        distances = [
            (float(np.abs(self.traits[other] - self.traits[member]).sum()) + REUSED * (other in taken), other)
            for other in among
            if other[0] == member[0] and other not in group.members
        ]
        return sorted(distances)[:NEAREST]


@torch.no_grad()
def active_in_cells(inputs: Inputs, layers: Sequence[int]) -> dict[int, np.ndarray]:
    """{layer: bool (cell, feature)}: whether each feature is active at any gene position; one clean pass per cell."""
    found = {layer: np.zeros((len(inputs.cells), inputs.saes[layer].n_features), dtype=bool) for layer in layers}
    with inputs.progress.task("Active features", len(inputs.cells)) as advance:
        for number in range(len(inputs.cells)):
            cell = inputs.cells.take([number])
            genes = torch.from_numpy(cell.gene_mask[0])
            for layer, state in inputs.model.run_layers(inputs.model.embed(cell), cell, 0, max(layers, default=-1) + 1):
                if layer in found:
                    code = inputs.saes[layer].encode(state[0][genes.to(state.device)])
                    found[layer][number] = (code.dense(inputs.saes[layer].n_features) > 0).any(dim=0).cpu().numpy()
            advance(1)
    return found
