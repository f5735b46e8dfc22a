"""Pictures of results: `plot_*` draws with matplotlib, `*_figure` with plotly.

All take results and return axes or figures; none shows or saves. The names load on first
use, so that a page needs no matplotlib and a picture no plotly.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
