import importlib
import re

import pytest

from lossatlas.io import results
from lossatlas.report.results import kind_in_words

for room in ("forecast", "recipes", "steering", "topology", "weights"):
    importlib.import_module(f"lossatlas.{room}")


@pytest.mark.parametrize("kind", sorted(results._KINDS))
def test_a_page_names_a_kind_as_people_write_it(kind):
    assert re.fullmatch(r"[A-Z][A-Za-z]+( [a-z]+)*", kind_in_words(kind))
