"""An Equinox model, whose kernels lie as Torch's do, [out, in]."""

from functools import partial
from typing import Any

import jax
from drawn import BATCH, CLASSES, classified, seeded
from port import Port, Wrong
from torch import nn

WIDTH = 5


@seeded
def torch_model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, CLASSES)
    )


def jax_model(
    epsilon: float = 1e-5, approximate: bool = False, used: bool = True, norm_last: bool = False
) -> Any:
    """used: whether the norm's scale and bias are."""
    import equinox as eqx

    class Net(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        last: eqx.nn.Linear

        def __call__(self, x: jax.Array) -> jax.Array:  # one example
            def norm(x: jax.Array) -> jax.Array:
                one = self.norm(x)
                return one if used else (one - self.norm.bias) / self.norm.weight

            def gelu(x: jax.Array) -> jax.Array:
                return jax.nn.gelu(x, approximate=approximate)

            h = self.first(x)
            return self.last(norm(gelu(h)) if norm_last else gelu(norm(h)))

    one, two = jax.random.split(jax.random.key(0))
    return Net(
        eqx.nn.Linear(WIDTH, WIDTH, key=one),
        eqx.nn.LayerNorm(WIDTH, eps=epsilon),
        eqx.nn.Linear(WIDTH, CLASSES, key=two),
    )


def weights(torchs: dict[str, Any], turned: bool = False) -> dict[str, Any]:
    first = torchs["0.weight"]
    return {
        "first.weight": first.T if turned else first,
        "first.bias": torchs["0.bias"],
        "norm.weight": torchs["1.weight"],
        "norm.bias": torchs["1.bias"],
        "last.weight": torchs["3.weight"],
        "last.bias": torchs["3.bias"],
    }


def wrong(name: str, says: str, **change: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", change)


FAMILIES = (
    Port(
        "Equinox",
        torch_model,
        jax_model,
        classified(WIDTH),
        weights=weights,
        options=BATCH,
        needs="equinox",
        wrong=(
            wrong(
                "square kernel turned",
                "to [in, out], as Flax has it",
                weights=partial(weights, turned=True),
            ),
            wrong("tanh gelu", "JAX's default is kept", jax=partial(jax_model, approximate=True)),
            wrong("epsilon 1e-6 for 1e-5", "Flax's default", jax=partial(jax_model, epsilon=1e-6)),
            wrong(
                "norm's scale and bias left out",
                "they are loaded and never used",
                jax=partial(jax_model, used=False),
            ),
            wrong(
                "norm after the activation",
                "two lines change places",
                jax=partial(jax_model, norm_last=True),
            ),
        ),
    ),
)
