"""All families of ports, as data."""

import batch_norm
import convolutions
import equinox_model
import group_norm
import layer_norm
import linen
import mixed_precision
import recurrent
import residual
import resize
import rms_norm
import transposed
from port import Port

MODULES = (
    layer_norm,
    batch_norm,
    convolutions,
    transposed,
    recurrent,
    rms_norm,
    group_norm,
    linen,
    equinox_model,
    mixed_precision,
    residual,
    resize,
)
FAMILIES: tuple[Port, ...] = tuple(family for module in MODULES for family in module.FAMILIES)
