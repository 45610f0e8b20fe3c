"""All families of ports, as data."""

import attention
import batch_norm
import clipping
import convolutions
import embeddings
import equinox_model
import first_tries
import group_norm
import inputs
import layer_norm
import linen
import losses
import mixed_precision
import optimisers
import recurrent
import regression
import residual
import resize
import rms_norm
import rotary
import schedules
import transformer
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
    first_tries,
    attention,
    rotary,
    embeddings,
    inputs,
    transformer,
    losses,
    regression,
    optimisers,
    schedules,
    clipping,
)
FAMILIES: tuple[Port, ...] = tuple(family for module in MODULES for family in module.FAMILIES)
