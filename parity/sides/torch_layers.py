"""Which layer of Torch a weight belongs to, and what a model's first layer takes."""

from collections.abc import Iterator

import torch


def layer_kinds(model: torch.nn.Module) -> dict[str, str]:
    """{name of a weight: what kind of layer it is of}: "linear" [out, in], "conv" [out, in, ...],
    "transposed" [in, out, ...], "embedding"; of attention, what packs q, k and v, "attention"; of
    recurrent layers all, "gates". Others have none."""
    nn = torch.nn
    found = {}
    for at, layer in model.named_modules():
        for leaf, _ in layer.named_parameters(recurse=False):
            kind = ""
            if isinstance(layer, nn.RNNBase):
                kind = "gates"
            elif isinstance(layer, nn.MultiheadAttention):
                kind = "attention" if leaf.startswith("in_proj") else ""
            elif leaf == "weight":
                for one, types in (
                    ("linear", nn.Linear),
                    ("embedding", (nn.Embedding, nn.EmbeddingBag)),
                    ("transposed", (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
                    ("conv", (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
                ):
                    kind = one if isinstance(layer, types) else kind
                if kind == "transposed" and layer.groups != 1:
                    kind = "transposed in groups"
            if kind:
                found[f"{at}.{leaf}" if at else leaf] = kind
    return found


def shapes_taken(model: torch.nn.Module) -> Iterator[tuple[tuple[int, ...], int | None]]:
    """(shape of an example, or of its indices; how many indices there are, or None for floats) that
    the first layer may take, by its own attributes: a model may reshape before it, so try."""
    nn = torch.nn
    for layer in model.modules():
        if isinstance(layer, nn.Embedding):
            yield (8,), layer.num_embeddings
            return
        if isinstance(layer, nn.Linear):
            yield (layer.in_features,), None
            yield (6, layer.in_features), None
            return
        if isinstance(layer, nn.LayerNorm):
            yield (6, *layer.normalized_shape), None
            return
        if isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)):
            size = layer.input_size if isinstance(layer, nn.RNNBase) else layer.embed_dim
            yield (6, size), None
            return
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            space = len(layer.kernel_size)
            for side in (28, 32):
                yield (layer.in_channels, *[side] * space), None
                yield (*[side] * space, layer.in_channels), None
            return
