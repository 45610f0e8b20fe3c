"""One protocol for both frameworks, and an adapter each. The only file that imports both.

Past it everything is NumPy: parameters are named arrays oriented [in, out], under the names that
their own model gives them; batches are (inputs, labels).
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.nnx as nnx
import jax
import numpy as np
import optax
import torch

import jax_mlp
import jax_mlp.checkpoint
import torch_mlp
import torch_mlp.data
from mlp_core.history import History
from mlp_core.schedule import Schedule
from parity.bounds import bound

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Examples:
    """Where both sides get their batches from: Fashion-MNIST, or arrays of the user's own.

    source: what mlp_core.fashion_mnist.load takes; or (X, y) or (X, y, X_val, y_val), float32
    inputs and integer labels.
    """

    source: Any = None
    batch_size: int = 256
    seed: int = 0

    @property
    def arrays(self) -> tuple[np.ndarray, ...] | None:
        return self.source if isinstance(self.source, tuple) else None

    def schedule(self, count: int, train: bool) -> Schedule:
        return Schedule(count, self.batch_size, self.seed, shuffle=train)


@dataclass(frozen=True)
class Evaluation:
    """What one batch gives: logits [batch, classes], mean loss in nats, gradient of the loss by
    each parameter, and the parameters after one step of the model's own optimiser."""

    logits: np.ndarray
    loss: np.ndarray
    gradients: Arrays
    step: Arrays


@dataclass(frozen=True)
class Reference:
    """What an evaluation should give: its float64 value, and how far rounding may move it.

    bound: always. likely: unless rounding errors conspire (Higham & Mary 2019). kinks: how many
    decisions rounding may turn, such as signs in a ReLU, by source line; the bounds allow for them.
    """

    value: Evaluation
    bound: Evaluation
    likely: Evaluation
    kinks: dict[str, int]


@dataclass(frozen=True)
class Pullback:
    """Logits [batch, classes], and the gradient of sum(logits * cotangent) by each parameter and
    by the inputs: no loss takes part, so integers stay integers."""

    logits: np.ndarray
    gradients: Arrays
    inputs: np.ndarray


@dataclass(frozen=True)
class Run:
    """What a training run gives: its history, and the final parameters."""

    history: History
    params: Arrays


