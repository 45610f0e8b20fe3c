"""A Flax NNX model as a Side, and the reference that its jaxpr gives."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.nnx as nnx
import jax
import numpy as np
import optax

import jax_mlp
import jax_mlp.checkpoint
from parity.rounding.bound import bound
from parity.sides.side import Arrays, Evaluation, Examples, Pullback, Reference, Run


class JaxSide:
    """A Flax NNX model. At float64 everything runs under jax.enable_x64."""

    name = "jax"

    def __init__(
        self, model: nnx.Module, examples: Examples, dtype: str = "float32", lr: float = 0.1
    ) -> None:
        self.dtype = dtype
        self.examples = examples
        with self._settings():
            self.model: Any = _of_type(dtype, nnx.clone(model))
            if not isinstance(model, jax_mlp.Classifier):
                self.model = _JaxPort(self.model, lr)
            self.model.board = jax_mlp.ProgressBoard(display=False)
            # One that a traced training_step can plot to; `fit` puts a real one in its place.
            self.model.trainer = jax_mlp.Trainer(max_epochs=1, arithmetic="native")
            self.model.trainer.tape = {}
        self._traced = self._evaluation  # one object, so that compiled forms are found again
        self._evaluate = jax.jit(self._traced)
        self._pull_back = jax.jit(self._pulled_back)

    def params(self) -> Arrays:
        return self._named(self.model)

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
        loader.transform = jax.jit(loader.transform)  # as the Trainer runs it, in one call
        for _ in range(epochs):
            for X, y in loader:
                yield np.asarray(X), np.asarray(y)

    def evaluate(self, X: np.ndarray, y: np.ndarray) -> Evaluation:
        with self._settings():
            values = self._evaluate(self.params(), np.asarray(X, self.dtype), y)
            return Evaluation(*jax.tree.map(np.asarray, values))

    def twice(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of two calls with the same inputs, in training mode."""
        with self._settings():
            model, inputs = nnx.clone(self.model), jax.numpy.asarray(X, self.dtype)
            return np.asarray(model(inputs)), np.asarray(model(inputs))

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        with self._settings():
            given = {self._inside(n): np.asarray(a, self.dtype) for n, a in params.items()}
            arrays = (np.asarray(X, self.dtype), np.asarray(cotangent, self.dtype))
            logits, (grads, by_X) = self._pull_back(given, *arrays)
            named = {self._outside(name): np.asarray(leaf) for name, leaf in grads.items()}
            return Pullback(np.asarray(logits), named, np.asarray(by_X))

    def bounds(self, X: np.ndarray, y: np.ndarray, roundoff: float) -> Reference:
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
            trainer = _JaxTrainer(epochs, update_scale)
            history = trainer.fit(model, _JaxData(self.examples, self.dtype))
            return Run(history, self._named(model))

    def twins(self, epochs: int, count: int, spread: float) -> list[Run]:
        """Runs like `train`'s, but from weights w (1 + spread e), e uniform in [-1, 1]."""
        with self._settings():
            models = [nnx.clone(self.model) for _ in range(count)]
            for model, params in zip(models, self._nearby(count, spread), strict=True):
                moved = {self._inside(name): w for name, w in params.items()}
                jax_mlp.checkpoint.set_params(model, moved)
            sweep = jax_mlp.Sweep(epochs, arithmetic="native")
            histories = sweep.fit(models, _JaxData(self.examples, self.dtype))
            return [Run(h, self._named(model)) for h, model in zip(histories, models, strict=True)]

    def _nearby(self, count: int, spread: float) -> list[Arrays]:
        """The twins' weights."""
        rng, own = np.random.default_rng(0), self.params()
        return [
            {name: w * (1 + spread * rng.uniform(-1, 1, w.shape)) for name, w in own.items()}
            for _ in range(count)
        ]

    def not_reproducible(self) -> list[str]:
        model = nnx.clone(self.model)
        model.trainer = jax_mlp.Trainer(1, arithmetic="reproducible")
        return model.not_reproducible()

    def reproducible_epoch(self) -> Run:
        model = nnx.clone(self.model)
        trainer = jax_mlp.Trainer(1, arithmetic="reproducible")
        history = trainer.fit(model, _JaxData(self.examples.reproducible))
        return Run(history, self._named(model))

    def about(self) -> dict[str, Any]:
        device = jax.devices()[0]
        return {
            "model": self._type_name(),
            "versions": {"jax": jax.__version__, "optax": optax.__version__},
            "device": device.device_kind,
            "matmul precision": "highest",
        }

    def _named(self, model: nnx.Module) -> Arrays:
        named = jax_mlp.checkpoint.named_params(model)
        return {self._outside(name): np.array(array) for name, array in named.items()}

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


def _of_type(dtype: str, model: nnx.Module) -> nnx.Module:
    """The model with all its floats, parameters or not, in a type."""

    def cast(leaf: Any) -> Any:
        is_float = jax.numpy.issubdtype(leaf.dtype, np.floating)
        return jax.numpy.asarray(leaf, dtype) if is_float else leaf

    nnx.update(model, jax.tree.map(cast, nnx.state(model)))
    return model


class _JaxPort(jax_mlp.Classifier):
    """A plain NNX module as a Classifier: cross-entropy, plain SGD."""

    def __init__(self, net: nnx.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr


class _JaxTrainer(jax_mlp.Trainer):
    def __init__(self, max_epochs: int, update_scale: float) -> None:
        super().__init__(max_epochs, arithmetic="native")
        self.update_scale = update_scale

    def prepare_model(self, model: Any) -> None:
        super().prepare_model(model)
        if self.update_scale != 1.0:
            plain: Callable = model.configure_optimizers
            scale = optax.scale(self.update_scale)
            model.configure_optimizers = lambda: optax.chain(plain(), scale)


class _JaxData(jax_mlp.DataModule):
    """The examples, in float32 or float64 as a model is."""

    def __init__(self, examples: Examples, dtype: str = "float32") -> None:
        self.examples, self.dtype = examples, dtype

    def get_dataloader(self, train: bool) -> Any:
        e = self.examples
        if not train and not e.validated:
            return None
        transform: Callable = _as_they_are
        rows: Any
        if e.arrays is None:
            data = jax_mlp.FashionMNIST(e.batch_size, data=e.source, seed=e.seed)
            whole = data.get_dataloader(train)
            rows, transform = whole.host_arrays, whole.transform
        elif train or len(e.arrays) == 4:
            X, y = e.arrays[:2] if train else e.arrays[2:]
            rows = X, y.astype(np.int32)
        else:
            return None
        schedule = e.schedule(len(rows[-1]), train)
        taken = [array[: schedule.num_examples] for array in rows]

        def typed(*rows: Any) -> Any:
            X, y = transform(*rows)
            return X.astype(self.dtype), y

        return jax_mlp.ArrayLoader(taken, schedule, typed)


def _as_they_are(*rows: Any) -> Any:
    return rows
