"""What each command takes. The one source of defaults: CLI, library and tests read them here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from mlp_core.activations import Activation


def _at_least(config: object, **least: float | int) -> None:
    """Refuse numbers out of range, all at once."""
    wrong = []
    for name, minimum in least.items():
        values = getattr(config, name)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and not value >= minimum:  # so that NaN is refused too
                wrong.append(f"{name} = {value}, expected at least {minimum}")
    if wrong:
        raise ValueError("; ".join(wrong))


@dataclass(frozen=True)
class CheckConfig:
    """Confirm that the JAX and the Torch models agree, from the first input to the last weight.

    Writes a report and exits with 0 if they agree, 1 if they differ, 2 if it can't tell.

    Examples:

    mlp-parity check

    mlp-parity check --activation tanh --sigma 0.05

    mlp-parity check --epochs 1 --model scratch --data sample

    mlp-parity check --hiddens 128 64 --seed 7 --no-certify --out /tmp/report
    """

    model: Literal["both", "scratch", "mlp"] = "both"
    """Which pair: explicit parameters, layers of the frameworks, or both."""
    epochs: int = 10
    """Length of the training curves."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers; "gelu" is the exact one, "gelu_tanh" its approximation by tanh."""
    sigma: float | None = None
    """Spread of normal initial weights, biases 0; the default is the model's own way to draw."""
    lr: float = 0.1
    """Learning rate."""
    batch_size: int = 256
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = 0
    """Of the initial weights and of the shuffles."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    certify: bool = True
    """Whether every step of all epochs is judged by its own rounding bound."""
    out: Path = Path("report")
    """Folder of the report."""

    def __post_init__(self) -> None:
        _at_least(self, epochs=1, hiddens=1, lr=0, batch_size=1, seed=0, sigma=0)


@dataclass(frozen=True)
class TrainConfig:
    """Train one model on one side; writes weights, history and a picture of the curves.

    Ctrl-C keeps what has been measured, and the weights.

    Examples:

    mlp-parity train --side torch --model mlp

    mlp-parity train --side jax --model scratch --hiddens 512 256 --lr 0.05 --out runs/deep
    """

    side: Literal["jax", "torch"] = "jax"
    """Which framework."""
    model: Literal["scratch", "mlp"] = "mlp"
    """Explicit parameters, or the framework's layers."""
    epochs: int = 10
    """Passes over the training set."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers; "gelu" is the exact one, "gelu_tanh" its approximation by tanh."""
    sigma: float | None = None
    """Spread of normal initial weights, biases 0; the default is the model's own way to draw."""
    lr: float = 0.1
    """Learning rate."""
    batch_size: int = 256
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = 0
    """Of the initial weights and of the shuffles."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 clips nothing."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    out: Path = Path("runs/latest")
    """Folder for weights.safetensors, history.json, history.csv, curve.png."""

    def __post_init__(self) -> None:
        _at_least(self, epochs=1, hiddens=1, lr=0, batch_size=1, seed=0, sigma=0, clip=0)


@dataclass(frozen=True)
class BitsConfig:
    """Train in reproducible arithmetic and print hashes that any machine can check.

    JAX and Torch, one device or eight, any thread count: every loss and weight has the same bits.
    Exits with 0 if they have, 1 if they differ, 2 if it can't tell. One side needs no other
    framework: it is compared with the published hashes, which the default run has.

    Examples:

    mlp-parity bits

    mlp-parity bits --side jax --devices 8 --data sample

    mlp-parity bits --model mlp --hiddens 128 64 --epochs 1 --locate
    """

    side: Literal["jax", "torch", "both"] = "both"
    """Which frameworks."""
    model: Literal["scratch", "mlp"] = "scratch"
    """Explicit parameters, or the framework's layers."""
    epochs: int = 10
    """Passes over the training set."""
    devices: int = 1
    """Of JAX: each batch is shared out over so many, simulated on the CPU."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    lr: float = 0.1
    """Learning rate."""
    batch_size: int = 256
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = 0
    """Of the initial weights and of the shuffles."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    locate: bool = False
    """Also repeat both runs step by step, and name the first operation and element that differ."""
    out: Path | None = None
    """Folder for bits.json and the weights; by default nothing is written."""

    def __post_init__(self) -> None:
        _at_least(self, epochs=1, devices=1, hiddens=1, lr=0, batch_size=1, seed=0)


