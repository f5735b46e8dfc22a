"""File input and output: results, weights, and the ledger of unfinished work.

Nothing is unpickled, so untrusted files can be opened.
"""

from lossatlas.arguments import guard_exports
from lossatlas.io.checkpoints import Checkpoint, load_checkpoint
from lossatlas.io.files import make_folder, writing
from lossatlas.io.ledger import Ledger, open_ledger, remove_ledger
from lossatlas.io.lock import occupied
from lossatlas.io.provenance import Provenance, run_identity
from lossatlas.io.records import from_bytes, to_bytes
from lossatlas.io.results import below, kind, load, nested, save

__all__ = [
    "Checkpoint",
    "Ledger",
    "Provenance",
    "below",
    "from_bytes",
    "kind",
    "load",
    "load_checkpoint",
    "make_folder",
    "nested",
    "occupied",
    "open_ledger",
    "remove_ledger",
    "run_identity",
    "save",
    "to_bytes",
    "writing",
]

guard_exports(__name__)
