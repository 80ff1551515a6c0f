"""How large a feature's activations are: counts in bins of half an octave, the same bins for every feature and model.

Bin b holds activations a with 2^(b/2 + LOWEST) <= a < 2^((b+1)/2 + LOWEST); what lies outside is counted in the first
or last bin. So counts of batches add up, and no second pass is needed to know the range.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

LOWEST, HIGHEST = -10, 14
"""Exponents of 2 of the smallest and largest activation that have bins of their own."""
N_BINS = 2 * (HIGHEST - LOWEST)


def count_by_bin(codes: sp.csr_matrix) -> np.ndarray:
    """int64 (feature, bin): activations of each feature in each bin, from codes (position, feature) above 0."""
    bins = np.floor(2 * (np.log2(codes.data) - LOWEST)).astype(np.int64).clip(0, N_BINS - 1)
    counts = np.bincount(codes.indices * np.int64(N_BINS) + bins, minlength=codes.shape[1] * N_BINS)
    return counts.reshape(codes.shape[1], N_BINS)


def bin_rows(counts: np.ndarray) -> pd.DataFrame:
    """Columns feature, low, high, n_positions: the bins that hold any activation, from counts (feature, bin)."""
    feature, at = np.nonzero(counts)
    low, high = 2.0 ** (at / 2 + LOWEST), 2.0 ** ((at + 1) / 2 + LOWEST)
    return pd.DataFrame({"feature": feature, "low": low, "high": high, "n_positions": counts[feature, at]})
