"""A trained perceptron as programs that stand alone, loaded back and judged."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

import jax_mlp
import jax_mlp.checkpoint
from mlp_core.files import write_atomically, write_json
from mlp_core.weights import Weights
from parity.comparison import Comparison, compare
from parity.config.export import ExportConfig
from parity.environment import environment
from parity.exits import Refused
from parity.rounding.bound import bound
from parity.sides.jax_export import PLATFORMS, exported_jax, loaded_jax
from parity.sides.pairs import plain_settings, torch_with
from parity.sides.reference import room
from parity.sides.torch_export import exported_onnx, loaded_onnx, onnx_lacks

BATCHES = (1, 7)  # other sizes than were traced
Run = Callable[[np.ndarray], np.ndarray]


@plain_settings()
def run(config: ExportConfig) -> list[Comparison]:
    """Write what is asked for, load it back, compare its logits. Raises WeightsError, Refused."""
    weights = Weights.load(config.weights)
    if "onnx" in config.formats and (lacks := onnx_lacks()):
        raise Refused(
            f"ONNX needs {lacks}: pip install 'mlp-parity[onnx]', or write --formats jax alone"
        )
    inputs, *hiddens, outputs = weights.sizes
    if not hiddens:
        raise Refused(f"{config.weights}: one layer, expected a hidden one at least")
    options: dict[str, Any] = {"activation": config.activation}
    if config.model == "scratch":
        model: Any = jax_mlp.MLPScratch(inputs, outputs, hiddens, 0.1, **options)
    else:
        model = jax_mlp.MLP(outputs, hiddens, 0.1, inputs, **options)
    jax_mlp.checkpoint.set_weights(model, weights)
    written: dict[str, bytes] = {}
    loaded: dict[str, Run] = {}
    if "jax" in config.formats:
        written["model.jax-export"] = content = exported_jax(model, inputs)
        loaded["jax.export"] = loaded_jax(content)
    if "onnx" in config.formats:
        theirs = torch_with(config.model, weights, config.activation)
        written["model.onnx"] = content = exported_onnx(theirs, inputs)
        name, function = loaded_onnx(content)
        loaded[name] = function
    found = [*_judged(model, loaded, inputs)]
    for file, content in written.items():
        write_atomically(config.out / file, content)
    about = {
        "sizes": list(weights.sizes),
        "activation": config.activation,
        "jax platforms": list(PLATFORMS),
        "files": {file: hashlib.sha256(c).hexdigest() for file, c in written.items()},
        "comparisons": [asdict(c) for c in found],
        **environment(),
    }
    write_json(config.out / "export.json", about)
    return found


def _judged(model: Any, loaded: dict[str, Run], inputs: int) -> list[Comparison]:
    """Each program's logits against their float64 value, within float32's rounding bound."""
    rng, found = np.random.default_rng(0), []
    for batch in BATCHES:
        X = rng.random((batch, inputs), np.float32)
        b = bound(lambda X: model(X), X)
        for name, function in loaded.items():
            what = f"logits of a batch of {batch}"
            sides = (name, "float64")
            found.append(compare(function(X), b.value, room(b.bound), name=what, sides=sides))
    return found
