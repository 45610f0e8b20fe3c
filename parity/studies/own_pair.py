"""`check` on the command line for a pair of the user's own."""

import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from mlp_core import fashion_mnist
from parity.config import CheckConfig
from parity.config.check import is_import
from parity.environment import command, environment
from parity.exits import Refused
from parity.levels.ladder import LEVELS
from parity.report.report import Report
from parity.sides.side import ModelFails
from parity.studies import imported
from parity.studies.main_job import check_levels, climbing, told
from parity.trees import length

LOSS = "cross_entropy, mse, bce_with_logits, or (Torch's, JAX's) functions of (outputs, targets)"
OPTIMIZER = "a pair (Torch parameters -> torch.optim.Optimizer, optax transformation)"


def run(config: CheckConfig, log: Console) -> Report:
    """Check the pair that the configuration names. Ctrl-C keeps the results so far.

    Raises Refused for what can't be imported, made or compared.
    """
    start = time.perf_counter()
    check_levels(config.levels)
    with ExitStack() as stack:
        stack.enter_context(imported.importable())
        assert config.torch is not None and config.jax is not None
        seed = config.seed
        theirs = imported.torch_model(config.torch, seed)
        ours = imported.jax_model(config.jax, seed)
        data, said = _data(config)
        question: dict[str, Any] = {
            "data": data,
            "weights": imported.weights(config.weights, seed),
            "loss": imported.pair_of("--loss", config.loss, LOSS, seed),
            "optimizer": imported.pair_of("--optimizer", config.optimizer, OPTIMIZER, seed),
        }
        pair = f"{config.jax} = {config.torch}"
        show = told(log, pair, stack)
        begun = []

        def tell(what: str, value: Any) -> None:
            begun.append(what)
            show(what, value)

        try:
            verdict, interrupted = climbing(
                tell,
                pair,
                theirs,
                ours,
                **question,
                mode=config.mode,
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=seed,
                lr=config.lr,
                certify=config.certify,
                device=config.device,
                levels=config.levels or LEVELS,
                checkpoint=config.checkpoint,
                resume=config.resume,
            )
        except ModelFails as error:
            raise Refused(str(error)) from None
        except (TypeError, ValueError) as error:
            if begun:  # what `check` refuses, it refuses before the first level
                raise
            raise Refused(str(error)) from None
    about = environment() | {"data": said, "command": command()}
    return Report((verdict,), about, time.perf_counter() - start, interrupted)


def _data(config: CheckConfig) -> tuple[Any, str]:
    """What `check` takes, and how a report calls it."""
    if config.data is not None and is_import(config.data):
        parts = imported.data(config.data, config.seed)
        return parts, f"{config.data} ({length(parts[0]):,} examples)"
    dataset = fashion_mnist.load(config.data)
    return "sample" if dataset.is_sample else config.data, f"Fashion-MNIST, {dataset.source}"
