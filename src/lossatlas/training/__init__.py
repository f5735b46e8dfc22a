"""Data sets, models, losses and training by name."""

from lossatlas.arguments import guard_exports
from lossatlas.training.checkpoints import load_weights
from lossatlas.training.criteria import Criterion, build_loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.datasets import load_dataset
from lossatlas.training.ensemble import EnsembleRun, train_ensemble
from lossatlas.training.evaluation import evaluate_ensemble
from lossatlas.training.models import build_model, initial_weights, normalization_of
from lossatlas.training.scaled import SCALED_FAMILIES, ScaledFamily, ScaledLinear, scaled_mlp
from lossatlas.training.training import StepInfo, TrainingRun, train

__all__ = [
    "SCALED_FAMILIES",
    "Criterion",
    "Dataset",
    "EnsembleRun",
    "ScaledFamily",
    "ScaledLinear",
    "StepInfo",
    "TrainingRun",
    "build_loss",
    "build_model",
    "evaluate_ensemble",
    "initial_weights",
    "load_dataset",
    "load_weights",
    "normalization_of",
    "scaled_mlp",
    "train",
    "train_ensemble",
]

guard_exports(__name__)
