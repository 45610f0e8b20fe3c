"""Small data for the JAX side, and the book's formulas in float64."""

import numpy as np
import pytest

import jax_mlp as d2l


class Blobs(d2l.DataModule):
    """70 + 20 examples of 6 inputs in 3 classes that can be learnt; last batches are partial."""

    def __init__(self, batch_size=8):
        super().__init__()
        self.save_hyperparameters()
        rng = np.random.default_rng(0)
        self.y = rng.integers(0, 3, 90).astype(np.int32)
        means = rng.standard_normal((3, 6), np.float32)
        self.X = means[self.y] + rng.standard_normal((90, 6), np.float32) / 2

    def get_dataloader(self, train):
        rows = slice(0, 70) if train else slice(70, None)
        return self.get_tensorloader([self.X, self.y], train, rows)


@pytest.fixture
def blobs():
    d2l.manual_seed(0)
    return Blobs()


@pytest.fixture
def sample():
    return d2l.FashionMNIST(batch_size=256, data="sample")


class Reference:
    """The MLP in float64 NumPy, with derivatives worked out by hand."""

    @staticmethod
    def layers(params, X):
        """Inputs and sums of each layer; the last sums are the logits."""
        n, inputs, sums = len(params) // 2, [np.asarray(X, np.float64)], []
        for i in range(1, n + 1):
            sums.append(inputs[-1] @ np.float64(params[f"W{i}"]) + np.float64(params[f"b{i}"]))
            inputs.append(np.maximum(sums[-1], 0))
        return inputs, sums

    def loss_and_gradients(self, params, X, labels):
        """Mean cross-entropy, its gradient by each parameter, ReLU's being 1/2 at a tie."""
        inputs, sums = self.layers(params, X)
        logits, rows = sums[-1], np.arange(len(labels))
        log_sum = np.logaddexp.reduce(logits, axis=1)
        back = np.exp(logits - log_sum[:, None])
        back[rows, labels] -= 1
        back /= len(labels)
        grads = {}
        for i in range(len(params) // 2, 0, -1):
            grads[f"W{i}"], grads[f"b{i}"] = inputs[i - 1].T @ back, back.sum(0)
            if i > 1:
                back = back @ np.float64(params[f"W{i}"]).T * np.heaviside(sums[i - 2], 0.5)
        return (log_sum - logits[rows, labels]).mean(), grads


@pytest.fixture(scope="session")
def reference():
    return Reference()
