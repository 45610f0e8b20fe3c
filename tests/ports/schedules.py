"""Learning rates that change with the step, a fault that begins at step 20, and accumulation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from optimisers import ALL, KERNEL, trained, wrongly
from port import Port

LR, WARM, TOTAL, BOUNDARY = 1e-2, 5, 16, 20
STEPS = 4  # an epoch

Schedule = Callable[[Any], Any]


def exactly(rate: Schedule) -> Schedule:
    """optax divides an int32 by an int, which is float32 also where everything is float64."""
    return lambda count: rate(jnp.asarray(count, jnp.result_type(float)))


own = optax.warmup_cosine_decay_schedule(LR / 4, LR, WARM, TOTAL)
warm_cosine = exactly(own)
stairs = optax.piecewise_constant_schedule(LR, {BOUNDARY: 0.1})


def torch_cosine(parameters: Any) -> tuple[Any, Any]:
    """From a quarter of the rate up to it, then half a cosine down to 0."""
    optimizer = torch.optim.Adam(parameters, LR)

    def factor(step: int) -> float:
        if step < WARM:
            return 0.25 + 0.75 * step / WARM
        angle = torch.pi * min(1, (step - WARM) / (TOTAL - WARM))
        return 0.5 * (1 + torch.tensor(angle, dtype=torch.float64).cos().item())

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def torch_stairs(parameters: Any) -> tuple[Any, Any]:
    """A tenth of the rate from step 20 on, counted from 0."""
    optimizer = torch.optim.Adam(parameters, LR)
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [BOUNDARY], gamma=0.1)


def torch_early(parameters: Any) -> tuple[Any, Any]:
    """SGD with momentum; a tenth of the rate from step 3 on."""
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [3], gamma=0.1)


def torch_momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


early = optax.piecewise_constant_schedule(0.1, {3: 0.1})


def reset(inner: optax.GradientTransformation, at: int) -> optax.GradientTransformation:
    """Its state starts anew at this step."""

    def init(params: Any) -> Any:
        return jnp.zeros([], jnp.int32), inner.init(params)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        count, old = state
        fresh = jax.tree.map(lambda new, o: jnp.where(count == at, new, o), inner.init(grads), old)
        out, new = inner.update(grads, fresh, params)
        return out, (count + 1, new)

    return optax.GradientTransformation(init, update)


def by_hand(rate: Schedule) -> optax.GradientTransformation:
    """The rate is counted outside of Adam, so that Adam alone can start anew."""
    return optax.chain(reset(optax.scale_by_adam(), BOUNDARY), optax.scale_by_learning_rate(rate))


adam = optax.adam
momentum = optax.trace(0.9)
scaled = optax.scale_by_learning_rate
not_cosine, not_stairs = wrongly(torch_cosine), wrongly(torch_stairs)
not_early, not_momentum = wrongly(torch_early), wrongly(torch_momentum)

FAMILIES: tuple[Port, ...] = (
    trained(
        "Adam with warm-up and cosine",
        (torch_cosine, adam(warm_cosine)),
        (
            not_cosine(
                "one step ahead",
                "step",
                "the count goes up before the rate is taken",
                KERNEL,
                adam(lambda count: warm_cosine(count + 1)),
            ),
            not_cosine(
                "one step behind",
                "every step",
                "the scheduler steps before the optimiser, and the first rate counts twice",
                KERNEL,
                adam(lambda count: warm_cosine(jnp.maximum(count - 1, 0))),
            ),
            not_cosine(
                "rate by the epoch",
                "every step",
                "the schedule counts epochs",
                KERNEL,
                adam(lambda count: warm_cosine(count // STEPS)),
            ),
            not_cosine(
                "no warm-up",
                "step",
                "the cosine starts at once",
                KERNEL,
                adam(exactly(optax.cosine_decay_schedule(LR, TOTAL))),
            ),
            not_cosine(
                "warm-up from 0",
                "step",
                "the first step doesn't move",
                KERNEL,
                adam(exactly(optax.warmup_cosine_decay_schedule(0.0, LR, WARM, TOTAL))),
            ),
            not_cosine(
                "warm-up added to the length",
                "every step",
                "decay_steps counts the warm-up in optax, and is taken not to",
                KERNEL,
                adam(exactly(optax.warmup_cosine_decay_schedule(LR / 4, LR, WARM, WARM + TOTAL))),
            ),
            not_cosine(
                "cosine over one step less",
                "every step",
                "the last step, not the one after it, has the rate 0",
                KERNEL,
                adam(exactly(optax.warmup_cosine_decay_schedule(LR / 4, LR, WARM, TOTAL - 1))),
            ),
        ),
        epochs=3,
    ),
    trained(
        "Adam with a stair at step 20",
        (torch_stairs, adam(stairs)),
        (
            not_stairs(
                "one step late",
                "every step",
                "begins at step 20: the boundary is 21",
                KERNEL,
                adam(optax.piecewise_constant_schedule(LR, {BOUNDARY + 1: 0.1})),
            ),
            not_stairs(
                "another factor",
                "every step",
                "begins at step 20: .5 for .1",
                KERNEL,
                adam(optax.piecewise_constant_schedule(LR, {BOUNDARY: 0.5})),
            ),
            not_stairs(
                "never",
                "every step",
                "begins at step 20: the boundary is reached by no step",
                KERNEL,
                adam(LR),
            ),
            not_stairs(
                "moments start anew",
                "every step",
                "begins at step 20: a new optimiser is made for the new rate",
                KERNEL,
                by_hand(stairs),
            ),
            not_stairs(
                "boundary in epochs",
                "every step",
                "begins at step 5, which is epoch 5 of the original",
                KERNEL,
                adam(optax.piecewise_constant_schedule(LR, {BOUNDARY // STEPS: 0.1})),
            ),
        ),
        epochs=6,
    ),
    trained(
        "momentum with a stair",
        (torch_early, optax.chain(momentum, scaled(early))),
        (
            not_early(
                "rate inside the momentum",
                "step",
                "as in Keras: the buffer holds steps, and old ones keep their old rate",
                KERNEL,
                optax.chain(scaled(early), momentum),
            ),
            not_early(
                "one step early",
                "every step",
                "the boundary is 2",
                KERNEL,
                optax.sgd(optax.piecewise_constant_schedule(0.1, {2: 0.1}), 0.9),
            ),
            not_early(
                "factor taken for a rate",
                "every step",
                "0.1 is the rate after the boundary, too",
                KERNEL,
                optax.sgd(0.1, 0.9),
            ),
        ),
    ),
    trained(
        "accumulation over two batches",
        (torch_momentum, optax.sgd(0.1, 0.9)),
        (
            not_momentum(
                "sum for mean",
                "step",
                "the batches' gradients are added; shows at the second batch, the first step",
                KERNEL,
                optax.chain(optax.scale(2.0), optax.sgd(0.1, 0.9)),
            ),
            not_momentum(
                "divided twice",
                "step",
                "the loss is divided by 2, and MultiSteps takes the mean as well",
                KERNEL,
                optax.chain(optax.scale(0.5), optax.sgd(0.1, 0.9)),
            ),
            not_momentum(
                "momentum for each batch",
                "every step",
                "two steps of the buffer for one of the weights: .9^2 of it is left",
                KERNEL,
                optax.sgd(0.1, 0.81),
            ),
            not_momentum(
                "decay for each batch",
                "step",
                "a decay that the original hasn't",
                ALL,
                optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, 0.9)),
            ),
        ),
        accumulate=2,
    ),
    trained(
        "accumulation with a stair",
        (torch_early, optax.sgd(early, 0.9)),
        (
            not_early(
                "boundary in batches",
                "every step",
                "the schedule's boundary is 6 batches, and optax counts steps of the weights",
                KERNEL,
                optax.sgd(optax.piecewise_constant_schedule(0.1, {6: 0.1}), 0.9),
            ),
            not_early(
                "no stair",
                "every step",
                "the scheduler isn't carried over",
                KERNEL,
                optax.sgd(0.1, 0.9),
            ),
            not_early(
                "sum for mean",
                "step",
                "the batches' gradients are added",
                KERNEL,
                optax.chain(optax.scale(2.0), optax.sgd(early, 0.9)),
            ),
        ),
        accumulate=2,
    ),
)
