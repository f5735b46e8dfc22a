from .errors import AtlasError as AtlasError
