"""A JAX model as a Side."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_mlp
from jax_mlp import image_bytes, programs
from jax_mlp.step import Carry, split
from mlp_core.limits import NotBytes, NotFused
from mlp_core.resuming import fingerprint
from parity.problem import PLAIN, Examples, Training
from parity.sides.bilinear import Products
from parity.sides.jax_bilinear import products_of
from parity.sides.jax_data import JaxData
from parity.sides.jax_device import about_device, jax_device
from parity.sides.jax_functions import JaxFunctions, plain
from parity.sides.jax_models import as_module, turned_weights
from parity.sides.jax_port import JaxPort
from parity.sides.jax_trainer import JaxTrainer, Step
from parity.sides.jax_types import narrowness, products, results
from parity.sides.side import Batch, Evaluation, Narrowest, Pullback, Run, told
from parity.trees import NOTHING, Arrays, Leaves, Tree, arguments, leaves, shapes


class JaxSide(JaxFunctions):
    """A JAX model of any kind. At float64 everything runs under jax.enable_x64."""

    name = "jax"

    def __init__(
        self,
        model: Any,
        examples: Examples,
        dtype: str = "float32",
        training: Training = PLAIN,
        given: bool = True,
        turn: bool = True,
        device: str | None = None,
    ) -> None:
        """given: whether a Linen module, which has no mode of its own, is in training. turn:
        whether a matrix that lies [out, in] is shown [in, out]. device: see
        jax_device."""
        super().__init__()
        self.dtype, self.examples = dtype, examples
        self.device = jax_device(device, dtype)
        with self._settings():
            module = as_module(model)
            self.turned = turned_weights(module) if turn else set()
            self.model: Any = _of_type(dtype, nnx.clone(module))
            chosen = training.loss, training.optimizer, training.mode, training.gradient
            asked = any(choice is not None for choice in chosen)
            own = isinstance(model, jax_mlp.Module) and not asked and training.accumulate == 1
            if not own:
                self.model = JaxPort(self.model, training, given)
            self.model.board = jax_mlp.ProgressBoard(display=False)
            self.images = training.images if dtype == "float32" else "floats"
            # One that a traced training_step can plot to; `fit` puts a real one in its place.
            self.model.trainer = jax_mlp.Trainer(1, arithmetic="native", images=self.images)
            self.model.trainer.tape = {}
        self._data = JaxData(examples, dtype, flat=own)
        _, params, rest = split(self.model)
        self._names = {name: name for name in self._flat(params)}
        self._state_names = {name: name for name in self._flat(rest, statistics=True)}
        self.fused = training.kernel == "fused" and dtype == "float32"
        self._check_ways(own)
        self._make_programs()

    def _make_programs(self) -> None:
        """What this side compiles, for its own device and kernels."""
        self._evaluate = programs.Quick(self.taken_fused if self.fused else self.taken)
        self._differentiate = programs.Quick(self.differentiated)
        self._pull_back: Any = jax.jit(self._pulled_back)
        self._forward: Any = jax.jit(self.outputs, static_argnames="training")

    def _check_ways(self, own: bool) -> None:
        """Raises NotFused and NotBytes for a model, or a training, that fused kernels and products
        of bytes don't compute."""
        refused = {NotFused: self.fused, NotBytes: self.images == "bytes"}
        for error in (kind for kind, asked in refused.items() if asked and not own):
            raise error(self.model, "expected a book's model, with its own loss and optimiser")
        if not any(refused.values()):
            return
        trainer = self._trainer(1)
        trainer.prepare_data(self._of(self.examples))
        if self.images == "bytes":
            image_bytes.check(trainer, self.model)
        if self.fused:
            from jax_mlp import fused

            fused.check(trainer, self.model, self.device)

    def _trainer(self, epochs: int, update_scale: float = 1.0, step: Step | None = None) -> Any:
        """Of this side's kernel and images."""
        kernel = "fused" if self.fused else "scan"
        return JaxTrainer(epochs, update_scale, self.dtype, step, kernel, self.images)

    # --- names -----------------------------------------------------------------------------------

    def call(self, params: Mapping[str, str], state: Mapping[str, str] = NOTHING) -> None:
        """Name parameters and state as the ladder does. params, state: {name until now: shared}."""
        self._names = {own: params[now] for own, now in self._names.items()}
        self._state_names = {
            own: state[now] for own, now in self._state_names.items() if now in state
        }

    def params(self) -> Arrays:
        return jax.tree.map(_numpy, self.held()[0])

    def state(self) -> Arrays:
        return jax.tree.map(_numpy, self.held()[1])

    def all_state(self) -> list[str]:
        """Own names of all statistics, those without a partner too; paired ones as shared."""
        own = self._flat(split(self.model)[2], statistics=True)
        return [self._state_names.get(name, name) for name in own]

    def of_another(self, model: Any) -> Arrays:
        """The parameters of another model of this kind, under the shared names."""
        with self._settings():
            module = as_module(model)
            named = nnx.to_flat_state(split(module)[1])
            own = {".".join(map(str, p)): leaf[...] for p, leaf in named}
            return jax.tree.map(_numpy, self._shared(own, self._names))

    def narrowest(self, inputs: Tree) -> Narrowest:
        """The narrowest float that the forward pass computes; numbers go before constants."""
        key = "narrowest", shapes(inputs), self.widens
        return self.kept(key, lambda: self._narrowest(inputs))

    def _narrowest(self, inputs: Tree) -> Narrowest:
        with self._settings():
            given = *self.held(), self.typed(inputs)
            # A function of its own: JAX keeps a trace by function, and `widens` changes it.
            jaxpr = jax.make_jaxpr(lambda *given: self.outputs(*given))(*given).jaxpr
        found = [Narrowest(), *results(jaxpr, set(jaxpr.invars))]
        kinds = {*products(jaxpr)}
        whole = bool(kinds) and "float64" not in kinds
        return replace(min(found, key=narrowness), whole=whole)

    @property
    def widens(self) -> bool:
        """Whether the model turns float64 numbers into float32: then float32 asked for is float64.

        Not of one that computes in less, where float32 is more than it was given; nor where a run
        of many steps can't go by this step, see _own_step.
        """
        if self.dtype != "float64" or not isinstance(self.model, JaxPort):
            return False
        if (found := self._kept.get("widens")) is None:
            self._kept["widens"] = False  # while it's asked
            try:
                with jax.ensure_compile_time_eval():  # it may be asked within a trace
                    inputs = next(iter(self.batches()))[0]
                narrow = self.narrowest(inputs)
                found = narrow.kind == "float32" and not (narrow.constant or self._carries_more)
                self._kept["widens"] = found
                found = found and self.narrowest(inputs).kind == "float64"
            except Exception:  # the model's own, told where it is called
                found = False
            self._kept["widens"] = found
        return found

    def load(
        self, params: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] = NOTHING
    ) -> None:
        with self._settings():
            _, own, rest = split(self.model)
            own = self._unflat(own, self._typed_like(own, params, self._names))
            rest = self._unflat(rest, self._typed_like(rest, state, self._state_names))
            nnx.update(self.model, own, rest)

    # --- data ------------------------------------------------------------------------------------

    def batches(self, train: bool = True) -> Iterator[Batch]:
        for batch in self.loader(train) or ():
            yield self._data.cut(jax.tree.map(np.asarray, batch))

    def loader(self, train: bool = True) -> Any:
        """A fresh jax_mlp.ArrayLoader, at the first epoch; None where there is no such data."""
        return JaxData(self.examples, flat=self._data.flat).get_dataloader(train)

    def stream(self, epochs: int) -> Iterator[Batch]:
        loader = self.loader()
        loader.transform = jax.jit(loader.transform)  # as the Trainer runs it, in one call
        for _ in range(epochs):
            for batch in loader:
                yield self._data.cut(jax.tree.map(np.asarray, batch))

    # --- what the ladder asks --------------------------------------------------------------------

    @told("when it is called")
    def forward(self, inputs: Tree, training: bool = True) -> Arrays:
        with self._settings():
            found = self._forward(*self.held(), self.typed(inputs), training=training)
            return jax.tree.map(_numpy, found)

    def is_random(self, inputs: Tree) -> bool:
        """Whether the outputs depend on the model's random keys, in the mode of training."""
        found = []
        with self._settings():
            for draws in (0, 1):
                model = nnx.clone(self.model)
                counts = [x for _, x in nnx.iter_graph(model) if isinstance(x, nnx.RngCount)]
                if not counts:
                    return False
                for count in counts:
                    count[...] += draws
                args, named = arguments(self.typed(inputs))
                found.append(leaves(plain(model(*args, **named)), "logits"))
        one, other = found
        return not all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)

    @told("in a training step")
    def evaluate(self, inputs: Tree, targets: Tree, step: bool = True) -> Evaluation:
        with self._settings():
            batches = self.repeated(inputs, targets)
            if step:
                found = self._evaluate(*self.held(), self.memory(), batches)
            else:
                found = self._differentiate(*self.held(), batches)
            return Evaluation(**{"step": {}} | jax.tree.map(_numpy, found))

    def prepare(self, inputs: Tree, targets: Tree, step: bool = True) -> None:
        """Begin to compile what `evaluate` will run, beside whatever comes before it."""
        with self._settings():
            batches = self.repeated(inputs, targets)
            if step:
                self._evaluate.prepare(*self.held(), self.memory(), batches)
            else:
                self._differentiate.prepare(*self.held(), batches)

    def step(
        self, params: Leaves, state: Leaves, memory: Leaves, batches: Sequence[Batch]
    ) -> dict[str, Any]:
        """`taken`, by the program that `evaluate` compiled."""
        with self._settings():
            return self._evaluate(params, state, memory, batches)

    def moved(self, inputs: Tree, targets: Tree, count: int, spread: float) -> Iterator[Evaluation]:
        """Evaluations up to the gradients, from weights w (1 + spread e), e uniform in [-1, 1]."""
        with self._settings():
            _, state = self.held()
            batches = self.repeated(inputs, targets)
            for params in self._nearby(count, spread):
                found = self._differentiate(params, state, batches)
                yield Evaluation(step={}, **jax.tree.map(_numpy, found))

    def repeated(self, inputs: Tree, targets: Tree) -> tuple[Batch, ...]:
        """One batch as often as batches make a step."""
        return ((self.typed(inputs), self.typed(targets)),) * self.accumulated

    @told("in its optimiser")
    def memory(self) -> Arrays:
        """The state of the optimiser before the first step."""
        return {name: leaf.copy() for name, leaf in self._memory.items()}

    def products(self, inputs: Tree, targets: Tree, infer: bool = False) -> Products:
        """The products of a training step, or of the forward pass alone."""
        with self._settings():
            if infer:
                jaxpr = jax.make_jaxpr(self.outputs)(*self.held(), self.typed(inputs))
            else:
                start = *self.held(), self.memory()
                jaxpr = jax.make_jaxpr(self.taken)(*start, self.repeated(inputs, targets))
        return products_of(jaxpr.jaxpr, self._settings)

    def on_floats(self) -> "JaxSide":
        """The same side, whose model gets floats, whatever they are."""
        other = copy.copy(self)
        other._kept, other.images = {}, "floats"
        other._make_programs()
        return other

    def on_the_cpu(self) -> "JaxSide":
        """The same side, computing on the CPU, beside this one."""
        other = copy.copy(self)
        other._kept = {}
        other.device, other.fused = jax.devices("cpu")[0], False
        other._make_programs()
        return other

    @told("in its backward pass")
    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        with self._settings():
            given = {name: np.asarray(a, self.dtype) for name, a in params.items()}
            arrays = (np.asarray(X, self.dtype), np.asarray(cotangent, self.dtype))
            logits, (grads, by_X) = self._pull_back(given, self.held()[1], *arrays)
            named = {name: np.asarray(leaf) for name, leaf in grads.items()}
            return Pullback(np.asarray(logits), named, np.asarray(by_X))

    @told("in training or validation")
    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        with self._settings():
            model = nnx.clone(self.model)
            trainer = self._trainer(epochs, update_scale, self._own_step())
            history = trainer.fit(model, self._of(self.examples))
            return self._run(history, model)

    def twins(self, epochs: int, count: int, spread: float) -> list[Run]:
        """Runs like `train`'s, but from weights w (1 + spread e), e uniform in [-1, 1]."""
        with self._settings():
            models = [nnx.clone(self.model) for _ in range(count)]
            for model, params in zip(models, self._nearby(count, spread), strict=True):
                _, own, _ = split(model)
                given = self._typed_like(own, params, self._names)
                nnx.update(model, self._unflat(own, given))
            if step := self._own_step():
                trainers = [JaxTrainer(epochs, 1.0, self.dtype, step) for _ in models]
                both = zip(trainers, models, strict=True)
                histories = [t.fit(model, self._of(self.examples)) for t, model in both]
                return [self._run(h, model) for h, model in zip(histories, models, strict=True)]
            sweep = jax_mlp.Sweep(epochs, arithmetic="native")
            try:
                histories = sweep.fit(models, self._of(self.examples))
            except ValueError as error:
                if "mesh" not in str(error):
                    raise
                # A step that is a program over devices itself: JAX nests none in the sweep's.
                data = [self._of(self.examples) for _ in models]
                trainers = [JaxTrainer(epochs, 1.0, self.dtype) for _ in models]
                fits = zip(trainers, models, data, strict=True)
                histories = [trainer.fit(model, own) for trainer, model, own in fits]
            return [self._run(h, model) for h, model in zip(histories, models, strict=True)]

    def accuracy(self, logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray] | None:
        if not isinstance(self.model, jax_mlp.Classifier):
            return None
        given = jnp.asarray(logits), jnp.asarray(labels)
        both = (self.model.accuracy(*given, averaged=averaged) for averaged in (False, True))
        return [np.asarray(figure) for figure in both]

    def not_reproducible(self) -> list[str]:
        if isinstance(self.model, JaxPort):
            return ["it computes by operations of its own, not by those of self.ops"]
        model = nnx.clone(self.model)
        model.trainer = jax_mlp.Trainer(1, arithmetic="reproducible")
        return model.not_reproducible()

    def reproducible_epoch(self) -> Run:
        with jax.default_device(self.device):
            model = nnx.clone(self.model)
            options: dict[str, Any] = {"at_nan": "ignore", "processes": 1}
            trainer = jax_mlp.Trainer(1, arithmetic="reproducible", **options)
            history = trainer.fit(model, JaxData(self.examples.reproducible, flat=self._data.flat))
            return self._run(history, model)

    def program(self, alone: bool = False) -> str:
        """A step as JAX traces it, with its constants; alone: the outputs without a step."""
        inputs, targets = next(self.batches())
        with self._settings():
            given: tuple[Any, ...] = *self.held(), self.typed(inputs)
            if not alone:
                given = *given[:2], self.memory(), self.repeated(inputs, targets)
            jaxpr = jax.make_jaxpr(self.outputs if alone else self.taken)(*given)
        return f"{jaxpr} {fingerprint(map(np.asarray, jaxpr.consts))}"

    def about(self) -> dict[str, Any]:
        inner = self.model.net if isinstance(self.model, JaxPort) else self.model
        return {
            "model": f"{type(inner).__module__}.{type(inner).__name__}",
            "versions": {"jax": jax.__version__, "optax": optax.__version__},
            "matmul precision": "highest",
            **about_device(self.device),
        }

    # --- pure functions, which can be compiled, bounded, mapped ----------------------------------

    def idle(self, gradients: Arrays) -> set[str]:
        """Slots of the optimiser whose values change nothing, neither a step nor what follows it:
        trace = gradient + 0 trace, for a momentum of 0."""
        with self._settings():
            given, memory, step = self.held()[0], self.memory(), jax.jit(self.updated)
            plain = jax.tree.map(np.asarray, step(given, gradients, memory))
            slots = {name.partition(".")[0] for name in memory}
            return {
                slot
                for slot in slots
                if _equal(
                    plain,
                    step(
                        given,
                        gradients,
                        {
                            n: leaf + 1 if n.partition(".")[0] == slot else leaf
                            for n, leaf in memory.items()
                        },
                    ),
                )
            }

    def forget(self) -> None:
        """Let go of what was compiled, and of what was computed for this side."""
        self._kept.clear()
        self._evaluate.forget()
        self._differentiate.forget()
        for jitted in (self._pull_back, self._forward):
            jitted.clear_cache()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """jax.jit of a function, run under the side's precision settings."""
        jitted = jax.jit(function)

        def run(*args: Any) -> Any:
            with self._settings():
                return jitted(*args)

        return run

    def _of(self, examples: Examples) -> JaxData:
        return JaxData(examples, self.dtype, self._data.flat)

    def _run(self, history: Any, model: Any) -> Run:
        _, params, rest = split(model)
        state = self._shared(self._flat(rest, statistics=True), self._state_names)
        params = self._shared(self._flat(params), self._names)
        return Run(history, jax.tree.map(_numpy, params), jax.tree.map(_numpy, state))

    def _nearby(self, count: int, spread: float) -> Iterator[Arrays]:
        """The twins' weights."""
        rng, own = np.random.default_rng(0), self.params()
        for _ in range(count):
            yield {name: w * (1 + spread * rng.uniform(-1, 1, w.shape)) for name, w in own.items()}

    def _own_step(self) -> Step | None:
        """One step by the program that `evaluate` compiled, where it is large or widened; None
        where it isn't, or where more is carried from step to step than that program returns."""
        if self._carries_more or not isinstance(self.model, JaxPort):
            return None
        start = *self.held(), self.memory()
        large = self._evaluate.large(*start, self.repeated(*next(iter(self.batches()))))
        if not large and not self.widens:
            return None

        def step(carry: Carry, batch: Any) -> tuple[Carry, Any]:
            inputs, targets = self._data.cut(jax.tree.map(np.asarray, batch))
            given = self._shared(self._flat(carry.params), self._names)
            state = self._shared(self._flat(carry.rest), self._state_names)
            memory = self._memorised(carry.memory)
            taken = self._evaluate(given, state, memory, self.repeated(inputs, targets))
            return Carry(
                self._unflat(carry.params, self._owned(taken["step"], self._names)),
                self._unflat(carry.rest, self._owned(taken["state"], self._state_names)),
                self._remembered(taken["memory"]),
            ), taken["loss"]

        return step


def _equal(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def _numpy(leaf: Any) -> np.ndarray:
    """NumPy's array; types that it lacks become float32, which holds them."""
    array = np.array(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _of_type(dtype: str, model: nnx.Module) -> nnx.Module:
    """The model with all its floats, parameters or not, in a type; narrower ones than float32
    stay, unless all are to be float64. Then a module's own dtype of float32 is too: nnx.Embed, for
    one, keeps that of its parameters when it's made, and would round to it."""

    def cast(leaf: Any) -> Any:
        kind = leaf.dtype
        if not jnp.issubdtype(kind, np.floating):
            return leaf
        narrow = jnp.finfo(kind).bits < 32 and dtype == "float32"
        return leaf if narrow else jax.device_put(np.asarray(leaf).astype(dtype))

    nnx.update(model, jax.tree.map(cast, nnx.state(model)))
    for _, module in nnx.iter_modules(model) if dtype == "float64" else ():
        if _is_float32(vars(module).get("dtype")):
            vars(module)["dtype"] = jnp.float64
    return model


def _is_float32(kind: Any) -> bool:
    try:
        return kind is not None and np.dtype(kind) == np.float32
    except TypeError:  # a model may call anything its dtype
        return False
