import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from lossatlas.errors import ArgumentError, DataError, UnknownNameError
from lossatlas.topology import persistence
from lossatlas.topology.rips import rips
from lossatlas.topology.transformer import KINDS, BarcodeFeatures


def rough_and_calm(count=12):
    rng = np.random.default_rng(0)
    fields = [rng.standard_normal((12, 12)) * (0.2 + k % 2) for k in range(count)]
    return [persistence(f) for f in fields], np.arange(count) % 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_finite_cloneable_and_separates_in_a_pipeline(kind):
    diagrams, labels = rough_and_calm()
    features = BarcodeFeatures(kind, resolution=8)
    table = clone(features).fit_transform(diagrams)
    assert table.shape == (12, features.fit(diagrams).n_features_out_)
    assert np.isfinite(table).all()
    model = make_pipeline(clone(features), LogisticRegression(max_iter=5000))
    assert model.fit(diagrams, labels).score(diagrams, labels) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_flat_barcodes_are_served(kind):
    empty = np.empty((0, 2))
    assert np.isfinite(BarcodeFeatures(kind, resolution=4).fit_transform([empty])).all()
    cloud = rips([[0.0], [1.0], [3.0]], dimensions=(0,))
    table = BarcodeFeatures(kind, resolution=4).fit([cloud]).transform([cloud, empty])
    assert np.isfinite(table).all()
    assert not table[1].any()


def test_no_rows_give_an_empty_table():
    assert BarcodeFeatures(resolution=5).fit([[[0.0, 1.0]]]).transform([]).shape == (0, 5)


def test_bad_use_is_named():
    with pytest.raises(NotFittedError):
        BarcodeFeatures().transform([[[0.0, 1.0]]])
    with pytest.raises(DataError, match="at least one diagram"):
        BarcodeFeatures().fit([])
    with pytest.raises(DataError, match="at least one diagram"):
        BarcodeFeatures().fit(None)
    with pytest.raises(UnknownNameError, match="'betti'"):
        BarcodeFeatures("beti").fit([[[0.0, 1.0]]])
    with pytest.raises(ArgumentError, match="resolution"):
        BarcodeFeatures(resolution=0).fit([[[0.0, 1.0]]])
    with pytest.raises(ArgumentError, match="every bar an end"):
        BarcodeFeatures(essential="keep").fit([[[0.0, np.inf]]])
