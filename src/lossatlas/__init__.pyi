from . import store as store
from .errors import AtlasError as AtlasError
from .objective import Objective as Objective
from .objective import accuracy as accuracy
from .objective import supervised as supervised
from .landscape.landscape import Landscape as Landscape
from .store import load as load
