"""Map, measure and steer the loss landscape of any PyTorch model.

The public names live in `__init__.pyi` and load on first use, so that
`import lossatlas` costs nothing and `lossatlas --help` answers at once.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
