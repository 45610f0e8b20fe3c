"""Which layer of Torch a weight belongs to."""

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
