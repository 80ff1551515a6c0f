"""What a model must offer, and the check that every adapter has to pass."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import anndata as ad
import numpy as np
import torch

from cellcircuits.errors import ModelError, SettingsError
from cellcircuits.gene_edits import Perturbation
from cellcircuits.positions import CleanStates, Positions
from cellcircuits.settings import CellsSettings
from cellcircuits.tokens import Tokens


class Model(torch.nn.Module):
    """A single-cell foundation model as the tracing engine sees it.

    `layer` is 0-based and means the OUTPUT of that block; `run_layers(..., start=s)` takes the hidden state that
    enters block s. All hidden states have shape (cell, position, d_model).
    """

    name: str
    n_layers: int
    d_model: int

    @abstractmethod
    def tokenize(self, adata: ad.AnnData, settings: CellsSettings | None = None, **changes: Any) -> Tokens:
        """Tokenise cells; `changes` override single fields of `settings`."""

    @abstractmethod
    def embed(self, tokens: Tokens) -> torch.Tensor:
        """Hidden state that enters block 0, shape (cell, position, d_model)."""

    @abstractmethod
    def run_layers(
        self, hidden: torch.Tensor, tokens: Tokens, start: int, stop: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Run blocks start, ..., stop - 1 on `hidden` and yield (layer, output of that block)."""

    has_frozen_context = False
    """Whether `replay(frozen=True)` is possible."""

    def replay(
        self,
        clean: CleanStates,
        rows: torch.Tensor,
        at: Positions,
        start: int,
        stop: int,
        *,
        frozen: bool = False,
        everywhere: bool = False,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Run copies of one cell that were changed at some positions, and yield (layer, states at these positions).

        Parameters
        ----------
        clean
            The cell and its undisturbed states: the outputs of blocks start - 1 to stop - 1.
        rows
            Changed states that enter block `start`, (read, d_model), at the pairs (copy, position) of `at`.
        frozen
            Only the changed positions are carried upward; all others stay as they were in the clean pass.
        everywhere
            Yield the states of all positions, (copy, position, d_model). Not together with `frozen`.

        Any model can do this through `run_layers`; an adapter may do it faster.
        """
        if frozen:
            raise SettingsError(f'The model {self.name!r} offers no frozen context. Set context = "exact".')
        hidden = clean.hidden[start - 1].repeat(at.n_copies, 1, 1)
        hidden[at.copy, at.position] = rows
        copies = clean.cell.take(np.zeros(at.n_copies, dtype=np.int64))
        for layer, state in self.run_layers(hidden, copies, start, stop):
            yield layer, state if everywhere else state[at.copy, at.position]

    def pass_through(
        self, clean: CleanStates, rows: torch.Tensor, at: Positions, start: int, stop: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """What the change alone makes of the positions `at`, if nothing is computed from it: yields (layer, states).

        The states that enter block `start` differ from the clean ones by a vector that persists in the residual
        stream. Here it is added to the clean state of every layer; a model whose norms lie on the residual stream
        carries it through them.
        """
        change = rows - clean.hidden[start - 1][0, at.position]
        for layer in range(start, stop):
            yield layer, clean.hidden[layer][0, at.position] + change

    output_name = ""
    """What `gene_outputs` gives, in words; empty: the model has no output head here."""

    def gene_outputs(self, hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """What the head says of the gene at each position, (cell, position), from the last block's output.

        `tokens` are the cells of `hidden` (cell, position, d_model), or one cell of which all are copies.
        """
        raise self._no_head()

    def mask(self, tokens: Tokens, at: np.ndarray) -> Tokens:
        """The same cells with the genes, or their values, hidden at the positions `at`, bool (cell, position)."""
        raise self._no_head()

    def masked_loss(self, hidden: torch.Tensor, tokens: Tokens, at: np.ndarray) -> torch.Tensor:
        """Mean loss over the masked positions of each cell, (cell,), from the last block's output for masked cells.

        `tokens` are the cells before masking, as in `gene_outputs`; every cell has a masked position.
        """
        raise self._no_head()

    def _no_head(self) -> SettingsError:
        return SettingsError(
            f"The model {self.name!r} has no output head here, so effects on its output cannot be measured. "
            "A plug-in offers one by `output_name`, `gene_outputs`, `mask` and `masked_loss`."
        )

    perturbations: tuple[Perturbation, ...] = ()
    """What `perturb_gene` can do."""

    def perturb_gene(self, tokens: Tokens, token_id: int, kind: Perturbation) -> Tokens:
        """One cell with a gene deleted or over-expressed in what the model reads; see `gene_edits`.

        Raises
        ------
        SettingsError
            If the model cannot do this, or the token is no gene.
        DataError
            If the cell lacks the gene that is to be deleted, or has no other.
        """
        possible = " or ".join(f'"{one}"' for one in self.perturbations)
        raise SettingsError(
            f"The model {self.name!r} offers no gene perturbation of the kind {kind!r}. "
            + (f"Use {possible}." if possible else "A plug-in offers some by `perturbations` and `perturb_gene`.")
        )

    def reference_hidden_states(self, tokens: Tokens) -> list[torch.Tensor] | None:
        """Block outputs by the model's original implementation, for `check_model`; None where there is none."""
        return None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def fingerprint(self) -> str:
        """sha256 over names and values of all weights."""
        digest = hashlib.sha256()
        for key, value in sorted(self.state_dict().items()):
            digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def key_padding_mask(tokens: Tokens, device: torch.device) -> torch.Tensor | None:
    """bool (cell, 1, 1, position), True where attention may look; None when no cell is padded."""
    if not tokens.has_padding:
        return None
    keep = np.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]
    return torch.from_numpy(keep)[:, None, None, :].to(device)


