"""Gradients clipped by their norm, and layers that aren't trained."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from attention import linear, params_of
from drawn import BATCH, CLASSES, classified, seeded
from optimisers import KERNEL, trained, wrongly
from port import Port, Wrong
from torch import nn

NORM, FAR, RATE, MOMENTUM = 0.1, 1e3, 0.1, 0.9
INPUTS, WIDTH, LR, DECAY = 5, 4, 1e-2, 1e-1


def torch_clipped(parameters: Any, norm: float = NORM) -> torch.optim.Optimizer:
    parameters = list(parameters)
    optimizer = torch.optim.SGD(parameters, RATE, momentum=MOMENTUM)

    def clip(optimizer: Any, args: Any, kwargs: Any) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def by_norm(norm: float = NORM) -> optax.GradientTransformation:
    """Torch's rule: g min(1, norm / (|g| + 1e-6)). optax's has no 1e-6."""

    def clip(grads: Any, params: Any) -> Any:
        factor = jnp.minimum(1, norm / (optax.tree.norm(grads) + 1e-6))
        return jax.tree.map(lambda g: g * factor, grads)

    return optax.stateless(clip)


def each_by_norm(norm: float = NORM) -> optax.GradientTransformation:
    def clip(g: jax.Array) -> jax.Array:
        return g * jnp.minimum(1, norm / (jnp.sqrt((g**2).sum()) + 1e-6))

    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads))


def normalised(norm: float = NORM) -> optax.GradientTransformation:
    def scale(grads: Any, params: Any) -> Any:
        factor = norm / (optax.tree.norm(grads) + 1e-6)
        return jax.tree.map(lambda g: g * factor, grads)

    return optax.stateless(scale)


sgd = optax.sgd(RATE, MOMENTUM)
torch_far = partial(torch_clipped, norm=FAR)
not_clipped, not_far = wrongly(torch_clipped), wrongly(torch_far)


class Frozen(nn.Module):
    """The body is frozen, and one head is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(INPUTS, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.unused = nn.Linear(WIDTH, 2)
        self.body.requires_grad_(False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(X)))


frozen = seeded(Frozen)


def converted(t: dict[str, np.ndarray]) -> dict[str, Any]:
    names = ("body", "head", "unused")
    return {n: {"W": t[f"{n}.weight"].T, "b": t[f"{n}.bias"]} for n in names}


def apply(params: Any, X: jax.Array, *, held: tuple[str, ...] = ("body",)) -> jax.Array:
    params = {n: jax.lax.stop_gradient(p) if n in held else p for n, p in params.items()}
    return linear(params["head"], jnp.tanh(linear(params["body"], X)))


def frozen_model(**how: Any) -> Any:
    return partial(apply, **how), params_of(frozen, converted)


def torch_adamw(parameters: Any) -> torch.optim.Optimizer:
    """Parameters that have no gradient don't decay either."""
    return torch.optim.AdamW(parameters, LR, weight_decay=DECAY)


def kept_still(*names: str) -> optax.GradientTransformation:
    """AdamW, of all but these layers."""

    def labels(params: Any) -> Any:
        def label(path: Any, leaf: Any) -> str:
            return "still" if any(n in jax.tree_util.keystr(path) for n in names) else "moving"

        return jax.tree_util.tree_map_with_path(label, params)

    rules = {"moving": optax.adamw(LR, weight_decay=DECAY), "still": optax.set_to_zero()}
    return optax.partition(rules, labels)


def not_frozen(name: str, says: str, leaf: str, *still: str) -> Wrong:
    options = {"optimizer": (torch_adamw, kept_still(*still))}
    return Wrong(name, "step", says, leaf, {"options": options})


def held(name: str, level: str, says: str, leaf: str, *names: str) -> Wrong:
    return Wrong(name, level, says, leaf, {"jax": partial(frozen_model, held=names)})


FAMILIES: tuple[Port, ...] = (
    trained(
        "clipped by the norm",
        (torch_clipped, optax.chain(by_norm(), sgd)),
        (
            not_clipped(
                "by value",
                "step",
                "each number is clipped by itself",
                KERNEL,
                optax.chain(optax.clip(NORM), sgd),
            ),
            not_clipped(
                "each leaf by its own norm",
                "step",
                "the norm of all of them is meant",
                KERNEL,
                optax.chain(each_by_norm(), sgd),
            ),
            not_clipped(
                "without Torch's 1e-6",
                "step",
                "optax divides by the norm itself",
                KERNEL,
                optax.chain(optax.clip_by_global_norm(NORM), sgd),
            ),
            not_clipped(
                "after the momentum",
                "step",
                "the buffer is clipped; shows from the second step",
                KERNEL,
                optax.chain(optax.trace(MOMENTUM), by_norm(), optax.scale(-RATE)),
            ),
            not_clipped("not clipped", "step", "it is forgotten", KERNEL, sgd),
            not_clipped(
                "by the norm's square",
                "step",
                "the root is forgotten",
                KERNEL,
                optax.chain(
                    optax.stateless(
                        lambda g, p: jax.tree.map(
                            lambda leaf: (
                                leaf
                                * jnp.minimum(1, NORM / (optax.tree.norm(g, squared=True) + 1e-6))
                            ),
                            g,
                        )
                    ),
                    sgd,
                ),
            ),
        ),
    ),
    trained(
        "clipped at a norm that is never reached",
        (torch_far, optax.chain(optax.clip_by_global_norm(FAR), sgd)),
        (
            not_far(
                "clipped much lower",
                "step",
                "a thousandth for a thousand",
                KERNEL,
                optax.chain(optax.clip_by_global_norm(1 / FAR), sgd),
            ),
            not_far(
                "always scaled to the norm",
                "step",
                "also what is shorter",
                KERNEL,
                optax.chain(normalised(FAR), sgd),
            ),
            not_far(
                "values clipped at a thousandth",
                "step",
                "each number by itself",
                KERNEL,
                optax.chain(optax.clip(1 / FAR), sgd),
            ),
        ),
    ),
    Port(
        "a frozen layer and an unused one",
        frozen,
        frozen_model,
        classified(INPUTS),
        weights=converted,
        options=BATCH | {"optimizer": (torch_adamw, kept_still("body", "unused"))},
        wrong=(
            held(
                "head frozen too",
                "gradients",
                "all gradients are stopped",
                "head.W",
                "body",
                "head",
            ),
            held("head frozen for the body", "gradients", "the wrong layer", "head.W", "head"),
            not_frozen("frozen layer decays", "a zero gradient isn't none", "body.W", "unused"),
            not_frozen("unused layer decays", "a zero gradient isn't none", "unused.W", "body"),
            not_frozen(
                "head kept still",
                "the optimiser leaves it out",
                "head.W",
                "body",
                "unused",
                "head",
            ),
        ),
    ),
)
