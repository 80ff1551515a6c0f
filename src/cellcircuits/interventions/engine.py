"""Run copies of one cell under conditions: the states of every layer above the lowest change.

The copies of a batch start from the clean state of the lowest layer that is changed; nothing below is computed again.
At each changed layer the activation z of the features is read from the state as it is then, and

    h(p) <- h(p) + sum over features of (z'(p) - z(p)) W_dec[f]        at gene positions p

(see `changes` for z'). Where one layer alone is changed this is the pass of the tracing engine, which brings attention
up to date instead of computing it anew where few positions change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellcircuits.ablate import CleanPass, Tracer
from cellcircuits.autoencoders import SparseAutoencoder
from cellcircuits.controls import control_directions
from cellcircuits.errors import SettingsError
from cellcircuits.interventions.changes import WITH_REFERENCE, Condition
from cellcircuits.interventions.reference import Reference
from cellcircuits.models.base import Model
from cellcircuits.positions import Positions
from cellcircuits.settings import TraceSettings
from cellcircuits.tokens import Tokens

ACTIVATIONS_AT_ONCE = 8_000_000
"""Activations of copies (copy x position x feature) that are held in memory together."""
DRAWN_KINDS = ("resample", "patch")
"""Kinds whose new values differ from position to position."""


@dataclass(frozen=True)
class Changed:
    """One layer of a batch of copies."""

    rows: np.ndarray
    """int64 (copy,): index into the conditions asked for."""
    layer: int
    states: torch.Tensor
    """(copy, position, d_model)."""


class Intervener:
    """Runs conditions on one model.

    Parameters
    ----------
    model, saes
        The model and {layer: autoencoder}.
    references
        {layer: what the features do in other cells}, for the kinds that need it.
    batch_size
        Copies of a cell per pass, at most; changes speed and memory only.
    seed
        Of the values that are drawn, and of random directions; a cell's draws do not depend on the batch.
    """

    def __init__(
        self,
        model: Model,
        saes: Mapping[int, SparseAutoencoder],
        references: Mapping[int, Reference] | None = None,
        batch_size: int = TraceSettings.batch_size,
        seed: int = 0,
    ) -> None:
        self.model, self.saes, self.references, self.seed = model, dict(saes), references or {}, seed
        self.settings = TraceSettings(batch_size=batch_size)
        self.tracer = Tracer(model, self.saes, self.settings)
        self._directions: dict[tuple[int, int, int], torch.Tensor] = {}

    def clean(self, cell: Tokens, conditions: Sequence[Condition]) -> CleanPass:
        """The undisturbed pass of one cell, with the states and codes from the lowest changed layer to the last."""
        lowest = min(min(condition.layers) for condition in conditions)
        return self.tracer.clean_pass(cell, range(lowest, self.model.n_layers), [self.model.n_layers - 1])

    def positions(self, clean: CleanPass, conditions: Sequence[Condition]) -> np.ndarray:
        """bool (condition, position): where the condition changes something, by the clean activations.

        "active": where one of its features is active; "all" positions, and all other features: every gene position.
        """
        genes = clean.states.cell.gene_mask[0]
        active = {layer: clean.codes[layer].dense(self.saes[layer].n_features) > 0 for layer in _layers(conditions)}
        rows = []
        for condition in conditions:
            if condition.others or condition.change.positions == "all":
                rows.append(genes)
                continue
            some = np.zeros(len(genes), dtype=bool)
            for layer in condition.layers:
                some |= active[layer][:, torch.from_numpy(condition.of(layer))].any(dim=1).cpu().numpy()
            rows.append(genes & some)
        return np.array(rows).reshape(len(conditions), len(genes))

    @torch.no_grad()
    def run(
        self, clean: CleanPass, conditions: Sequence[Condition], cell_number: int, layers: Sequence[int] | None = None
    ) -> Iterator[Changed]:
        """The states of `layers` (None: of the last) of the conditions, batch by batch, from the lowest to the highest.

        Of a batch, only layers above or at the lowest that it changes are given; conditions with the same lowest layer
        share batches, those that change others too apart from the rest, which are run faster. `cell_number` stands for
        the cell in what is drawn.
        """
        wanted = sorted({self.model.n_layers - 1} if layers is None else set(layers))
        lowest = np.array([min(condition.layers) for condition in conditions], dtype=np.int64)
        several = np.array([len(condition.layers) > 1 for condition in conditions])
        copies = self.settings.copies_per_pass(clean.states.cell.ids.shape[1])
        for start, more in sorted(set(zip(lowest.tolist(), several.tolist(), strict=True))):
            rows = np.flatnonzero((lowest == start) & (several == more))
            for part in np.split(rows, np.arange(copies, len(rows), copies)):
                yield from self._batch(clean, part, [conditions[row] for row in part], cell_number, wanted)

    def _batch(
        self, clean: CleanPass, rows: np.ndarray, conditions: list[Condition], number: int, wanted: list[int]
    ) -> Iterator[Changed]:
        layers = _layers(conditions)
        first, last = layers[0], max(wanted)
        change = self._added_by(clean, first, conditions, number)
        if first in wanted:
            yield Changed(rows, first, clean.states.hidden[first] + change)
        if last <= first:
            return
        if len(layers) == 1:
            states = self._one_layer(clean, first, change, last)
        else:
            states = self._several_layers(clean, layers, clean.states.hidden[first] + change, conditions, number, last)
        for layer, state in states:
            if layer in wanted:
                yield Changed(rows, layer, state)

    def _one_layer(
        self, clean: CleanPass, layer: int, change: torch.Tensor, last: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        changed = (change != 0).any(dim=-1)
        changed[:, 0] |= ~changed.any(dim=1)  # every copy has a position, changed or not
        copy, position = changed.nonzero(as_tuple=True)
        entering = clean.states.hidden[layer][0, position] + change[copy, position]
        at = Positions(copy, position, n_copies=len(change))
        return self.model.replay(clean.states, entering, at, layer + 1, last + 1, everywhere=True)

    def _several_layers(
        self,
        clean: CleanPass,
        layers: list[int],
        hidden: torch.Tensor,
        conditions: list[Condition],
        number: int,
        last: int,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        copies = clean.states.cell.take(np.zeros(len(conditions), dtype=np.int64))
        for layer in range(layers[0] + 1, last + 1):
            ((_, hidden),) = self.model.run_layers(hidden, copies, layer, layer + 1)
            concerned = [i for i, condition in enumerate(conditions) if layer in condition.layers]
            if concerned:
                states, some = hidden[concerned], [conditions[i] for i in concerned]
                hidden = hidden.index_copy(
                    0,
                    torch.tensor(concerned, device=hidden.device),
                    states + self._added_by(clean, layer, some, number, states),
                )
            yield layer, hidden

    def _added_by(
        self,
        clean: CleanPass,
        layer: int,
        conditions: list[Condition],
        number: int,
        states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(copy, position, d_model): what each condition adds to its state of a layer; None: all have the clean one."""
        sae, added = self.saes[layer], []
        clean_code = clean.codes[layer].dense(sae.n_features)[None]
        step = max(1, ACTIVATIONS_AT_ONCE // clean_code.numel())
        for start in range(0, len(conditions), step):
            part = conditions[start : start + step]
            if states is None:
                code = clean_code.expand(len(part), -1, -1)
            else:
                code = sae.encode(states[start : start + step]).dense(sae.n_features)
            alike = len({condition.change for condition in part}) == 1 and part[0].change.kind not in DRAWN_KINDS
            if alike and all(condition.random < 0 for condition in part):
                added.append(self._added_together(clean, layer, code, part, number))
            else:
                each = zip(code, part, strict=True)
                added.append(torch.stack([self._added(clean, layer, one, chosen, number) for one, chosen in each]))
        return torch.cat(added)

    def _added_together(
        self, clean: CleanPass, layer: int, code: torch.Tensor, conditions: list[Condition], number: int
    ) -> torch.Tensor:
        """As `_added`, of copies with activations `code` (copy, position, feature) and the same change: one product."""
        cell, change = clean.states.cell, conditions[0].change
        chosen = np.zeros((len(conditions), code.shape[-1]), dtype=bool)
        for row, condition in enumerate(conditions):
            chosen[row, condition.of(layer)] = True
            chosen[row] ^= condition.others
        some = np.flatnonzero(chosen.any(axis=0))
        z = code if len(some) == code.shape[-1] else code[..., torch.from_numpy(some)]
        new = self._new_values(layer, some, z, cell.ids[0], conditions[0], number)
        moved = torch.from_numpy(chosen[:, None, some]).to(z.device)
        if change.positions == "active":
            moved = moved & (z > 0)
        added = torch.where(moved, new - z, 0.0) @ self.saes[layer].W_dec[torch.from_numpy(some)]
        return torch.where(torch.from_numpy(cell.gene_mask[0]).to(z.device)[:, None], added, 0.0)

    def _added(
        self, clean: CleanPass, layer: int, code: torch.Tensor, condition: Condition, number: int
    ) -> torch.Tensor:
        """(position, d_model): what a condition adds to a layer whose activations are `code` (position, feature)."""
        cell, chosen = clean.states.cell, condition.of(layer)
        if condition.others:
            chosen = np.setdiff1d(np.arange(self.saes[layer].n_features), chosen)
        z = code[:, torch.from_numpy(chosen)]
        new = self._new_values(layer, chosen, z, cell.ids[0], condition, number)
        moved = torch.from_numpy(cell.gene_mask[0]).to(z.device)[:, None].expand_as(z)
        if condition.change.positions == "active":
            moved = moved & (z > 0)
        return torch.where(moved, new - z, 0.0) @ self._vectors(layer, chosen, condition.random)

    def _new_values(
        self,
        layer: int,
        chosen: np.ndarray,
        z: torch.Tensor,
        token_ids: np.ndarray,
        condition: Condition,
        number: int,
    ) -> torch.Tensor:
        change = condition.change
        if change.kind in WITH_REFERENCE:
            if layer not in self.references:
                raise SettingsError(
                    f'The intervention "{change.kind}" needs the activations of layer {layer} elsewhere.'
                )
            return self.references[layer].replaced(chosen, z, token_ids, change, (self.seed, number, layer))
        if change.kind == "scale":
            return z * change.amount
        return torch.full_like(z, change.amount if change.kind == "clamp" else 0.0)

    def _vectors(self, layer: int, chosen: np.ndarray, random: int) -> torch.Tensor:
        """Directions (feature, d_model) of features: their own, or random ones of the same norm."""
        sae = self.saes[layer]
        if random < 0 or not len(chosen):
            return sae.W_dec[torch.from_numpy(chosen)]
        return torch.stack([self._random_direction(layer, int(feature), random) for feature in chosen])

    def _random_direction(self, layer: int, feature: int, random: int) -> torch.Tensor:
        key = layer, feature, random
        if key not in self._directions:
            nobody = np.zeros((1, 0), dtype=np.int64)
            drawn = control_directions(self.saes[layer], layer, np.array([feature]), nobody, random + 1, self.seed)
            self._directions[key] = drawn[0, random + 1]
        return self._directions[key]


def _layers(conditions: Sequence[Condition]) -> list[int]:
    """All layers that are changed, ascending."""
    return sorted({layer for condition in conditions for layer in condition.layers})
