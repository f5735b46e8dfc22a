"""Pictures of results: `plot_*` draws with matplotlib, `*_figure` with plotly.

All take results and return axes or figures; none shows or saves. The names load on first
use, so that a page needs no matplotlib and a picture no plotly.
"""

import lazy_loader

from lossatlas.arguments import public

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    value = _load(name)
    if name in __all__ and callable(value):
        globals()[name] = value = public(value)
    return value
