from .scale import Scale as Scale
from .scale import scale_of as scale_of
from .trainings import intervals_figure as intervals_figure
from .trainings import traces_figure as traces_figure
