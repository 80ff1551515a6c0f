"""Linear readouts of a cell's state, learnt from cells in which no intervention is made.

A cell's embedding e is the mean of the last layer over its gene positions. With u = (e - mean) / sd over the cells
learnt from, dimension by dimension,

    labels    s_k = w_k . u + b_k, p = softmax(s); the readout is log(p_k / (1 - p_k)), the log-odds of each label
    numbers   y = w . u + b                                             (pseudotime, for example)
    genes     mean output of a signature's genes - mean output of the cell's other genes     (nothing is learnt)

Weights are those of scikit-learn's multinomial logistic and ridge regressions. A quarter of the cells is held out, and
a readout that does not beat chance in them is not used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats as scipy_stats
from scipy.special import logsumexp, softmax

from cellcircuits.errors import DataError, SettingsError, listed
from cellcircuits.interventions.inputs import Inputs
from cellcircuits.tables import make_table

HELD_OUT = 4
"""One in so many cells is held out."""
MIN_LABEL_CELLS = 10
"""Fewest cells of a label that is learnt."""
MIN_CELLS = 40
"""Fewest cells to learn from and to test with."""
EMBEDDED_AT_ONCE = 16
"""Cells of one pass."""


@dataclass(frozen=True)
class Probe:
    """A linear readout of one obs column."""

    column: str
    labels: tuple[str, ...]
    """Labels told apart; none for a number."""
    center: np.ndarray
    """float64 (d_model,)."""
    scale: np.ndarray
    """float64 (d_model,)."""
    weights: np.ndarray
    """float64 (d_model, label), or (d_model, 1)."""
    intercept: np.ndarray
    """float64 (label,), or (1,)."""

    def scores(self, embedding: np.ndarray) -> np.ndarray:
        """s (cell, label), or the number (cell, 1), of embeddings (cell, d_model)."""
        return (embedding - self.center) / self.scale @ self.weights + self.intercept


@dataclass(frozen=True)
class Readouts:
    """What is read of a cell: first what is tested, then the probabilities of labels."""

    probes: list[Probe] = field(default_factory=list)
    signature: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 (gene,): token ids."""

    @property
    def names(self) -> list[tuple[str, str, str]]:
        """(readout, label, measure) of each."""
        tested, probabilities = [], []
        for probe in self.probes:
            tested += [(probe.column, label, "log-odds" if label else "value") for label in probe.labels or ("",)]
            probabilities += [(probe.column, label, "probability") for label in probe.labels]
        return tested + [("signature", "", "output")] * bool(len(self.signature)) + probabilities

    def values(self, embedding: np.ndarray, outputs: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
        """(copy, readout) of a cell's embeddings (copy, d_model) and gene outputs (copy, gene position).

        `token_ids` are the genes; the signature is NaN in a cell that has none of its genes, or no other.
        """
        tested, probabilities = [], []
        for probe in self.probes:
            scores = probe.scores(embedding)
            tested.append(log_odds(scores) if probe.labels else scores)
            if probe.labels:
                probabilities.append(softmax(scores, axis=1))
        if len(self.signature):
            inside = np.isin(token_ids, self.signature)
            known = inside.any() and not inside.all()
            difference = outputs[:, inside].mean(axis=1) - outputs[:, ~inside].mean(axis=1) if known else np.nan
            tested.append(np.broadcast_to(difference, len(embedding))[:, None])
        return np.concatenate([*tested, *probabilities, np.zeros((len(embedding), 0))], axis=1)


def log_odds(scores: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of every label (cell, label), p = softmax(scores): the score - logsumexp of all others."""
    n = scores.shape[1]
    others = np.array([[j for j in range(n) if j != k] for k in range(n)])
    return scores - logsumexp(scores[:, others], axis=2)


def make_readouts(inputs: Inputs) -> tuple[Readouts, pd.DataFrame, dict[str, str]]:
    """The readouts that beat chance, the table `probes`, and {column: why it could not be learnt}.

    Raises
    ------
    DataError, SettingsError
        If a column, or every gene of the signature, is not there.
    """
    columns, signature = probe_columns(inputs), signature_tokens(inputs)
    rows = training_rows(inputs) if columns else np.zeros(0, dtype=np.int64)
    missing, probes, table = {}, [], []
    embedding = embed_cells(inputs, rows) if len(rows) >= MIN_CELLS else np.zeros((len(rows), 0))
    for column in columns:
        values = inputs.run.cells.obs[column].iloc[rows]
        why = _unlearnable(values)
        if why:
            missing[column] = why
            continue
        probe, row = learn(column, values, embedding, inputs.settings.probe_penalty, inputs.settings.seed)
        table.append(row | {"used": row["p_value"] <= inputs.settings.max_q})
        if table[-1]["used"]:
            probes.append(probe)
        else:
            missing[column] = f"The readout scores {row['score']:.3g} in held-out cells, chance {row['chance']:.3g}."
    made = make_table("probes", pd.DataFrame(table) if table else {name: [] for name in _PROBE_COLUMNS})
    return Readouts(probes, signature), made, missing


_PROBE_COLUMNS = "readout measure n_labels n_train n_held_out score chance p_value used".split()


def probe_columns(inputs: Inputs) -> list[str]:
    """obs columns to learn: those named, or the first that the run itself groups or draws cells by."""
    obs, settings = inputs.run.cells.obs, inputs.run.settings
    unknown = [column for column in inputs.settings.probe_columns if column not in obs]
    if unknown:
        raise DataError(
            f"`probe_columns` names obs columns of the cells; they have no {listed(unknown)}, "
            f"they have {listed(obs.columns, 12)}."
        )
    usual = [settings.trace.group_by, settings.trace.stratify_by, settings.cells.stratify_by, "cell_type"]
    return list(dict.fromkeys(inputs.settings.probe_columns)) or [column for column in usual if column in obs][:1]


def signature_tokens(inputs: Inputs) -> np.ndarray:
    """int64 (gene,): tokens of the signature's genes that the model knows."""
    wanted = inputs.settings.probe_signature
    cells = inputs.run.cells
    found = np.flatnonzero(np.isin(cells.gene_symbols, wanted) | np.isin(cells.gene_ids, wanted))
    if wanted and not len(found):
        raise SettingsError(
            f"`probe_signature` names genes of the model's vocabulary; it knows none of {listed(wanted)}. "
            "Use symbols or identifiers as in the table feature_genes."
        )
    if wanted and not inputs.model.output_name:
        raise SettingsError("`probe_signature` is read from the model's output, but this model has no output head.")
    return found


def training_rows(inputs: Inputs) -> np.ndarray:
    """int64 (cell,): cells of the run without interventions, `probe_cells` of them at random."""
    others = np.setdiff1d(np.arange(len(inputs.run.cells)), inputs.cell_rows)
    n = inputs.settings.probe_cells
    if n and n < len(others):
        others = np.sort(np.random.default_rng([inputs.settings.seed, 2]).choice(others, n, replace=False))
    return others


@torch.no_grad()
def embed_cells(inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """float64 (cell, d_model): mean of the last layer over the gene positions of cells of the run."""
    model, found = inputs.model, []
    with inputs.progress.task("Cells to learn readouts from", len(rows)) as advance:
        for start in range(0, len(rows), EMBEDDED_AT_ONCE):
            cells = inputs.run.cells.take(rows[start : start + EMBEDDED_AT_ONCE])
            for _, hidden in model.run_layers(model.embed(cells), cells, 0, model.n_layers):
                last = hidden
            genes = torch.from_numpy(cells.gene_mask).to(last.device)
            total = (last * genes[..., None]).sum(dim=1) / genes.sum(dim=1, keepdim=True).clamp(min=1)
            found.append(total.double().cpu().numpy())
            advance(len(cells))
    return np.concatenate(found)


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers, not labels: more than ten different ones."""
    return pd.api.types.is_numeric_dtype(values) and values.nunique() > 10


def _unlearnable(values: pd.Series) -> str:
    """Why a column cannot be learnt from these cells; "" if it can."""
    if is_number(values):
        enough = int(np.isfinite(values.to_numpy(dtype=float)).sum()) >= MIN_CELLS
    else:
        counts = values.dropna().astype(str).value_counts()
        kept = counts[counts >= MIN_LABEL_CELLS]
        enough = len(kept) >= 2 and kept.sum() >= MIN_CELLS
    if enough:
        return ""
    return (
        f"A readout needs {MIN_CELLS} cells without interventions, of two labels with {MIN_LABEL_CELLS} cells or with "
        f"a number each; there are {len(values)} such cells in all. Lower n_cells, or take more cells into the run."
    )


def learn(
    column: str, values: pd.Series, embedding: np.ndarray, penalty: float, seed: int
) -> tuple[Probe, dict[str, Any]]:
    """The readout of a column from three quarters of the cells, and its row of the table `probes` but for `used`."""
    if is_number(values):
        y = values.to_numpy(dtype=float)
        kept, strata = np.flatnonzero(np.isfinite(y)), np.zeros(len(y), dtype=np.int64)
    else:
        y = values.astype(object).where(values.notna(), "").astype(str).to_numpy()
        _, strata, counts = np.unique(y, return_inverse=True, return_counts=True)
        kept = np.flatnonzero((counts[strata] >= MIN_LABEL_CELLS) & values.notna().to_numpy())
    held_out = kept[_held_out(strata[kept], seed)]
    train = np.setdiff1d(kept, held_out)
    fitted = _ridge if is_number(values) else _logistic
    probe = fitted(column, embedding[train], y[train], penalty)
    score, chance, p = _tested(probe, embedding[held_out], y[held_out], y[train])
    row = {
        "readout": column,
        "measure": "log-odds" if probe.labels else "value",
        "n_labels": len(probe.labels),
        "n_train": len(train),
        "n_held_out": len(held_out),
    }
    return probe, row | {"score": score, "chance": chance, "p_value": p}


def _held_out(strata: np.ndarray, seed: int) -> np.ndarray:
    """Places of about one in HELD_OUT cells of every stratum, at random."""
    order = np.random.default_rng([seed, 3]).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    return np.sort(order[HELD_OUT - 1 :: HELD_OUT])


def _standard(embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sd = embedding.std(axis=0)
    return embedding.mean(axis=0), np.where(sd > 0, sd, 1.0)


def _logistic(column: str, embedding: np.ndarray, y: np.ndarray, penalty: float) -> Probe:
    from sklearn.linear_model import LogisticRegression

    center, scale = _standard(embedding)
    model = LogisticRegression(C=1 / penalty, max_iter=5000).fit((embedding - center) / scale, y)
    weights, intercept = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps the second label alone
        weights, intercept = np.column_stack([0 * weights, weights]), np.append(0.0, intercept)
    return Probe(column, tuple(map(str, model.classes_)), center, scale, weights, intercept)


def _ridge(column: str, embedding: np.ndarray, y: np.ndarray, penalty: float) -> Probe:
    from sklearn.linear_model import Ridge

    center, scale = _standard(embedding)
    model = Ridge(alpha=penalty).fit((embedding - center) / scale, y)
    return Probe(column, (), center, scale, model.coef_[:, None], np.array([model.intercept_]))


def _tested(probe: Probe, embedding: np.ndarray, y: np.ndarray, learnt_from: np.ndarray) -> tuple[float, float, float]:
    """Accuracy or R2 in held-out cells, its chance level, and a one-sided p."""
    scores = probe.scores(embedding)
    if probe.labels:
        correct = np.array(probe.labels)[scores.argmax(axis=1)] == y
        names, counts = np.unique(learnt_from, return_counts=True)
        chance = float((y == names[counts.argmax()]).mean())
        p = float(scipy_stats.binomtest(int(correct.sum()), len(y), chance, alternative="greater").pvalue)
        return float(correct.mean()), chance, p
    spread = ((y - learnt_from.mean()) ** 2).sum()
    r2 = float(1 - ((y - scores[:, 0]) ** 2).sum() / spread) if spread > 0 else 0.0
    if np.ptp(scores[:, 0]) == 0 or np.ptp(y) == 0:
        return r2, 0.0, 1.0
    return r2, 0.0, float(scipy_stats.pearsonr(scores[:, 0], y, alternative="greater").pvalue)
