"""Everything that touches the disk: results, weights, and the ledger of unfinished work.

Nothing here is unpickled: a file from a stranger can be opened.
"""

from lossatlas.arguments import guard_exports
from lossatlas.store.checkpoints import Checkpoint, load_checkpoint
from lossatlas.store.files import make_folder, writing
from lossatlas.store.ledger import Ledger, open_ledger, remove_ledger
from lossatlas.store.lock import occupied
from lossatlas.store.provenance import Provenance, run_identity
from lossatlas.store.records import from_bytes, to_bytes
from lossatlas.store.results import below, kind, load, nested, save

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
