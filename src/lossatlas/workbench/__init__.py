"""Data, models, losses and trainings by name: something to measure at once."""

from lossatlas.arguments import guard_exports
from lossatlas.workbench.checkpoints import load_weights
from lossatlas.workbench.criteria import Criterion, build_loss
from lossatlas.workbench.dataset import Dataset
from lossatlas.workbench.datasets import load_dataset
from lossatlas.workbench.ensemble import EnsembleRun, train_ensemble
from lossatlas.workbench.evaluation import evaluate_ensemble
from lossatlas.workbench.models import build_model, initial_weights, normalisation_of
from lossatlas.workbench.training import Tick, TrainingRun, train

__all__ = [
    "Criterion",
    "Dataset",
    "EnsembleRun",
    "Tick",
    "TrainingRun",
    "build_loss",
    "build_model",
    "evaluate_ensemble",
    "initial_weights",
    "load_dataset",
    "load_weights",
    "normalisation_of",
    "train",
    "train_ensemble",
]

guard_exports(__name__)
