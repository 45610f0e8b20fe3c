"""The states of Python's and NumPy's global generators, as arrays: those of no framework."""

import random

import numpy as np

from mlp_core.packing import Arrays


def held() -> Arrays:
    """Both states. Raises TypeError for a NumPy generator that was exchanged for another kind."""
    version, words, spare = random.getstate()
    own = np.random.get_state(legacy=True)
    if not isinstance(own, tuple) or own[0] != "MT19937":
        raise TypeError("numpy.random: expected the MT19937 that it begins with")
    return {
        "python": np.array([version, *words], np.uint64),
        "python spare": np.array([] if spare is None else [spare], np.float64),
        "numpy": np.array(own[1], np.uint32),
        "numpy place": np.array(own[2:4], np.int64),
        "numpy spare": np.array(own[4], np.float64),
    }


def restore(states: Arrays) -> None:
    """Put both back. Raises KeyError, TypeError or ValueError for what `held` didn't give."""
    version, *words = states["python"].tolist()
    spare = states["python spare"].tolist()
    place, has_spare = states["numpy place"].tolist()
    numpy_spare = float(states["numpy spare"])
    np.random.set_state(("MT19937", states["numpy"], place, has_spare, numpy_spare))
    random.setstate((version, tuple(words), spare[0] if spare else None))
