"""Torch models of the errors that nothing was tuned on."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, SIZE, CLASSES, TOKENS, LENGTH, WINDOW = 8, 2, 4, 3, 7, 5, 3
CAP, LATENT, PIXELS, GAMMA, ALPHA = 5.0, 2, 6, 2.0, 0.25


class VisionTransformer(nn.Module):
    """Patches of 2 by 2, a class token, places, one block with scaled branches, as timm's."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, 7, WIDTH))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.rand(WIDTH)) for _ in range(2))
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH, eps=1e-6), nn.Linear(WIDTH, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        H = self.patch(X).flatten(2).transpose(1, 2)
        H = torch.cat([self.cls.expand(len(X), -1, -1), H], 1) + self.pos
        qkv = self.qkv(self.norm1(H)).unflatten(-1, (3, HEADS, SIZE)).permute(2, 0, 3, 1, 4)
        A = F.scaled_dot_product_attention(*qkv.unbind(0))
        H = H + self.gamma1 * self.proj(A.transpose(1, 2).flatten(2))
        H = H + self.gamma2 * self.down(F.gelu(self.up(self.norm2(H))))
        return self.head(self.norm(H)[:, 0])


class RMSNorm(nn.Module):
    """Gemma's: the scale is from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(WIDTH))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return X * torch.rsqrt(X.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class LanguageModel(nn.Module):
    """Shared keys and values, a window, capped scores and logits, as in Gemma 2."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.before, self.after, self.last = RMSNorm(), RMSNorm(), RMSNorm()
        self.q = nn.Linear(WIDTH, 2 * HEADS * SIZE, bias=False)
        self.k, self.v = (nn.Linear(WIDTH, HEADS * SIZE, bias=False) for _ in range(2))
        self.o = nn.Linear(2 * HEADS * SIZE, WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, TOKENS, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        H = self.tokens(ids) * WIDTH**0.5
        N = self.before(H)
        q = self.q(N).unflatten(-1, (2 * HEADS, SIZE)).transpose(1, 2)
        k, v = (f(N).unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for f in (self.k, self.v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = q @ k.transpose(-1, -2) * SIZE**-0.5
        scores = CAP * torch.tanh(scores / CAP)
        away = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
        scores = scores.masked_fill((away < 0) | (away >= WINDOW), float("-inf"))
        A = self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        H = H + self.after(A)
        return CAP * torch.tanh(self.out(self.last(H)) / CAP)


class ConvNext(nn.Module):
    """A depthwise block with global response normalisation, then squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4, eps=1e-6)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.gamma, self.beta = (nn.Parameter(torch.randn(6)) for _ in range(2))
        self.squeeze, self.excite = nn.Linear(4, 2), nn.Linear(2, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        H = F.gelu(self.up(self.norm(self.depth(X).permute(0, 2, 3, 1))))
        size = H.norm(p=2, dim=(1, 2), keepdim=True)
        H = self.gamma * (H * (size / (size.mean(-1, keepdim=True) + 1e-6))) + self.beta + H
        H = X.permute(0, 2, 3, 1) + self.down(H)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(H.mean((1, 2))))))
        return self.head((H * gate[:, None, None]).amax((1, 2)))


class Autoencoder(nn.Module):
    """A variational one; the noise is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(PIXELS, WIDTH)
        self.mu, self.logvar = nn.Linear(WIDTH, LATENT), nn.Linear(WIDTH, LATENT)
        self.up, self.out = nn.Linear(LATENT, WIDTH), nn.Linear(WIDTH, PIXELS)

    def forward(self, X: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        H = F.elu(self.body(X))
        mu, logvar = self.mu(H), self.logvar(H)
        Z = mu + noise * torch.exp(0.5 * logvar)
        return {"image": self.out(F.elu(self.up(Z))), "mu": mu, "logvar": logvar}


def evidence(out: dict[str, torch.Tensor], X: torch.Tensor) -> torch.Tensor:
    image = F.binary_cross_entropy_with_logits(out["image"], X, reduction="sum") / len(X)
    mu, logvar = out["mu"], out["logvar"]
    return image - 0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()


class TwoTowers(nn.Module):
    """CLIP's."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(PIXELS, WIDTH), nn.Linear(PIXELS, WIDTH)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        a, b = F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1)
        return self.scale.exp() * a @ b.T


def contrast(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy(logits, y) + F.cross_entropy(logits.T, y)) / 2


class UNet(nn.Module):
    """Down, up by the nearest pixel, and a skip; the last image is shuffled out of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.norm = nn.InstanceNorm2d(3, affine=True)
        self.up = nn.Conv2d(3, 2, 1)
        self.join = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        H = F.leaky_relu(self.norm(self.down(X)), 0.2)
        H = self.up(F.interpolate(H, scale_factor=2, mode="nearest"))
        H = self.join(torch.cat([H, X], 1))
        return F.pixel_shuffle(F.hardswish(H), 2)


def focal(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    p, loss = logits.sigmoid(), F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    hit = p * y + (1 - p) * (1 - y)
    return ((ALPHA * y + (1 - ALPHA) * (1 - y)) * (1 - hit) ** GAMMA * loss).mean()


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(PIXELS, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.last(F.mish(self.first(X)))
