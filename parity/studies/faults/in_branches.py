"""Faults that no data reach, or that drown in rounding: identity alone sees them."""

from parity.studies.faults.changes import forward, loss, nll
from parity.studies.faults.fault import Fault
from parity.studies.faults.port import Tensor


def _smoothed(z: Tensor, y: Tensor) -> Tensor:
    by = 1e-14
    return ((1 - by) * nll(z, y) - by * z.log_softmax(1).mean(1)).mean()


def _z_loss(z: Tensor, y: Tensor) -> Tensor:
    return (nll(z, y) + 1e-15 * z.logsumexp(1) ** 2).mean()


FAULTS = (
    Fault("logits clipped at 1e4", "arithmetic", "identity",
          "Logits are clipped, at a bound that no data reach.",
          forward(logits=lambda z: z.clamp(-1e4, 1e4))),
    Fault("a branch above 1e6", "arithmetic", "identity",
          "Inputs above a million are doubled.",
          forward(inputs=lambda X: X.where(X <= 1e6, 2 * X))),
    Fault("labels smoothed by 1e-14", "loss", "identity",
          "A smoothing of 1e-14 is left on.", loss(_smoothed)),
    Fault("z-loss of 1e-15", "loss", "identity",
          "The square of logsumexp is added to the loss, times 1e-15.", loss(_z_loss)),
)  # fmt: skip