@dataclass(frozen=True)
class TrajectoryConfig:
    """Certify every step of a training on both sides, and compare the runs on their own.

    Exits with 0 if they agree, 1 if they differ, 2 if too few seeds were run to tell.

    Examples:

    mlp-parity trajectory

    mlp-parity trajectory --epochs 1 --model scratch --precisions float32 float64

    mlp-parity trajectory --seeds 16 --seed-epochs 10 --out /tmp/trajectory
    """

    model: Literal["both", "scratch", "mlp"] = "both"
    """Which pair."""
    epochs: int = 10
    """Epochs whose every step is certified."""
    precisions: tuple[Literal["float32", "float64"], ...] = ("float32",)
    """In which precisions; float64 sees an update off by 1e-11."""
    copies: int = 32
    """JAX runs, one ulp apart at the start, that make the envelope; 0 leaves it out."""
    copy_epochs: int = 3
    """Epochs of the free runs."""
    seeds: int = 0
    """Seeds a side for the equivalence of final accuracy and loss; 0 leaves it out."""
    seed_epochs: int = 10
    """Epochs of each seed's run."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers; "gelu" is the exact one, "gelu_tanh" its approximation by tanh."""
    sigma: float | None = None
    """Spread of normal initial weights, biases 0; the default is the model's own way to draw."""
    lr: float = 0.1
    """Learning rate."""
    batch_size: int = 256
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = 0
    """Of the initial weights and of the shuffles."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    out: Path = Path("trajectory")
    """Folder of the report."""

    def __post_init__(self) -> None:
        least = {"epochs": 1, "copy_epochs": 1, "seed_epochs": 1, "hiddens": 1, "batch_size": 1}
        _at_least(self, **least, lr=0, seed=0, sigma=0)
        for name in ("copies", "seeds"):
            if (count := getattr(self, name)) != 0 and count < 3:
                raise ValueError(f"{name} = {count}, expected 0 or at least 3")


@dataclass(frozen=True)
class SweepConfig:
    """Answer the book's exercises on the JAX side: a table, a sentence and a picture each.

    Trains every value with several seeds; runs of one architecture are trained at once. Ctrl-C
    keeps the epochs that were finished.

    Examples:

    mlp-parity sweep width

    mlp-parity sweep lr --values 0.01 0.1 1 --seeds 8 --model scratch

    mlp-parity sweep depth --values 256 256-128 256-128-64

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
    batch_size: int = 256
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = 0
    """The first seed."""
    devices: int | None = None
    """How many the runs are spread over, simulated on a CPU; the default is all that there are."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    out: Path = Path("sweep")
    """Folder for sweep.json, sweep.csv and a picture an exercise."""

    def __post_init__(self) -> None:
        _at_least(self, seeds=1, epochs=1, hiddens=1, lr=0, batch_size=1, seed=0, devices=1)
        if self.values and self.exercise == "all":
            raise ValueError("--values belong to one exercise: name it")


@dataclass(frozen=True)
class FaultsConfig:
    """Plant faults that porters make, and show which level of the ladder catches each.

    Also judges random honest networks, which must raise no alarm. Exits with 0 if every fault is
    caught where it can show first, 1 if one slips through or an honest network is called faulty.

    Examples:

    mlp-parity faults

    mlp-parity faults --only optimiser --clean 0
    """

    only: str = ""
    """A kind of fault, a level, or a fault's name; by default the whole catalogue."""
    clean: int = 1000
    """Random honest networks to judge."""
    out: Path = Path("faults")
    """Folder for faults.json and faults.png."""

    def __post_init__(self) -> None:
        _at_least(self, clean=0)


@dataclass(frozen=True)
class BenchConfig:
    """Measure how fast each way of training is: rows in turn, against a floor and the peak.

    Every row runs in a process of its own; rounds are interleaved, figures are medians, and what
    scatters too much is not printed. Ctrl-C keeps the rounds so far.

    Examples:

    mlp-parity bench --quick

    mlp-parity bench --width 16 256 1024 4096 --rounds 7

    mlp-parity bench --rows floor "jax scratch" "torch mlp" --batch 64 256 1024

    mlp-parity bench --aligned
    """

    rows: tuple[str, ...] = ()
    """Which rows; by default all that fit the sizes asked for."""
    width: tuple[int, ...] = (256,)
    """Of the hidden layers; several make a sweep."""
    depth: tuple[int, ...] = (1,)
    """Number of hidden layers; several make a sweep."""
    batch: tuple[int, ...] = (256,)
    """Examples in a batch; several make a sweep."""
    aligned: bool = False
    """Instead of --width, widths at and beside 256 and 1024: do powers of two pay?"""
    precision: Literal["highest", "tf32", "bf16"] = "highest"
    """Of matrix products, on devices that have a faster one."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto leaves it to the frameworks."""
    rounds: int = 9
    """Epochs of each row, after two to warm up."""
    quick: bool = False
    """The five rows that matter most: under a minute."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    json: Path | None = None
    """File for the figures, in the place of bench.json in the folder below."""
    out: Path = Path("bench")
    """Folder for bench.json and the pictures."""

    def __post_init__(self) -> None:
        _at_least(self, width=1, depth=1, batch=1, rounds=1)


@dataclass(frozen=True)
class ConvertConfig:
    """Rewrite a safetensors file of MLP weights in another layout, to the same bits.

    Reads any layout: W1 b1 ..., a Torch state_dict, Flax kernels.

    Examples:

    mlp-parity convert torch.safetensors flax.safetensors --to flax
    """

    source: Positional[Path]
    """File to read."""
    target: Positional[Path]
    """File to write."""
    to: Literal["scratch", "torch", "flax"] = "scratch"
    """Layout to write: W [in, out]; Torch's weight [out, in]; Flax's kernel [in, out]."""


@dataclass(frozen=True)
class DataConfig:
    """Find or fetch Fashion-MNIST, check every byte, and say what was found.

    Examples:

    mlp-parity data

    mlp-parity data --data /usr/share/datasets/fashion-mnist
    """

    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; by default every known place is tried in turn."""
