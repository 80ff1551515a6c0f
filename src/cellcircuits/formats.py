"""The version of everything that is written to disk, and names that several stages share."""

FORMAT_VERSION = 1
"""Raised when an artifact changes its meaning; newer artifacts are refused."""
RANDOM_WEIGHTS = "random_weights"
"""The model with random weights: the name of its folders, its plan and its row among the controls."""
AUTOENCODER = "autoencoder"
"""The autoencoders of a run, where their features stand beside those of other dictionaries."""
