"""What `mlp-parity sweep` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from parity.config import numbers
from parity.config.checkpoint import Checkpointed
from parity.config.network import Perceptron


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Perceptron, Checkpointed):
    """Answer the book's exercises on the JAX side: a table, a sentence and a picture each.

    Trains every value with several seeds; runs of one architecture are trained at once. Ctrl-C
    keeps the epochs that were finished.

    Examples:

    mlp-parity sweep width

    mlp-parity sweep lr --values 0.01 0.1 1 --seeds 8 --model scratch

    mlp-parity sweep depth --values 256 256-128 256-128-64

    mlp-parity sweep width --engine ray --checkpoint /shared/sweep --resume

    mlp-parity sweep joint --values 256@0.1 512@0.3 --devices 2 --out /tmp/sweep
    """

    exercise: Positional[
        Literal["width", "depth", "bottleneck", "lr", "joint", "activation", "spread", "all"]
    ] = "all"
    """Hidden width, added layers, a layer of one neuron, learning rate, a joint search over width,
    depth and rate, activation, spread of the initial weights, or all of them."""
    values: tuple[str, ...] = ()
    """In the place of the exercise's own: widths as 256 or 256-64, rates, WIDTHS@RATE (joint),
    activations, spreads."""
    model: Literal["scratch", "mlp"] = "mlp"
    """Explicit parameters, or layers of Flax."""
    seeds: int = 4
    """Runs of each value, with initial weights and shuffles of their own."""
    epochs: int = 10
    """Passes over the training set."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers, where they are not what is swept."""
    lr: float = 0.1
    """Learning rate, where it is not what is swept."""
    seed: int = 0
    """The first seed."""
    devices: int | None = None
    """How many the runs are spread over, simulated on a CPU; the default is all that there are."""
    engine: Literal["jax", "ray"] = "jax"
    """jax: runs of one architecture at once, in this process. ray: each run a task of Ray's, begun
    again where it was lost; on the cluster of $RAY_ADDRESS, or on this machine."""
    out: Path = Path("sweep")
    """Folder for sweep.json, sweep.csv and a picture an exercise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers.check(self, seeds=1)
        if self.checkpoint_every:
            raise ValueError("--checkpoint-every: a sweep is saved after each epoch alone")
        if self.engine == "ray" and self.devices is not None:
            raise ValueError("--devices: of --engine jax; Ray gives each run a process of its own")
        numbers.check_last_seed(self, self.seed + self.seeds - 1)
        if self.values and self.exercise == "all":
            raise ValueError("--values belong to one exercise: name it")
