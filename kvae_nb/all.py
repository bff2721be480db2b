"""Everything public: `from kvae_nb.all import *`."""

from kvae_nb import app, core, data, evaluation, inference, models, training, worlds
from kvae_nb.core import *
from kvae_nb.worlds import *
from kvae_nb.inference import *
from kvae_nb.data import *
from kvae_nb.models import *
from kvae_nb.evaluation import *
from kvae_nb.training import *
from kvae_nb.app import *

__all__ = sorted(
    {n for wing in (core, worlds, inference, data, models, evaluation, training, app) for n in wing.__all__}
)
