"""The rows of the benchmark that run on Torch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import torch_mlp
from mlp_core.schedule import Schedule
from parity.device import Device
from parity.sides.torch_device import torch_device
from parity.studies.bench.pace import Pace
from parity.studies.bench.timing import Size

PRECISIONS = {"highest": "highest", "tf32": "high", "bf16": "medium"}


class Training(torch_mlp.FashionMNIST):
    """The first examples of Fashion-MNIST, without validation."""

    def __init__(self, size: Size, data: str | None) -> None:
        super().__init__(size.batch, data=data)
        rows = torch.arange(size.examples) % len(self.train)
        self.train.data = self.train.data[rows]
        self.train.targets = self.train.targets[rows]

    def get_dataloader(self, train: bool) -> Any:
        return super().get_dataloader(train) if train else None


class PerItem(Training):
    """As d2l 1.0.3 loads: an image at a time through ToTensor, in four worker processes."""

    def get_dataloader(self, train: bool) -> Any:
        if not train:
            return None
        return DataLoader(self.train, self.batch_size, shuffle=True, num_workers=4)


def gpus() -> int:
    return int(torch.cuda.is_available())


def scratch(
    size: Size, data: str | None, pace: Pace, loads: type = Training, **options: Any
) -> None:
    model = torch_mlp.MLPScratch(784, 10, size.hiddens, lr=0.1)
    pace.train(torch_mlp.Trainer, gpus(), model=model, data=loads(size, data), **options)


def concise(size: Size, data: str | None, pace: Pace, **options: Any) -> None:
    model = torch_mlp.MLP(10, size.hiddens, lr=0.1)
    pace.train(torch_mlp.Trainer, gpus(), model=model, data=Training(size, data), **options)


def plain(size: Size, data: str | None, pace: Pace) -> None:
    """The best plain loop over tensors in memory that we know: no loader, no hooks, no board."""
    device = torch.device("cuda" if gpus() else "cpu")
    train = Training(size, data).train
    images, labels = train.data.reshape(-1, 784).to(device), train.targets.to(device)
    widths = (784, *size.hiddens)
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(size.width, 10)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = Schedule(size.examples, size.batch)

    def epoch() -> None:
        losses = []
        for rows in torch.from_numpy(schedule.epoch(0)).long().to(device).split(size.batch):
            X, y = images.index_select(0, rows).div(255), labels.index_select(0, rows)
            loss = nn.functional.cross_entropy(net(X), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses).tolist()

    name = torch.cuda.get_device_name() if gpus() else "cpu"
    pace.run(epoch, {"torch": str(torch.__version__)}, name)


ROWS: dict[str, Callable[..., None]] = {
    "torch scratch": scratch,
    "torch mlp": concise,
    "torch mlp compiled": partial(concise, compile=True),
    "torch reproducible": partial(scratch, arithmetic="reproducible"),
    "torch plain loop": plain,
    "torch DataLoader, d2l": partial(scratch, loads=PerItem),
}


def main(
    name: str, size: Size, data: str | None, precision: str, device: Device | None, pace: Pace
) -> None:
    if device == "cuda":
        torch_device(device)  # a row that runs on the CPU would stand among those of the GPU
    if gpus():
        pace.device_bytes = torch.cuda.max_memory_allocated
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    torch.manual_seed(0)
    ROWS[name](size, data, pace)
