"""The book's multilayer perceptron in Torch: `import torch_mlp as d2l` (d2l 5.2)."""

from mlp_core.extras import needs

needs("torch_mlp", "torch")

from torch import manual_seed

from mlp_core.arithmetic import any_arithmetic
from mlp_core.history import History
from mlp_core.shell import HyperParameters, ProgressBoard, add_to_class, show_images
from torch_mlp.classifier import Classifier, Module
from torch_mlp.data import DataModule, FashionMNIST
from torch_mlp.mlp import MLP
from torch_mlp.scratch import MLPScratch, relu
from torch_mlp.training import Trainer

__all__ = [
    "MLP",
    "Classifier",
    "DataModule",
    "FashionMNIST",
    "History",
    "HyperParameters",
    "MLPScratch",
    "Module",
    "ProgressBoard",
    "Trainer",
    "add_to_class",
    "any_arithmetic",
    "manual_seed",
    "relu",
    "show_images",
]
