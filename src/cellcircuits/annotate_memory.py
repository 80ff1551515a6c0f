"""How much memory the catalogue of features and the counts of `structure/` take at their peak, beside the interpreter.

Catalogue: weights; the states of all layers and the pre-activations of one of a batch of cells; and for every layer the
sums by gene and feature, a sparse matrix. How many pairs of gene and feature there are is known only afterwards. Taken
is the number if genes were all as common and features fired independently of them,

    pairs = genes features (1 - exp(-positions k / (genes features)))

which is nearly the most that there can be: real features prefer some genes. Networks and gene sets are not counted.

Structure: 4 bytes per pair of features for each layer and for each two neighbouring layers, and some more for the
layer at hand.
"""

from __future__ import annotations

from math import exp

import numpy as np

from cellcircuits.model_shape import BYTES, ModelShape
from cellcircuits.settings import Settings, StructureSettings
from cellcircuits.trace_memory import KEPT, LOADING, block_numbers
from cellcircuits.trace_work import sae_layers

PAIR_COUNTING = 20 * 1.5
"""Bytes per pair of gene and feature while sums are made: a complex number and its column, in sums of several sizes."""
PAIR_COUNTED = 20
"""Bytes of such a pair afterwards: firings, activations, and their column."""
PAIR_TURNING = 44
"""Bytes of a pair of the one layer whose sums are turned round and taken apart."""
SCORE = 8
"""Bytes of a score of a cell: its value and its column."""
SCORE_TESTED = 32
"""Bytes of a score of the one layer that is tested: copies by cell and by feature, in order."""
CODE = 8
"""Bytes of an activation above 0: its value and its column."""
CODE_COUNTED = 24
"""The same with the copies in which structure counts."""
PRODUCT = 20
"""Bytes per pair of features of a product of one batch: sparse, and as an array."""
COMPARED = 36
"""Bytes per pair of features while two layers are compared: cosines, covariances, correlations and their scale."""


class _Sizes:
    """What both have in common."""

    def __init__(self, settings: Settings, shape: ModelShape, lengths: np.ndarray) -> None:
        self.shape, self.settings = shape, settings
        self.n_layers = len(sae_layers(settings, shape))
        self.n_features = settings.train.expansion * shape.d_model
        self.k = settings.train.k
        self.lengths = lengths
        self.weights = shape.weight_bytes + BYTES * self.n_layers * 2.0 * shape.d_model * self.n_features
        self.batch = int(np.sort(lengths)[-settings.train.model_batch :].sum())
        """Positions of the longest batch."""

    def pairs(self, n_features: int, k: int) -> float:
        """Pairs of gene and feature with a firing, for a dictionary of one layer."""
        places = float(self.shape.n_tokens) * n_features
        return places * (1 - exp(-float(self.lengths.sum()) * k / places))

    def passing(self) -> float:
        """Bytes of a batch in the model, with the states of all layers kept so far."""
        return BYTES * self.batch * (block_numbers(self.shape) + self.n_layers * self.shape.d_model)

    def encoding(self) -> float:
        """Bytes of a batch in front of an autoencoder, with the states of all layers."""
        # pre-activations, a copy that is put in order, what is above the k-th, and what is taken of them
        numbers = 2.25 * self.n_features + self.n_layers * self.shape.d_model
        return self.batch * (BYTES * numbers + 4 * CODE * self.k)


def catalogue_bytes(settings: Settings, shape: ModelShape, lengths: np.ndarray, associated: bool = True) -> float:
    """Peak of stage `annotate` for cells of these lengths.

    `associated` says whether features are associated with labels of cells.
    """
    sizes, annotate = _Sizes(settings, shape, lengths), settings.annotate
    n_axes = {"pca": shape.d_model, "neurons": shape.d_model, "ica": min(shape.d_model, annotate.baseline_components)}
    beside = [2 * n_axes[kind] for kind in dict.fromkeys(annotate.baselines)]
    n_features, n_active = sizes.n_features + sum(beside), sizes.k * (1 + len(beside))
    pairs = sizes.pairs(sizes.n_features, sizes.k) + sum(sizes.pairs(n, sizes.k) for n in beside)
    n_scored = min(annotate.associate_cells or len(lengths), len(lengths)) if associated else 0
    scores = float(n_scored) * n_features
    held = sizes.weights + (shape.weight_bytes if settings.train.random_weights else 0)
    held += sizes.n_layers * SCORE * scores
    computing = max(sizes.passing(), sizes.encoding())
    counting = computing + sizes.n_layers * (CODE * sizes.batch * n_active + PAIR_COUNTING * pairs)
    testing = sizes.n_layers * PAIR_COUNTED * pairs + max(PAIR_TURNING * pairs, SCORE_TESTED * scores)
    sampled = BYTES * (sizes.n_layers + 4) * annotate.baseline_positions * shape.d_model if beside else 0.0
    return max(LOADING * shape.weight_bytes, held + max(counting, testing, sampled + sizes.passing()))


def structure_bytes(
    settings: Settings, shape: ModelShape, lengths: np.ndarray, structure: StructureSettings | None = None
) -> float:
    """Peak of `cellcircuits structure` for cells of these lengths, without dependencies of traced sources."""
    structure = structure or StructureSettings()
    sizes = _Sizes(settings, shape, lengths)
    pairs_of_features = float(sizes.n_features) ** 2
    n_states = min(structure.svd_positions, float(lengths.sum()))
    states = BYTES * n_states * shape.d_model
    held = sizes.weights + BYTES * (2 * sizes.n_layers - 1) * pairs_of_features + sizes.n_layers * states
    by_gene = sizes.n_layers * 12 * sizes.pairs(sizes.n_features, sizes.k)
    held += sizes.n_layers * BYTES * 2 * min(structure.null_features, sizes.n_features) * sizes.n_features
    codes = sizes.n_layers * (BYTES * shape.d_model + CODE_COUNTED * sizes.k) * sizes.batch
    filled = 1 - exp(-sizes.batch * (sizes.k / sizes.n_features) ** 2)
    products = pairs_of_features * (PRODUCT - 12 + 12 * filled)
    counting = max(sizes.passing(), sizes.encoding(), codes + products) + 1.5 * by_gene
    comparing = by_gene + max(COMPARED * pairs_of_features, 2 * BYTES * n_states * shape.d_model)
    kept = min(KEPT, max(sizes.passing(), sizes.encoding()))
    return max(LOADING * shape.weight_bytes, held + kept + max(counting, comparing))