def _expect(good: bool, model: Model, claim: str, detail: str = "") -> None:
    if not good:
        raise ModelError(f"The adapter {model.name!r} fails its check: {claim}. {detail}".rstrip())


@torch.no_grad()
def check_model(model: Model, tokens: Tokens, tolerance: float = 1e-4) -> dict[str, float]:
    """Check that an adapter computes what the tracing engine relies on; up to four cells of `tokens` are used.

    Checked: shapes and layer numbers; a second clean pass has the same bits; running blocks one by one equals the
    model's own hidden states (where the adapter offers them); starting from a stored state equals the tail of a full
    pass; padding and batch mates do not change a cell; the output depends on the input; token ids and gene ids agree.

    Returns
    -------
    dict
        The largest difference seen for each claim, relative to the standard deviation of the hidden states.

    Raises
    ------
    ModelError
        Naming the first claim that does not hold.
    """
    tokens = tokens.take(np.unique(np.linspace(0, len(tokens) - 1, 4).astype(int)))
    _expect(model.n_layers >= 2, model, "it has at least two layers", f"Found {model.n_layers}.")
    entry = model.embed(tokens)
    shape = (*tokens.ids.shape, model.d_model)
    _expect(tuple(entry.shape) == shape, model, f"embed returns shape {shape}", f"Found {tuple(entry.shape)}.")
    real = torch.from_numpy(tokens.ids != tokens.pad_id).to(entry.device)
    _expect(bool((entry[real] != entry[real][0]).any()), model, "embed depends on the tokens")
    states = _run(model, entry, tokens, 0, model.n_layers)
    scale = max(float(states[-1][real].std()), 1e-12)

    def gap(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
        # numpy's maximum, which unlike Python's is NaN when any difference is
        return float(np.max([float((x[real] - y[real]).abs().max()) for x, y in zip(a, b, strict=True)])) / scale

    report = {}
    again = _run(model, entry + torch.zeros_like(entry), tokens, 0, model.n_layers)
    _expect(gap(again, states) == 0, model, "a zero change reproduces the clean pass to the bit")
    start = model.n_layers // 2
    tail = _run(model, states[start - 1], tokens, start, model.n_layers)
    report["replay"] = gap(tail, states[start:])
    _run(model, entry, tokens, 0, start)
    reference = model.reference_hidden_states(tokens)
    if reference is not None:
        report["reference"] = gap(states, reference)
    report["batch"] = float(np.max([_alone_gap(model, tokens, states, cell) for cell in range(len(tokens))])) / scale
    for claim, value in report.items():
        _expect(value <= tolerance, model, _CLAIMS[claim], f"Largest difference {value:.2e} sd, allowed {tolerance}.")
    other = _run(model, entry.flip(-1) * 0.5, tokens, 0, model.n_layers)
    _expect(gap(other, states) > tolerance, model, "the output depends on the input")
    _check_names(model, tokens)
    return report


_CLAIMS = {
    "replay": "starting from a stored state equals the tail of a full pass",
    "reference": "blocks run one by one equal the model's own hidden states",
    "batch": "padding and batch mates do not change a cell",
}


def _run(model: Model, hidden: torch.Tensor, tokens: Tokens, start: int, stop: int) -> list[torch.Tensor]:
    """Copies of the outputs of blocks start, ..., stop - 1, which must be yielded as such."""
    real = torch.from_numpy(tokens.ids != tokens.pad_id).to(hidden.device)
    layers, states = [], []
    for layer, state in model.run_layers(hidden, tokens, start, stop):
        shape = tuple(state.shape)
        _expect(shape == tuple(hidden.shape), model, "hidden states keep their shape", f"Layer {layer} has {shape}.")
        _expect(bool(torch.isfinite(state[real]).all()), model, "hidden states are finite")
        layers.append(layer)
        states.append(state.clone())
    claim = f"run_layers({start}, {stop}) yields layers {start} to {stop - 1} in order"
    _expect(layers == list(range(start, stop)), model, claim, f"It yielded {layers}.")
    return states


def _alone_gap(model: Model, tokens: Tokens, states: list[torch.Tensor], cell: int) -> float:
    """Largest difference of one cell's states between the batch and a pass of its own."""
    single = tokens.take([cell])
    length = int(single.lengths[0])
    alone = _run(model, model.embed(single), single, 0, model.n_layers)
    return float(np.max([float((a[0] - b[cell, :length]).abs().max()) for a, b in zip(alone, states, strict=True)]))


def _check_names(model: Model, tokens: Tokens) -> None:
    """Token ids at gene positions have a gene id, special tokens have none."""
    if len(tokens.gene_ids) == 0:
        return
    names = tokens.gene_ids[tokens.ids]
    _expect(bool((names[tokens.gene_mask] != "").all()), model, "every gene token has a gene id")
    _expect(bool((names[~tokens.gene_mask] == "").all()), model, "special tokens have no gene id")
    named = tokens.gene_ids[tokens.gene_ids != ""]
    _expect(len(np.unique(named)) == len(named), model, "gene ids and token ids are one to one")
