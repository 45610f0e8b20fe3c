"""The models of an exercise."""

from typing import Any

from parity.config.exercises import Setting
from parity.studies.sweep.outcome import CLASSES


def build(setting: Setting, kind: str, seed: int) -> Any:
    """The model of a setting with the initial weights of a seed."""
    import jax_mlp

    jax_mlp.manual_seed(seed)
    own = {} if setting.sigma is None else {"sigma": setting.sigma}
    options: dict[str, Any] = {"activation": setting.activation, **own}
    if kind == "scratch":
        return jax_mlp.MLPScratch(784, CLASSES, setting.hiddens, setting.lr, **options)
    return jax_mlp.MLP(CLASSES, setting.hiddens, setting.lr, **options)
