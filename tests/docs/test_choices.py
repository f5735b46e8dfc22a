"""Choices of public functions are typed: editors complete them, type checkers refuse others."""

import importlib
import inspect
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

# (function, parameter, module and name of the tuple that it is compared with).
CHOICES = [
    ("topology:persistence", "connectivity", "topology.field:CONNECTIVITIES"),
    ("topology:merge_tree", "connectivity", "topology.field:CONNECTIVITIES"),
    ("topology:match_basins", "connectivity", "topology.field:CONNECTIVITIES"),
    ("topology:total_persistence", "essential", "topology.bars:ESSENTIALS"),
    ("topology:euler_curve", "connectivity", "topology.field:CONNECTIVITIES"),
    ("surveys:survey", "connectivity", "topology.field:CONNECTIVITIES"),
    ("surveys:compare", "connectivity", "topology.field:CONNECTIVITIES"),
    ("surveys:survey", "engine", "landscape.engines.choice:ENGINES"),
    ("landscape.mapping:map_plane", "engine", "landscape.engines.choice:ENGINES"),
    ("landscape.mapping:plan_map", "engine", "landscape.engines.choice:ENGINES"),
    ("landscape.plane:random_plane", "normalization", "landscape.directions:NORMALIZATIONS"),
    ("objective:Objective", "mode", "objective.modes:MODES"),
    ("objective:Objective", "derivatives", "objective.arguments:DERIVATIVES"),
    ("curvature:spectrum", "curvature", "curvature.matrices:KINDS"),
    ("curvature:trace", "curvature", "curvature.matrices:KINDS"),
    ("curvature:spectrum", "by", "curvature.groups:BY"),
    ("curvature:fisher", "likelihood", "curvature.matrices:LIKELIHOODS"),
    ("curvature:activations", "reduce", "curvature.activations:REDUCTIONS"),
    ("curvature:activations", "side", "curvature.activations:SIDES"),
    ("weights:align", "by", "weights.align:WAYS"),
    ("weights:connect", "kind", "weights.paths:KINDS"),
    ("weights:connect", "repair", "weights.connect:REPAIRS"),
    ("weights:edit_curve", "score", "weights.edit:SCORES"),
    ("weights:factors", "likelihood", "curvature.matrices:LIKELIHOODS"),
    ("weights:window_fisher", "unit", "weights.window:UNITS"),
    ("steering.penalties.sasp:sasp_penalty", "kind", "steering.penalties.sasp:KINDS"),
    ("steering.penalties.sasp:sasp_penalty", "head", "steering.penalties.sasp:HEADS"),
    ("steering.penalties.cvp:cvp_penalty", "mode", "steering.penalties.cvp:MODES"),
    ("surveys:survey", "executor", "executor:EXECUTORS"),
    ("landscape.mapping:map_plane", "executor", "executor:EXECUTORS"),
    ("recipes:train_recipes", "executor", "executor:EXECUTORS"),
    ("steering:WSD", "shape", "cooldown:SHAPE_NAMES"),
    ("forecast.schedules:wsd", "shape", "cooldown:SHAPE_NAMES"),
]


def named(place):
    room, _, name = place.partition(":")
    return getattr(importlib.import_module(f"lossatlas.{room}"), name)


@pytest.mark.parametrize(("function", "parameter", "names"), CHOICES)
def test_the_annotation_and_the_check_have_one_home(function, parameter, names):
    found = named(function)
    start = inspect.unwrap(found.__init__ if isinstance(found, type) else found)
    hint = get_type_hints(start)[parameter]
    parts = [hint] if get_origin(hint) is Literal else get_args(hint)
    (choices,) = [get_args(part) for part in parts if get_origin(part) is Literal]
    assert choices == tuple(named(names))


@pytest.mark.parametrize("room", ["topology", "curvature", "weights", "forecast", "report"])
def test_completion_offers_public_names_only(room):
    module = importlib.import_module(f"lossatlas.{room}")
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in dir(module))
