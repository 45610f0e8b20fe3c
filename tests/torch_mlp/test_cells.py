"""The book's cells, as the notes have them, against a loop without any of this package."""

from itertools import islice

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

import torch_mlp

# shared/seeds/004, verbatim but for the third import, once `from d2l import torch as d2l`.
IMPORTS = """
import torch
from torch import nn
import torch_mlp as d2l
"""
FROM_SCRATCH = """
class MLPScratch(d2l.Classifier):
    def __init__(self, num_inputs, num_outputs, num_hiddens, lr, sigma=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.W1 = nn.Parameter(torch.randn(num_inputs, num_hiddens) * sigma)
        self.b1 = nn.Parameter(torch.zeros(num_hiddens))
        self.W2 = nn.Parameter(torch.randn(num_hiddens, num_outputs) * sigma)
        self.b2 = nn.Parameter(torch.zeros(num_outputs))

def relu(X):
    a = torch.zeros_like(X)
    return torch.max(X, a)

@d2l.add_to_class(MLPScratch)
def forward(self, X):
    X = X.reshape((-1, self.num_inputs))
    H = relu(torch.matmul(X, self.W1) + self.b1)
    return torch.matmul(H, self.W2) + self.b2

model = MLPScratch(num_inputs=784, num_outputs=10, num_hiddens=256, lr=0.1)
data = d2l.FashionMNIST(batch_size=256)
trainer = d2l.Trainer(max_epochs=10)
trainer.fit(model, data)
"""
CONCISE = """
class MLP(d2l.Classifier):
    def __init__(self, num_outputs, num_hiddens, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_hiddens),
                                 nn.ReLU(), nn.LazyLinear(num_outputs))

model = MLP(num_outputs=10, num_hiddens=256, lr=0.1)
trainer.fit(model, data)
"""
EPOCHS = 2


def loaders(root):
    """What the book's FashionMNIST does: image after image through PIL, stacked to batches."""
    steps = transforms.Compose([transforms.Resize((28, 28)), transforms.ToTensor()])
    for train in (True, False):
        images = torchvision.datasets.FashionMNIST(root, train, transform=steps)
        yield DataLoader(images, 256, shuffle=train, num_workers=0)


def plain_run(parameters, forward, train, val, epochs):
    """Loss after loss of plain SGD. parameters is called when the first batch has been drawn."""
    optim = None
    for _ in range(epochs):
        for X, y in train:
            logits = forward(X)
            optim = optim or torch.optim.SGD(parameters(), lr=0.1)
            loss = F.cross_entropy(logits, y)
            optim.zero_grad()
            loss.backward()
            optim.step()
            yield loss.item()
        next(iter(val), None)  # the book validates each epoch, and iterating draws a number as well


def plain_scratch(train, val, epochs):
    W1, b1 = torch.randn(784, 256) * 0.01, torch.zeros(256)
    W2, b2 = torch.randn(256, 10) * 0.01, torch.zeros(10)
    own = [tensor.requires_grad_() for tensor in (W1, b1, W2, b2)]

    def forward(X):
        H = X.reshape((-1, 784)) @ W1 + b1
        return torch.max(H, torch.zeros_like(H)) @ W2 + b2

    return plain_run(lambda: own, forward, train, val, epochs)


def plain_concise(train, val, epochs):
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(10))
    return plain_run(net.parameters, net, train, val, epochs)


@pytest.fixture(scope="module")
def cells():
    """The data set's folder and the two histories of the cells, of EPOCHS epochs each, seed 3."""
    histories = []

    class Trainer(torch_mlp.Trainer):
        def __init__(self, max_epochs):
            super().__init__(EPOCHS)

        def fit(self, model, data):
            histories.append(super().fit(model, data))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASHION_MNIST_DIR", "sample")
        patch.setattr(torch_mlp, "Trainer", Trainer)
        torch.manual_seed(3)
        notebook = {}
        for cell in (IMPORTS, FROM_SCRATCH, CONCISE):
            exec(cell, notebook)
    return notebook["data"].root, *histories


def test_the_cells_run_unchanged_and_each_loss_has_the_bits_of_a_plain_loop(cells):
    root, scratch, concise = cells
    torch.manual_seed(3)
    train, val = loaders(root)
    assert len(train) == 24  # 6,000 images, the last batch of 112
    assert scratch.train_loss == list(plain_scratch(train, val, EPOCHS))
    # The second model goes on in the same random stream: its losses show where the first left it.
    assert concise.train_loss[:24] == list(plain_concise(train, val, 1))
    assert len(concise.train_loss) == 24 * EPOCHS
    assert concise.train_loss[-1] < concise.train_loss[0] / 2


def test_one_number_drawn_less_would_show_in_the_losses(cells):
    root, scratch, _ = cells
    torch.manual_seed(3)
    train, _ = loaders(root)
    *losses, later = islice(plain_scratch(train, [], EPOCHS), 25)  # validation draws nothing
    assert scratch.train_loss[:24] == losses
    assert scratch.train_loss[24] != later


def test_the_finished_models_are_the_cells_models(cells):
    _, *histories = cells
    torch.manual_seed(3)
    makers = (
        lambda: torch_mlp.MLPScratch(num_inputs=784, num_outputs=10, num_hiddens=256, lr=0.1),
        lambda: torch_mlp.MLP(num_outputs=10, num_hiddens=256, lr=0.1),
    )
    data, trainer = torch_mlp.FashionMNIST(256, data="sample"), torch_mlp.Trainer(EPOCHS)
    for make, cell in zip(makers, histories, strict=True):
        history = trainer.fit(make(), data)
        assert history.train_loss == cell.train_loss
        assert history.val("acc") == cell.val("acc")
