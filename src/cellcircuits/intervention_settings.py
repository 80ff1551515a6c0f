"""Settings of `cellcircuits interventions`; not part of a run's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from cellcircuits.errors import SettingsError
from cellcircuits.ranges import PROBABILITY, check_ranges

Experiment = Literal[
    "effects",
    "dose_response",
    "interactions",
    "output_effects",
    "faithfulness",
    "importance",
    "attribution",
    "gene_perturbation",
]
EXPERIMENTS: tuple[Experiment, ...] = Experiment.__args__  # type: ignore[attr-defined]
"""In the order of the report."""


@dataclass(frozen=True)
class InterventionSettings:
    """What is done to features beyond removing them one by one, and what is measured."""

    experiments: list[Experiment] = field(default_factory=lambda: list(EXPERIMENTS))
    """Which experiments to run. One that is done stays, while its settings and inputs are the same."""
    features: list[str] = field(default_factory=list)
    """Features to intervene on, as "layer:feature" ("0:12"); empty: the sources with the most edges."""
    n_features: int = 12
    """How many of those, evenly over the source layers."""
    kind: Literal["zero", "mean", "resample", "scale", "clamp", "patch"] = "zero"
    """What becomes of a feature's activation, in all experiments but dose response, faithfulness and attribution.
    "zero": 0. "mean", "resample": its mean, or a random value, in other cells. "scale", "clamp": `amount` times as
    large, or `amount`. "patch": its mean at the same gene in the cells of `from_group`."""
    amount: float = 0.0
    """Factor of "scale", value of "clamp"."""
    positions: Literal["active", "all"] = "active"
    """Where: at gene positions where the feature is active, or at all."""
    group_by: str = ""
    """obs column of `from_group` and `to_group`."""
    from_group: str = ""
    """Cells whose activations are put in the place of others ("mean", "resample", "patch"); empty: all cells."""
    to_group: str = ""
    """Cells in which the intervention is made; empty: all cells."""
    n_cells: int = 60
    """Cells in which it is made, at random; 0: all."""
    reference_cells: int = 200
    """Cells whose activations are put in the place of others, at random; 0: all."""
    batch_size: int = 16
    """Copies of a cell per pass, at most; changes speed and memory only."""
    random_directions: int = 8
    """Control directions per feature: random, of the norm of the feature's own."""
    masked_share: float = 0.15
    """Share of each cell's genes that are hidden where the loss of predicting them is measured; at least one gene."""
    max_q: float = 0.05
    """Largest Benjamini-Hochberg q of an effect."""
    min_cells: int = 10
    """Fewest cells in which an effect is observed."""
    seed: int = 0
    """Seed of every draw."""

    doses: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.5, 2.0, 3.0, 5.0])
    """Dose response: factors of the feature's activation; 1 is the undisturbed cell."""
    dose_targets: int = 10
    """Dose response: strongest edges of each feature that are followed."""

    perturb_genes: list[str] = field(default_factory=list)
    """Gene perturbation: symbols or ids of genes to perturb; empty: of each feature the best of its top genes."""
    perturb_top_genes: int = 1
    """Gene perturbation: how many of its top genes a feature is compared with, the best that enough cells have."""
    perturb_kind: Literal["delete", "overexpress"] = "delete"
    """Gene perturbation: "delete" takes the gene out of the input; "overexpress" gives it the highest rank or value."""
    perturb_controls: int = 2
    """Gene perturbation: other genes of similar expression per gene, to compare with."""
    perturb_cells: int = 16
    """Gene perturbation: cells in which a gene is perturbed, at most, at random of those that have it; at least
    min_cells. 0: all."""
    perturb_layers: list[int] = field(default_factory=list)
    """Gene perturbation: layers whose features are measured; empty: all with an autoencoder."""
    interaction_pairs: int = 6
    """Interactions: pairs of features in each panel; all pairs of named features up to so many."""
    interaction_triplets: int = 2
    """Interactions: triplets of features in each panel; all triplets of named features up to so many."""
    output_control_cells: int = 30
    """Output effects: of the cells, how many are for random directions too; 0: all. Own and random directions are
    compared in these."""
    probe_columns: list[str] = field(default_factory=list)
    """Output effects: obs columns that a linear readout of the last layer learns, labels (cell type) or numbers
    (pseudotime); empty: the column by which the cells were grouped or drawn, or "cell_type"."""
    probe_signature: list[str] = field(default_factory=list)
    """Output effects: gene symbols whose mean output, against that of all other genes, is one more readout."""
    probe_cells: int = 300
    """Output effects: cells without interventions that the readouts learn from and are tested on; 0: all."""
    probe_penalty: float = 20.0
    """Output effects: penalty on squared weights of the readouts (ridge alpha; 1 / C of the logistic regression)."""
    circuit_sizes: list[int] = field(default_factory=lambda: [10, 50, 250])
    """Faithfulness: features of the circuits; those with the strongest edges come first."""
    circuit_random: int = 29
    """Faithfulness: random circuits that each is compared with; p is not below 1 / (1 + circuit_random)."""
    circuit_cells: int = 4
    """Faithfulness: cells, of those in which interventions are made, at random; 0: all."""

    importance_hubs: int = 10
    """Importance: sources with the most edges; named `features` take their place."""
    importance_controls: int = 2
    """Importance: features of the nearest firing rate that each hub is compared with."""
    attribution_target: str = ""
    """Attribution: what is to be explained, a feature "layer:feature" or an output gene "gene:SYMBOL"; empty: the
    feature with the most incoming edges."""
    attribution_steps: int = 1
    """Attribution: 1: the gradient of the undisturbed cell, one backward pass for all layers. More: integrated
    gradients of so many steps for every layer."""
    attribution_candidates: int = 20
    """Attribution: features with the largest attribution that are then removed one by one."""
    attribution_slice: int = 60
    """Attribution: random features that are removed as well, to compare attribution with removal."""

    def __post_init__(self) -> None:
        check_ranges(self, *PROBABILITY, "max_q")
        check_ranges(self, 1, inf, "n_features", "batch_size", "dose_targets")
        check_ranges(self, 2, inf, "min_cells")
        check_ranges(self, 1, inf, "attribution_steps", "attribution_candidates")
        check_ranges(self, 0, inf, "attribution_slice")
        if self.attribution_target:
            parse_target(self.attribution_target)
        check_ranges(self, 0, inf, "n_cells", "reference_cells", "random_directions", "seed")
        check_ranges(self, 1, inf, "perturb_controls", "perturb_top_genes")
        check_ranges(self, 0, inf, "perturb_cells")
        check_ranges(self, 0, inf, "interaction_pairs", "interaction_triplets")
        check_ranges(self, 0, inf, "output_control_cells", "probe_cells")
        check_ranges(self, 1e-6, inf, "probe_penalty")
        check_ranges(self, *PROBABILITY, "masked_share")
        check_ranges(self, 2, inf, "circuit_random", "importance_hubs")
        check_ranges(self, 1, inf, "importance_controls")
        check_ranges(self, 0, inf, "circuit_cells")
        if not self.circuit_sizes or min(self.circuit_sizes) < 1:
            raise SettingsError(f"`circuit_sizes` needs numbers of features, 1 or more; found {self.circuit_sizes}.")
        if not self.experiments or set(self.experiments) - set(EXPERIMENTS):
            raise SettingsError(f"`experiments` must name some of {', '.join(EXPERIMENTS)}; found {self.experiments}.")
        for feature in self.features:
            parse_feature(feature)
        if self.kind == "patch" and not self.from_group:
            raise SettingsError('kind = "patch" needs the cells that are patched from: set group_by and from_group.')
        if (self.from_group or self.to_group) and not self.group_by:
            raise SettingsError("from_group and to_group are labels of an obs column: set group_by.")
        if not self.doses or max(self.doses) <= 1:
            raise SettingsError(
                f"`doses` needs a factor above 1, to see what more of a feature does; found {self.doses}."
            )


def parse_feature(text: str) -> tuple[int, int]:
    """(layer, feature) of "layer:feature".

    Raises
    ------
    SettingsError
        If it is something else.
    """
    layer, _, feature = text.partition(":")
    if not (layer.isdecimal() and feature.isdecimal()):
        raise SettingsError(f'A feature is written "layer:feature", for example "0:12"; found {text!r}.')
    return int(layer), int(feature)


def parse_target(text: str) -> tuple[int, int] | str:
    """(layer, feature) of "layer:feature", or the symbol of "gene:SYMBOL".

    Raises
    ------
    SettingsError
        If it is something else.
    """
    kind, _, symbol = text.partition(":")
    if kind == "gene" and symbol:
        return symbol
    try:
        return parse_feature(text)
    except SettingsError:
        raise SettingsError(
            f'A target is written "layer:feature" or "gene:SYMBOL", for example "2:12" or "gene:CD3D"; found {text!r}.'
        ) from None
