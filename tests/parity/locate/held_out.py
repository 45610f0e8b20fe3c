"""Errors that nothing was tuned on: a line of an honest port is replaced by what a porter writes.

As a program, with texts of errors' names or none: prints the rank of every error's true line that
isn't named first, and how many are.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import held_out_jax
import held_out_torch as theirs
import jax.numpy as jnp
import numpy as np
import torch
from drawn import classified, seeded
from hits import source

import parity
from parity.locate.alignment import Alignment
from parity.locate.parting import Parting

HONEST = Path(held_out_jax.__file__).read_text()
COUNT = 16  # batches of 8


@dataclass(frozen=True)
class Family:
    """model: Torch's. port: the name of JAX's function. loss: the name of one on both sides."""

    model: Callable[[], torch.nn.Module]
    port: str
    data: Callable[[], Any]
    loss: str = ""
    optimizer: tuple[Any, str] | None = None


def numbers(*shapes: tuple[int, ...], inputs: int = 1, yes: bool = False) -> Any:
    """Normal inputs; as targets the last, or whether it's above 0."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal((COUNT, *shape)).astype(np.float32) for shape in shapes]
    target = (drawn[-1] > 0).astype(np.float32) if yes else drawn[-1]
    return (drawn[0] if inputs == 1 else tuple(drawn[:inputs])), target


def sentences() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, theirs.TOKENS, (COUNT, theirs.LENGTH + 1))
    return ids[:, :-1].astype(np.int32), ids[:, 1:].astype(np.int32)


def encoded() -> tuple[Any, np.ndarray]:
    (noise, _), image = numbers((theirs.LATENT,), (theirs.PIXELS,), inputs=2, yes=True)
    return (image, noise), image


def pairs() -> tuple[Any, np.ndarray]:
    both, _ = numbers((theirs.PIXELS,), (theirs.PIXELS,), inputs=2)
    return both, np.tile(np.arange(8, dtype=np.int32), COUNT // 8)


def rmsprop(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=0.01)


def adagrad(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=0.1)


FAMILIES = {
    "vision": Family(theirs.VisionTransformer, "vision_transformer", classified(3, 4, 6)),
    "language": Family(theirs.LanguageModel, "language_model", sentences),
    "convnext": Family(theirs.ConvNext, "convnext", classified(4, 3, 4)),
    "autoencoder": Family(theirs.Autoencoder, "autoencoder", encoded, "evidence"),
    "towers": Family(theirs.TwoTowers, "two_towers", pairs, "contrast"),
    "unet": Family(theirs.UNet, "unet", partial(numbers, (2, 4, 6), (1, 8, 12), yes=True), "focal"),
    "rmsprop": Family(
        theirs.Perceptron, "perceptron", classified(6), optimizer=(rmsprop, "rmsprop")
    ),
    "adagrad": Family(
        theirs.Perceptron, "perceptron", classified(6), optimizer=(adagrad, "adagrad")
    ),
}


@dataclass(frozen=True)
class Error:
    """right: a text of the honest port, in one line, which a porter wrote as wrong. also: texts of
    other lines that are as true: the original's where the port has nothing in its place; a weight;
    a library's, where an option was wrong."""

    family: str
    name: str
    right: str
    wrong: str
    also: tuple[str, ...] = ()

    def parting(self) -> tuple[Parting | None, int]:
        """What is named, and the number of the line that is true."""
        assert HONEST.count(self.right) == 1, self
        line = HONEST[: HONEST.index(self.right)].count("\n") + 1
        return aligned(self.family, HONEST.replace(self.right, self.wrong)).parting, line

    def rank(self) -> tuple[int | None, Parting | None]:
        """Of the true line among those named on a side, from 1; None if it isn't among them."""
        parting, line = self.parting()
        found = []
        for places in (parting.torch, parting.jax) if parting else ():
            for i, place in enumerate(places, 1):
                file, _, rest = place.line.partition(":")
                own = file.endswith("ported.py") and int(rest.split()[0]) == line
                if own or any(text in source(place) for text in self.also):
                    found.append(i)
        return min(found, default=None), parting


def module(text: str) -> ModuleType:
    """A port from its source."""
    file = Path(tempfile.mkdtemp()) / "ported.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("ported", file)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def converted(t: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    def one(name: str, a: np.ndarray) -> np.ndarray:
        if a.ndim == 4:
            return a.transpose(2, 3, 1, 0)
        return a.T if a.ndim == 2 and name != "tokens.weight" else a

    return {name: one(name, a) for name, a in t.items()}


def aligned(family: str, text: str = HONEST) -> Alignment:
    of = FAMILIES[family]
    ours = module(text)
    model = seeded(of.model)()
    params = converted({n: p.detach().numpy() for n, p in model.named_parameters()})
    asked: dict[str, Any] = {"batch_size": 8, "weights": converted}
    if of.loss:
        asked["loss"] = getattr(theirs, of.loss), getattr(ours, of.loss)
    if of.optimizer:
        asked["optimizer"] = of.optimizer[0], getattr(ours, of.optimizer[1])()
    port = getattr(ours, of.port), {n: jnp.asarray(a) for n, a in params.items()}
    return parity.align(model, port, of.data(), **asked)


def main(texts: list[str]) -> None:
    from held_out_errors import ERRORS

    chosen = [e for e in ERRORS if not texts or any(t in f"{e.family}: {e.name}" for t in texts)]
    ranks = []
    for error in chosen:
        rank, parting = error.rank()
        ranks.append(rank)
        if rank != 1:
            print(f"{rank}  {error.family}: {error.name}\n{parting}", flush=True)
    first, three = ranks.count(1), sum(r is not None and r <= 3 for r in ranks)
    print(f"{len(ranks)} errors: the true line is first in {first}, in the first three in {three}")


if __name__ == "__main__":
    main(sys.argv[1:])