@runtime_checkable
class Side(Protocol):
    """A model in one framework, at one precision; a copy, so that the user's is not touched."""

    name: str
    dtype: str

    def params(self) -> Arrays: ...

    def load(self, params: Mapping[str, np.ndarray]) -> None:
        """Replace the parameters, rounding them to the side's precision."""

    def batches(self, train: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of the first epoch as this side's own pipeline makes them, in float32."""

    def stream(self, epochs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The training batches of whole epochs in a row, as this side's own pipeline makes them."""

    def evaluate(self, X: np.ndarray, y: np.ndarray) -> Evaluation: ...

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        """With these parameters; the loaded ones stay."""

    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        """Train by the side's own Trainer, from the loaded parameters, which stay as they are.

        update_scale multiplies every update: 1 + 1e-9 is a fault of known size.
        """

    def not_reproducible(self) -> list[str]:
        """Why the model can't train in reproducible arithmetic; empty if it can."""

    def reproducible_epoch(self) -> Run:
        """One epoch in reproducible arithmetic, without validation, from the loaded parameters."""

    def about(self) -> dict[str, Any]: ...


class JaxSide:
    """A Flax NNX model. At float64 everything runs under jax.enable_x64."""

    name = "jax"

    def __init__(
        self, model: nnx.Module, examples: Examples, dtype: str = "float32", lr: float = 0.1
    ) -> None:
        self.dtype = dtype
        self.examples = examples
        with self._settings():
            self.model: Any = nnx.clone(model)
            if not isinstance(model, jax_mlp.Classifier):
                self.model = _JaxPort(self.model, lr)
            self.model.board = jax_mlp.ProgressBoard(display=False)
            # One that a traced training_step can plot to; `fit` puts a real one in its place.
            self.model.trainer = jax_mlp.Trainer(max_epochs=1, arithmetic="native")
            self.model.trainer.tape = {}
        self._traced = self._evaluation  # one object, so that compiled forms are found again
        self._evaluate = jax.jit(self._traced)
        self._pull_back = jax.jit(self._pulled_back)
        self.load(self.params())

    def params(self) -> Arrays:
        named = jax_mlp.checkpoint.named_params(self.model)
        return {self._outside(name): np.array(array) for name, array in named.items()}

    def load(self, params: Mapping[str, np.ndarray]) -> None:
        with self._settings():
            cast = {self._inside(name): np.asarray(a, self.dtype) for name, a in params.items()}
            jax_mlp.checkpoint.set_params(self.model, cast)

    def batches(self, train: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for X, y in self.loader(train) or ():
            yield np.asarray(X), np.asarray(y)

    def loader(self, train: bool = True) -> Any:
        """A fresh jax_mlp.ArrayLoader, at the first epoch; None where there is no such data."""
        return _JaxData(self.examples).get_dataloader(train)

    def stream(self, epochs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        loader = self.loader()
        for _ in range(epochs):
            for X, y in loader:
                yield np.asarray(X), np.asarray(y)

    def evaluate(self, X: np.ndarray, y: np.ndarray) -> Evaluation:
        with self._settings():
            values = self._evaluate(self.params(), np.asarray(X, self.dtype), y)
            return Evaluation(*jax.tree.map(np.asarray, values))

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        with self._settings():
            given = {self._inside(n): np.asarray(a, self.dtype) for n, a in params.items()}
            arrays = (np.asarray(X, self.dtype), np.asarray(cotangent, self.dtype))
            logits, (grads, by_X) = self._pull_back(given, *arrays)
            named = {self._outside(name): np.asarray(leaf) for name, leaf in grads.items()}
            return Pullback(np.asarray(logits), named, np.asarray(by_X))

    def bounds(self, X: np.ndarray, y: np.ndarray, roundoff: float) -> "Reference":
        """What `evaluate` should give, at this unit roundoff."""
        with self._settings():
            X = np.asarray(X, self.dtype)
            b = bound(self._traced, self.params(), X, y, roundoff=roundoff)
        # A ReLU is a max, a comparison and a select on one line: the largest of them counts.
        kinks: dict[str, int] = {}
        for kink in b.kinks:
            kinks[kink.source] = max(kinks.get(kink.source, 0), kink.count)
        value, worst, likely = (Evaluation(*part) for part in (b.value, b.bound, b.likely))
        return Reference(value, worst, likely, kinks)

    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        with self._settings():
            model = nnx.clone(self.model)
            trainer = _JaxTrainer(max_epochs=epochs, dtype=self.dtype, update_scale=update_scale)
            history = trainer.fit(model, _JaxData(self.examples))
            named = jax_mlp.checkpoint.named_params(model)
            return Run(history, {self._outside(name): np.array(a) for name, a in named.items()})

    def not_reproducible(self) -> list[str]:
        model = nnx.clone(self.model)
        model.trainer = jax_mlp.Trainer(1, arithmetic="reproducible")
        return model.not_reproducible()

    def reproducible_epoch(self) -> Run:
        model = nnx.clone(self.model)
        trainer = jax_mlp.Trainer(1, arithmetic="reproducible")
        history = trainer.fit(model, _JaxData(self.examples, validate=False))
        named = jax_mlp.checkpoint.named_params(model)
        return Run(history, {self._outside(name): np.array(a) for name, a in named.items()})

    def about(self) -> dict[str, Any]:
        device = jax.devices()[0]
        return {
            "model": self._type_name(),
            "versions": {"jax": jax.__version__, "optax": optax.__version__},
            "device": device.device_kind,
            "matmul precision": "highest",
        }

    def _type_name(self) -> str:
        inner = self.model.net if isinstance(self.model, _JaxPort) else self.model
        return f"{type(inner).__module__}.{type(inner).__name__}"

    def _evaluation(self, params: Any, X: Any, y: Any) -> tuple:
        params = {self._inside(name): array for name, array in params.items()}

        def loss_of(params: Any) -> tuple[Any, Any]:
            model: Any = jax_mlp.checkpoint.with_params(self.model, params)
            forward, seen = model.forward, []

            def tapped(*inputs: Any) -> Any:
                seen.append(forward(*inputs))
                return seen[-1]

            model.forward = tapped
            return model.training_step((X, y)), seen[0]

        (loss, logits), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        optimizer = self.model.configure_optimizers()
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        named = [
            {self._outside(name): leaf for name, leaf in tree.items()}
            for tree in (grads, optax.apply_updates(params, updates))
        ]
        return logits, loss, *named

    def _pulled_back(self, params: Any, X: Any, cotangent: Any) -> tuple:
        def logits_of(params: Any, X: Any) -> Any:
            model: Any = jax_mlp.checkpoint.with_params(self.model, params)
            return model(X)

        logits, back = jax.vjp(logits_of, params, X)
        return logits, back(cotangent)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        with jax.enable_x64(self.dtype == "float64"), jax.default_matmul_precision("highest"):
            yield

    # A plain NNX module is wrapped into a Classifier; its names stay those of the user's model.
    def _inside(self, name: str) -> str:
        return f"net.{name}" if isinstance(self.model, _JaxPort) else name

    def _outside(self, name: str) -> str:
        return name.removeprefix("net.") if isinstance(self.model, _JaxPort) else name


class TorchSide:
    """A Torch module. A weight of nn.Linear is [out, in] in Torch; outside it is [in, out]."""

    name = "torch"

    def __init__(
        self, model: torch.nn.Module, examples: Examples, dtype: str = "float32", lr: float = 0.1
    ) -> None:
        self.dtype = dtype
        self.examples = examples
        # A trainer holds the data: the copy does without.
        memo = {id(trainer): None} if (trainer := getattr(model, "trainer", None)) else {}
        self.model: Any = copy.deepcopy(model, memo)
        if not isinstance(model, torch_mlp.Classifier):
            self.model = _TorchPort(self.model, lr)
        with self._settings(), torch.no_grad():
            X, _ = next(self.batches())
            self.model(torch.from_numpy(X))  # lazy layers take their shapes
        self.model.to(getattr(torch, dtype))
        self.model.board = torch_mlp.ProgressBoard(display=False)
        inner = self.model.inner if isinstance(self.model, _TorchPort) else self.model
        self._inner = inner
        self._turned = {
            f"{name}.weight" if name else "weight"
            for name, layer in inner.named_modules()
            if isinstance(layer, torch.nn.Linear)
        }

    def params(self) -> Arrays:
        return self._named({n: p.detach() for n, p in self._inner.named_parameters()})

    def load(self, params: Mapping[str, np.ndarray]) -> None:
        own = dict(self._inner.named_parameters())
        if set(own) != set(params):
            raise ValueError(f"torch: parameters {sorted(params)}, expected {sorted(own)}")
        with torch.no_grad():
            for name, parameter in own.items():
                array = np.asarray(params[name], self.dtype)
                array = array.T if name in self._turned else array
                if array.shape != (expected := tuple(parameter.shape)):
                    raise ValueError(
                        f"torch: '{name}' has shape {array.shape}, expected {expected}"
                    )
                parameter.copy_(torch.from_numpy(np.array(array)))

    def batches(self, train: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for X, y in _TorchData(self.examples).get_dataloader(train) or ():
            yield X.numpy(), y.numpy().astype(np.int32)

    def stream(self, epochs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        loader = _TorchData(self.examples).get_dataloader(True)
        for _ in range(epochs):
            for X, y in loader:
                yield X.numpy(), y.numpy().astype(np.int32)

    def evaluate(self, X: np.ndarray, y: np.ndarray) -> Evaluation:
        before = self.params()
        trainer = self.model.trainer = torch_mlp.Trainer(max_epochs=1, arithmetic="native")
        trainer.train_batch_idx, trainer.num_train_batches = 0, 1
        with self._settings():
            optimizer = self.model.configure_optimizers()
            batch = torch.tensor(np.asarray(X, self.dtype)), torch.tensor(y, dtype=torch.int64)
            seen: list[torch.Tensor] = []
            tap = self.model.register_forward_hook(lambda model, X, out: seen.append(out))
            loss = self.model.training_step(batch)
            tap.remove()
            optimizer.zero_grad()
            loss.backward()
            gradients = {
                name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for name, p in self._inner.named_parameters()
            }
            optimizer.step()
        result = Evaluation(
            seen[0].detach().numpy(), loss.detach().numpy(), self._named(gradients), self.params()
        )
        self.load(before)
        return result

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        before = self.params()
        self.load(params)
        names, leaves = zip(*self._inner.named_parameters(), strict=True)
        with self._settings():
            inputs = torch.tensor(np.asarray(X, self.dtype)).requires_grad_()
            logits = self.model(inputs)
            weights = torch.tensor(np.asarray(cotangent, self.dtype))
            *by_params, by_X = torch.autograd.grad(
                logits, [*leaves, inputs], weights, materialize_grads=True
            )
        result = Pullback(
            logits.detach().numpy(),
            self._named(dict(zip(names, by_params, strict=True))),
            by_X.numpy(),
        )
        self.load(before)
        return result

    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        if update_scale != 1.0:
            raise NotImplementedError("torch: the yardstick is run on the JAX side")
        before = self.params()
        with self._settings():
            trainer = _TorchTrainer(max_epochs=epochs, dtype=self.dtype)
            history = trainer.fit(self.model, _TorchData(self.examples))
        run = Run(history, self.params())
        self.load(before)
        return run

    def not_reproducible(self) -> list[str]:
        self.model.trainer = torch_mlp.Trainer(1, arithmetic="reproducible")
        return self.model.not_reproducible()

    def reproducible_epoch(self) -> Run:
        before = self.params()
        trainer = torch_mlp.Trainer(1, arithmetic="reproducible")
        history = trainer.fit(self.model, _TorchData(self.examples, validate=False))
        run = Run(history, self.params())
        self.load(before)
        return run

    def about(self) -> dict[str, Any]:
        return {
            "model": f"{type(self._inner).__module__}.{type(self._inner).__name__}",
            "versions": {"torch": str(torch.__version__)},
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "matmul precision": "highest",
        }

    def _named(self, tensors: Mapping[str, torch.Tensor]) -> Arrays:
        return {
            name: np.ascontiguousarray((t.T if name in self._turned else t).numpy().copy())
            for name, t in tensors.items()
        }

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


class _JaxPort(jax_mlp.Classifier):
    """A plain NNX module as a Classifier: cross-entropy, plain SGD."""

    def __init__(self, net: nnx.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr


class _TorchPort(torch_mlp.Classifier):
    """A plain Torch module as a Classifier: cross-entropy, plain SGD."""

    def __init__(self, inner: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.inner, self.lr = inner, lr

    def forward(self, X: Any) -> Any:
        return self.inner(X)


class _JaxTrainer(jax_mlp.Trainer):
    def __init__(self, max_epochs: int, dtype: str, update_scale: float) -> None:
        super().__init__(max_epochs, arithmetic="native")
        self.dtype, self.update_scale = dtype, update_scale

    def prepare_model(self, model: Any) -> None:
        super().prepare_model(model)
        if self.update_scale != 1.0:
            plain: Callable = model.configure_optimizers
            scale = optax.scale(self.update_scale)
            model.configure_optimizers = lambda: optax.chain(plain(), scale)

    def prepare_batch(self, batch: Any) -> Any:
        X, y = batch
        return X.astype(self.dtype), y


class _TorchTrainer(torch_mlp.Trainer):
    def __init__(self, max_epochs: int, dtype: str) -> None:
        super().__init__(max_epochs, arithmetic="native")
        self.dtype = getattr(torch, dtype)

    def prepare_batch(self, batch: Any) -> Any:
        X, y = super().prepare_batch(batch)
        return X.to(self.dtype), y


class _JaxData(jax_mlp.DataModule):
    def __init__(self, examples: Examples, validate: bool = True) -> None:
        self.examples, self.validate = examples, validate

    def get_dataloader(self, train: bool) -> Any:
        e = self.examples
        if not train and not self.validate:
            return None
        if e.arrays is None:
            data = jax_mlp.FashionMNIST(e.batch_size, data=e.source, seed=e.seed)
            return data.get_dataloader(train)
        if not train and len(e.arrays) == 2:
            return None
        X, y = e.arrays[:2] if train else e.arrays[2:]
        return jax_mlp.ArrayLoader((X, y.astype(np.int32)), e.schedule(len(y), train))


class _TorchData(torch_mlp.DataModule):
    def __init__(self, examples: Examples, validate: bool = True) -> None:
        self.examples, self.validate = examples, validate

    def get_dataloader(self, train: bool) -> Any:
        e = self.examples
        if not train and not self.validate:
            return None
        if e.arrays is None:
            data = torch_mlp.FashionMNIST(e.batch_size, data=e.source, seed=e.seed)
            return data.get_dataloader(train)
        if not train and len(e.arrays) == 2:
            return None
        X, y = (np.array(a) for a in (e.arrays[:2] if train else e.arrays[2:]))
        rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(y).long())
        sampler = torch_mlp.data.ScheduleSampler(e.schedule(len(y), train))
        return torch.utils.data.DataLoader(rows, batch_size=None, sampler=sampler)


def book_pair(
    kind: str,
    hiddens: Sequence[int],
    lr: float,
    seed: int,
    inputs: int = 784,
    outputs: int = 10,
    sigma: float = 0.01,
) -> tuple[nnx.Module, torch.nn.Module]:
    """(JAX model, Torch model) of inputs-hiddens-outputs: "scratch" or "mlp", as d2l 5.2 builds
    them. sigma: the spread of the scratch model's initial weights.

    The Torch model has the weights that torch.manual_seed(seed) gives it; Torch's global generator
    is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "scratch":
            arguments = (inputs, outputs, hiddens, lr, sigma)
            return jax_mlp.MLPScratch(*arguments), torch_mlp.MLPScratch(*arguments)
        theirs = torch_mlp.MLP(outputs, hiddens, lr)
        theirs(torch.zeros(1, inputs))  # lazy layers draw their weights now, under the seed
        return jax_mlp.MLP(outputs, hiddens, lr, inputs), theirs


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: sharing out the work of a small net costs 50 times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
