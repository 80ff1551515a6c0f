"""The experiments in the order of the report."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cellcircuits.answers import Found
from cellcircuits.intervention_settings import Experiment
from cellcircuits.interventions.inputs import Inputs


@dataclass(frozen=True)
class Study:
    """One experiment: the module of its name here, and the figures of that name in `figures/`."""

    name: Experiment
    title: str
    paper: str = ""
    """What the follow-up study calls it."""

    def ask(self, inputs: Inputs) -> Found:
        """Tables and answers."""
        return import_module(f"cellcircuits.interventions.{self.name}").ask(inputs)

    def draw(self, found: Found) -> dict[str, Any]:
        """Figures by name."""
        return import_module(f"cellcircuits.figures.{self.name}").draw(found)


STUDIES = (
    Study("effects", "What does the intervention do to the features above?"),
    Study("dose_response", "How do effects grow with the dose?", "steering, dose dependence"),
    Study("interactions", "Do features act together?", "triplets, super- and sub-additivity"),
    Study(
        "output_effects", "Which genes does the model predict differently?", "causal patching, specificity of logits"
    ),
    Study("faithfulness", "Do circuits carry what the model computes?"),
    Study("importance", "Do hubs matter more than other features?", "functional importance of hubs"),
    Study("attribution", "What drives a target?"),
    Study("gene_perturbation", "Does perturbing a gene do what changing its feature does?", "in silico perturbation"),
)
