"""A Torch module as a Side. The only file, beside sides.py, that imports Torch."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torch_mlp
import torch_mlp.data
from parity.sides.side import Arrays, Evaluation, Examples, Pullback, Run
from parity.sides.weights import Rearrangement, Turned


class TorchSide:
    """A Torch module. A weight of nn.Linear is [out, in] in Torch; outside it is [in, out]."""

    name = "torch"

    def __init__(
        self,
        model: torch.nn.Module,
        examples: Examples,
        dtype: str = "float32",
        lr: float = 0.1,
        weights: Callable[[Arrays], Any] | None = None,
    ) -> None:
        """weights: from Torch's arrays, named and shaped as there, to those that the side shows.
        Raises ValueError if it does more than move elements."""
        self.dtype = dtype
        self.examples = examples
        for name, parameter in model.named_parameters():
            if parameter.device.type != "cpu":
                raise ValueError(
                    f"torch: '{name}' is on {parameter.device}, expected the CPU: model.cpu()"
                )
        # A trainer holds the data: the copy does without.
        memo = {id(trainer): None} if (trainer := getattr(model, "trainer", None)) else {}
        self.model: Any = copy.deepcopy(model, memo)
        if not isinstance(model, torch_mlp.Classifier):
            self.model = _TorchPort(self.model, lr)
        modes = {module: module.training for module in self.model.modules()}
        with self._settings(), torch.no_grad():
            X, _ = next(self.batches())
            self.model.eval()(torch.from_numpy(X))  # lazy layers take their shapes
        for module, training in modes.items():
            module.training = training
        self.model.to(getattr(torch, dtype))
        self.model.board = torch_mlp.ProgressBoard(display=False)
        inner = self.model.inner if isinstance(self.model, _TorchPort) else self.model
        self._inner = inner
        self.turned = {
            f"{name}.weight" if name else "weight"
            for name, layer in inner.named_modules()
            if isinstance(layer, torch.nn.Linear)
        }
        own = {n: p.detach().float().numpy() for n, p in inner.named_parameters()}
        self._layout = Rearrangement(weights, own) if weights else Turned(self.turned, own)

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether this is a model for a TorchSide."""
        return isinstance(model, torch.nn.Module)

    def params(self) -> Arrays:
        return self._named({n: p.detach() for n, p in self._inner.named_parameters()})

    def load(self, params: Mapping[str, np.ndarray]) -> None:
        inside = self._layout.back(params)
        with torch.no_grad():
            for name, parameter in self._inner.named_parameters():
                parameter.numpy()[...] = inside[name]

    def batches(self, train: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for X, y in TorchData(self.examples).get_dataloader(train) or ():
            yield X.numpy(), y.numpy().astype(np.int32)

    def stream(self, epochs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        loader = TorchData(self.examples).get_dataloader(True)
        for _ in range(epochs):
            for X, y in loader:
                yield X.numpy(), y.numpy().astype(np.int32)

    def evaluate(self, X: np.ndarray, y: np.ndarray) -> Evaluation:
        with self.restored():
            optimizer, logits, loss = self._backward(X, y)
            gradients = self._named(
                {
                    name: torch.zeros_like(p) if p.grad is None else p.grad
                    for name, p in self._inner.named_parameters()
                }
            )  # copied now: the optimiser may change them
            optimizer.step()
            return Evaluation(
                logits.detach().numpy(), loss.detach().numpy(), gradients, self.params()
            )

    def step(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """(loss before the step, parameters after it), which are loaded then."""
        optimizer, _, loss = self._backward(X, y)
        optimizer.step()
        return loss.detach().numpy(), self.params()

    def _backward(self, X: np.ndarray, y: np.ndarray) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """(optimiser that is about to step, logits, loss); the gradients are where it looks."""
        trainer = self.model.trainer = torch_mlp.Trainer(max_epochs=1, arithmetic="native")
        trainer.train_batch_idx, trainer.num_train_batches = 0, 1
        with self._settings():
            optimizer = self.model.configure_optimizers()
            images, labels = np.require(X, self.dtype, "W"), np.require(y, np.int64, "W")
            batch = torch.from_numpy(images), torch.from_numpy(labels)
            seen: list[torch.Tensor] = []
            tap = self.model.register_forward_hook(lambda model, X, out: seen.append(out))
            loss = self.model.training_step(batch)
            tap.remove()
            optimizer.zero_grad()
            loss.backward()
        return optimizer, seen[0], loss

    def twice(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The outputs of two calls with the same inputs, in training mode."""
        with self._settings(), torch.no_grad():
            model = copy.deepcopy(self.model).train()
            inputs = torch.from_numpy(np.require(X, self.dtype, "W"))
            return model(inputs).numpy(), model(inputs).numpy()

    def hidden(self, X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(pre-activations, activations) between each matrix product and the next.

        Read off the operations that run, so that it doesn't matter how the model is written.
        """
        with self._settings(), self.restored(), torch.no_grad(), _Products() as seen:
            self.model(torch.from_numpy(np.require(X, self.dtype, "W")))
        return seen.between

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        names, leaves = zip(*self._inner.named_parameters(), strict=True)
        with self._settings(), self.restored():
            self.load(params)
            inputs = torch.tensor(np.asarray(X, self.dtype)).requires_grad_()
            logits = self.model(inputs)
            weights = torch.tensor(np.asarray(cotangent, self.dtype))
            *by_params, by_X = torch.autograd.grad(
                logits, [*leaves, inputs], weights, materialize_grads=True
            )
        return Pullback(
            logits.detach().numpy(),
            self._named(dict(zip(names, by_params, strict=True))),
            by_X.numpy(),
        )

    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        if update_scale != 1.0:
            raise NotImplementedError("torch: the yardstick is run on the JAX side")
        with self._settings(), self.restored():
            trainer = TorchTrainer(max_epochs=epochs, dtype=self.dtype)
            history = trainer.fit(self.model, TorchData(self.examples))
            return Run(history, self.params())

    def not_reproducible(self) -> list[str]:
        self.model.trainer = torch_mlp.Trainer(1, arithmetic="reproducible")
        return self.model.not_reproducible()

    def reproducible_epoch(self) -> Run:
        trainer = torch_mlp.Trainer(1, arithmetic="reproducible")
        with self.restored():
            history = trainer.fit(self.model, TorchData(self.examples.reproducible))
            return Run(history, self.params())

    def about(self) -> dict[str, Any]:
        return {
            "model": f"{type(self._inner).__module__}.{type(self._inner).__name__}",
            "versions": {"torch": str(torch.__version__)},
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "matmul precision": "highest",
        }

    def _named(self, tensors: Mapping[str, torch.Tensor]) -> Arrays:
        return self._layout.there({name: t.numpy() for name, t in tensors.items()})

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Afterwards parameters and buffers are what they were before."""
        before = {name: tensor.detach().clone() for name, tensor in self._tensors()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._tensors():
                    tensor.copy_(before[name])

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.model.named_parameters()
        yield from self.model.named_buffers()

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


class _Products(TorchDispatchMode):
    """While it lasts, keeps what lies between a matrix product and the next."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[tuple[np.ndarray, np.ndarray]] = []
        self._last, self._result = None, np.empty(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, op = func(*args, **(kwargs or {})), func.overloadpacket
        product = op in (torch.ops.aten.mm, torch.ops.aten.addmm)  # all others come down to these
        if product and self._last is not None:
            factor = args[op is torch.ops.aten.addmm]
            self.between.append((self._result, _copied(factor)))
        biased = op is torch.ops.aten.add and any(x is self._last for x in args)
        if product or biased:
            self._last, self._result = out, _copied(out)
        return out


def _copied(tensor: torch.Tensor) -> np.ndarray:
    """In float64, which NumPy has and holds bfloat16 too; what follows may overwrite the tensor."""
    return tensor.detach().double().numpy().copy()


class _TorchPort(torch_mlp.Classifier):
    """A plain Torch module as a Classifier: cross-entropy, plain SGD."""

    def __init__(self, inner: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.inner, self.lr = inner, lr

    def forward(self, X: Any) -> Any:
        return self.inner(X)


class TorchTrainer(torch_mlp.Trainer):
    def __init__(self, max_epochs: int, dtype: str) -> None:
        super().__init__(max_epochs, arithmetic="native")
        self.dtype = getattr(torch, dtype)

    def prepare_batch(self, batch: Any) -> Any:
        X, y = super().prepare_batch(batch)
        return X.to(self.dtype), y


class TorchData(torch_mlp.DataModule):
    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def get_dataloader(self, train: bool) -> Any:
        e = self.examples
        if not train and not e.validated:
            return None
        rows: Any
        if e.arrays is None:
            data = torch_mlp.FashionMNIST(e.batch_size, data=e.source, seed=e.seed)
            if e.limit is None:
                return data.get_dataloader(train)
            rows = data.train if train else data.val
        elif train or len(e.arrays) == 4:
            X, y = (np.array(a) for a in (e.arrays[:2] if train else e.arrays[2:]))
            rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(y).long())
        else:
            return None
        sampler = torch_mlp.data.ScheduleSampler(e.schedule(len(rows), train))
        return torch.utils.data.DataLoader(rows, batch_size=None, sampler=sampler)


@contextlib.contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Torch on so many threads; by default on half of those that it has, for JAX works beside it.

    A small net wants one: sharing out its work costs 50 times the work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)
