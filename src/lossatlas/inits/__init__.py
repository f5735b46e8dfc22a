"""Which initialization will train best: five stages, each resumable, and a daily ranking.

The names load on first use, so that settings can be read without importing torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
