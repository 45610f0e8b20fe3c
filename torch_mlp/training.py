"""Trainer: epochs over a data module, step by step, to the bits of d2l 1.0.3 (d2l 3.2, 3.4)."""

import time
from typing import Any

import torch

from mlp_core.arithmetic import NotReproducible, checked, in_force
from mlp_core.history import Epoch, History, about
from mlp_core.shell import HyperParameters, progress_bar
from torch_mlp.reproducible import Arithmetic


class Trainer(HyperParameters):
    """Fits a Module to a DataModule."""

    def __init__(
        self,
        max_epochs: int,
        num_gpus: int = 0,
        gradient_clip_val: float | int = 0,
        arithmetic: str | Arithmetic | None = None,
    ) -> None:
        """num_gpus: how many CUDA devices may be used, if there; the first one is.
        gradient_clip_val: largest global norm of the gradient; 0 clips nothing.
        arithmetic: "native" or "reproducible"; None leaves it to the model.
        """
        self.save_hyperparameters()
        checked(arithmetic)
        self.gpus = [
            torch.device("cuda", i) for i in range(min(num_gpus, torch.cuda.device_count()))
        ]

    def prepare_data(self, data: Any) -> None:
        self.train_dataloader = data.train_dataloader()
        self.val_dataloader = data.val_dataloader()
        self.num_train_batches = len(self.train_dataloader)
        self.num_val_batches = len(self.val_dataloader) if self.val_dataloader is not None else 0

    def prepare_model(self, model: Any) -> None:
        model.trainer = self
        model.board.xlim = [0, self.max_epochs]
        if self.gpus:
            model.to(self.gpus[0])
        self.model = model

    def prepare_batch(self, batch: Any) -> Any:
        """The batch as the model gets it: on its device."""
        return [tensor.to(self.gpus[0]) for tensor in batch] if self.gpus else batch

    def fit(self, model: Any, data: Any) -> History:
        """Train `model` on `data` for max_epochs.

        Ctrl-C stops between two steps; then `trainer.history` holds what was measured until
        then, and the model the weights of its last step.
        Raises NotReproducible for a model that computes by other means than the arithmetic asked
        for.
        """
        self.prepare_data(data)
        self.prepare_model(model)
        self.optim = model.configure_optimizers()
        if in_force(model, self) != "native" and (why := model.not_reproducible(self.optim)):
            raise NotReproducible(model, why)
        self.epoch = self.train_batch_idx = self.val_batch_idx = 0
        device = torch.cuda.get_device_name(self.gpus[0]) if self.gpus else "cpu"
        self.history = History(about=about("torch", model, data, self, device, ["torch"]))
        with progress_bar(self.max_epochs * self.num_train_batches, "step", "torch") as self.bar:
            try:
                for epoch in range(self.max_epochs):
                    self.epoch = epoch
                    self.fit_epoch()
            except KeyboardInterrupt:
                self.history.interrupted = True
                raise
        return self.history

    def fit_epoch(self) -> None:
        """All training batches, then all validation batches."""
        self.model.train()
        self.epoch_record = Epoch(steps=0, samples=0, seconds=0.0)
        self.history.epochs.append(self.epoch_record)
        start = time.perf_counter()
        for batch in self.train_dataloader:
            loss = self.model.training_step(self.prepare_batch(batch))
            self.optim.zero_grad()
            with torch.no_grad():
                loss.backward()
                if self.gradient_clip_val > 0:
                    self.clip_gradients(self.gradient_clip_val, self.model)
                self.optim.step()
            self.train_batch_idx += 1
            self.history.train_loss.append(loss.item())
            self.epoch_record.steps += 1
            self.epoch_record.samples += len(batch[-1])
            self.epoch_record.seconds = time.perf_counter() - start
            self.bar.update()
        if not self.epoch_record.steps:
            raise ValueError(
                f"Trainer: the train loader gave no batches, expected {self.num_train_batches}; "
                "can it be iterated over only once?"
            )
        if not self.num_val_batches:
            return
        self.model.eval()
        self._validation: dict[str, tuple[float, int]] = {}
        for batch in self.val_dataloader:
            self._batch_examples = len(batch[-1])
            with torch.no_grad():
                self.model.validation_step(self.prepare_batch(batch))
            self.val_batch_idx += 1
        # Set at once, so that an interrupted validation leaves no mean over part of the set.
        self.epoch_record.val = {key: total / n for key, (total, n) in self._validation.items()}
        self.bar.set_postfix(self.epoch_record.val)

    def record_validation(self, key: str, value: float) -> None:
        """Add one batch's mean to the epoch's example-weighted mean. Called by Module.plot."""
        total, examples = self._validation.get(key, (0.0, 0))
        n = self._batch_examples
        self._validation[key] = (total + n * value, examples + n)

    def clip_gradients(self, grad_clip_val: float | int, model: Any) -> None:
        """Scale all gradients so that their global norm is at most grad_clip_val.

        g <- g * min(1, c / norm(g)). Source: d2l 9.5.
        """
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        for name, g in model.ops.clipped(grads, grad_clip_val).items():
            grads[name].copy_(g)
