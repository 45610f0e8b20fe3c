"""The catalogue of planted faults, as data."""

from parity.studies.faults import in_bits, in_branches, in_data, in_model, in_training
from parity.studies.faults.fault import Fault

CATALOGUE: tuple[Fault, ...] = (
    *in_data.FAULTS,
    *in_model.FAULTS,
    *in_training.FAULTS,
    *in_bits.FAULTS,
    *in_branches.FAULTS,
)

__all__ = ["CATALOGUE", "Fault"]
