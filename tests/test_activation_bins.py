"""Histograms of activations, against a loop over activations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import scipy.sparse as sp

from cellcircuits.activation_bins import HIGHEST, LOWEST, N_BINS, bin_rows, count_by_bin
from cellcircuits.catalogue import count_firings


def test_counts_equal_a_loop_and_add_up_over_batches():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((200, 5)) < 0.3, np.exp(rng.normal(size=(200, 5))), 0).astype(np.float32)
    dense[:, 3] = 0
    expected = Counter()
    for row in dense:
        for feature, value in enumerate(row):
            for at in range(N_BINS):
                if value > 0 and 2 ** (at / 2 + LOWEST) <= value < 2 ** ((at + 1) / 2 + LOWEST):
                    expected[feature, at] += 1
    counts = count_by_bin(sp.csr_matrix(dense[:70])) + count_by_bin(sp.csr_matrix(dense[70:]))
    assert {(f, b): n for (f, b), n in np.ndenumerate(counts) if n} == expected
    rows = bin_rows(counts)
    assert rows["n_positions"].sum() == (dense > 0).sum() and 3 not in set(rows["feature"])
    np.testing.assert_allclose(rows["high"] / rows["low"], 2**0.5)


def test_values_at_the_ends_and_beyond_have_a_bin():
    values = np.array([[2.0**LOWEST, 1e-30, 1.0, 2.0**HIGHEST, 1e30]], dtype=np.float32)
    counts = count_by_bin(sp.csr_matrix(values))
    assert list(np.argmax(counts, axis=1)) == [0, 0, -2 * LOWEST, N_BINS - 1, N_BINS - 1]
    assert (counts.sum(axis=1) == 1).all()


def test_no_activation_gives_no_rows():
    assert bin_rows(count_by_bin(sp.csr_matrix((10, 4), dtype=np.float32))).empty


def test_the_catalogue_counts_every_firing_once(model, tokens):
    sums = count_firings(model, tokens, model.saes(), 16)
    for found in sums.values():
        np.testing.assert_array_equal(found.by_bin.sum(axis=1), np.asarray(found.firings.sum(axis=1)).ravel())
