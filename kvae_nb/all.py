"""Everything public: `from kvae_nb.all import *`. A name that two packages use for different things is left out, unless
it stands at the top of the library (`kvae_nb.NAMES`)."""

from collections import Counter

import kvae_nb
from kvae_nb import app, core, data, evaluation, inference, models, training, worlds

found = [
    (n, package)
    for package in (core, worlds, inference, data, models, evaluation, training, app)
    for n in package.__all__
]
count = Counter(n for n, _ in found)
public = {n: getattr(package, n) for n, package in found if count[n] == 1} | {
    n: getattr(kvae_nb, n) for n in kvae_nb.NAMES
}
globals().update(public)
__all__ = sorted(public)
