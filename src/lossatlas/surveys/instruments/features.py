"""Representations in a survey: ranks, neural collapse, likeness to an earlier network."""

from collections.abc import Mapping
from typing import Any

import torch

from lossatlas.curvature import (
    NeuralCollapse,
    alpha_req,
    cka,
    effective_rank,
    neural_collapse,
    rankme,
)
from lossatlas.errors import ArgumentError, DataError
from lossatlas.result import Estimate
from lossatlas.surveys.context import Context, Parts
from lossatlas.surveys.head import head_classes, read_head
from lossatlas.surveys.instrument_result import Quantity, estimated


def measure_representations(site: Context) -> Parts:
    """How many directions the features of the last layer use."""
    seed = site.seed
    return {
        "rankme": lambda: rankme(site.head.features, seed=seed),
        "effective_rank": lambda: effective_rank(site.head.features, seed=seed),
        "participation": lambda: effective_rank(site.head.features, "participation", seed=seed),
        "alpha_req": lambda: alpha_req(site.head.features, seed=seed),
    }


def read_representations(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_representations`."""
    names = {
        "rankme": ("RankMe", "exp of the entropy of singular values, features as they are"),
        "effective_rank": (
            "effective rank",
            "the same of features centered",
        ),
        "participation": ("participation ratio", "of the covariance's eigenvalues"),
        "alpha_req": ("alpha-ReQ", "decay of the covariance's eigenvalues, i^-alpha"),
    }
    return tuple(estimated(n, results[k], m) for k, (n, m) in names.items() if k in results)


def measure_collapse(site: Context) -> Parts:
    """Neural collapse of the features of the last layer."""
    return {"collapse": lambda: _collapse(site)}


def _collapse(site: Context) -> NeuralCollapse:
    head, classes = site.head, head_classes(site.objective)
    present = torch.unique(classes)
    if len(head.weight) <= int(present.max()):
        raise DataError(
            f"the head '{head.name}' gives {len(head.weight)} numbers, but a class is called "
            f"{int(present.max())}: collapse needs a head with a row for each class."
        )
    rows = present.to(head.weight.device)
    bias = None if head.bias is None else head.bias[rows]
    return neural_collapse(head.features, classes, head.weight[rows], bias, seed=site.seed)


def read_collapse(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_collapse`."""
    found = results["collapse"]
    return (
        estimated("NC1", found.within, "scatter within classes over that between them"),
        estimated("NC2, lengths", found.norms, "how unequal the class means are in length"),
        estimated("NC2, angles", found.angles, "how far their cosines are from a simplex"),
        estimated("NC2, orthogonal", found.orthogonal, "mean |cosine|", is_minor=True),
        estimated("NC3", found.self_dual, "distance of the classifier from the class means"),
        estimated("NC4", found.nearest, "share where the nearest class mean disagrees"),
    )


def measure_similarity(site: Context) -> Parts:
    """How like the features are to those of earlier checkpoints."""
    last = len(site.checkpoints) - 1
    return {"start": lambda: _alike(site, 0), "middle": lambda: _alike(site, last // 2)}


def _alike(site: Context, index: int) -> Estimate:
    if len(site.checkpoints) < 2:
        raise ArgumentError(
            "likeness needs two checkpoints of the training; pass checkpoints= (the command "
            "keeps them where it trains: --set train.steps=400)"
        )
    before = read_head(site.objective, site.checkpoints[index])
    return cka(before.features, site.head.features, seed=site.seed)


def read_similarity(results: Mapping[str, Any]) -> tuple[Quantity, ...]:
    """The numbers of `measure_similarity`."""
    names = {"start": "CKA with the first checkpoint", "middle": "CKA with half-way"}
    meaning = "debiased linear kernel alignment of the features of the last layer"
    return tuple(estimated(n, results[k], meaning) for k, n in names.items() if k in results)
