"""CLIP: an image tower and a text tower in one embedding space (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtrain.errors import ConfigError
from mmtrain.nn.linear import Linear

TowerName = Literal["image", "text"]


class Tower(Protocol):
    """A module that makes one feature of each input, ``(B, ...)`` to ``(B, d_model)``.

    Attributes:
        d_model: Width of the feature.
    """

    d_model: int

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def flops_per_sample(self) -> float:
        """Training FLOPs of one input."""


class TextTower(Tower, Protocol):
    """A tower of token ids, padded with 0.

    Attributes:
        context_length: Most tokens in a text.
    """

    context_length: int

    def lengths(self, text_BT: Tensor) -> Tensor:
        """Real tokens of each text, ``(B,)``."""

    def flops_per_sample(self, num_tokens: float | None = None) -> float:
        """Training FLOPs of a text of ``num_tokens``, None for a full one."""


class CLIP(nn.Module):
    """Two towers, two linear projections without bias, one learned temperature; for SigLIP also a learned bias.

    Args:
        image: Image tower, such as `mmtrain.model.vit.ViT`.
        text: Text tower, such as `mmtrain.model.text.TextTransformer`.
        embed_dim: Width of the shared space.
        init_temperature: The paper's 0.07, SigLIP's 0.1; ``logit_scale`` starts at ``ln(1 / init_temperature)``.
        max_logit_scale: Bound of ``exp(logit_scale)``, which then stays above 1, too: the paper's 100; None for no
            bounds, as SigLIP.
        init_logit_bias: Start of the bias of all logits, SigLIP's -10; None for a model without, as CLIP.
        lock: Towers whose weights stay as they are (LiT, Zhai et al. 2022, arXiv:2111.07991). They drop nothing and
            keep no activations; their projections are trained.
        pretrained: Where the weights of a new run come from: a run directory or a Hugging Face folder.
        mean: Mean of each colour channel, of pixels in [0, 1].
        std: Deviation of each colour channel, of pixels in [0, 1].

    Raises:
        ConfigError: The temperature is out of its bounds, or a locked tower has no weights to keep.
    """

    image_mean: Tensor
    image_std: Tensor
    logit_bias: nn.Parameter | None

    forward_methods = ("encode_image", "encode_text")

    def __init__(
        self,
        *,
        image: Tower,
        text: TextTower,
        embed_dim: int,
        init_temperature: float = 0.07,
        max_logit_scale: float | None = 100.0,
        init_logit_bias: float | None = None,
        lock: Sequence[TowerName] = (),
        pretrained: str | None = None,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
    ) -> None:
        super().__init__()
        _check_temperature(init_temperature, max_logit_scale)
        self.image = image
        self.text = text
        self.image_projection = Linear(image.d_model, embed_dim, bias=False)
        self.text_projection = Linear(text.d_model, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / init_temperature)))
        bias = None if init_logit_bias is None else nn.Parameter(torch.tensor(float(init_logit_bias)))
        self.register_parameter("logit_bias", bias)
        self.max_logit_scale = max_logit_scale
        self.lock = frozenset(lock)
        self.pretrained = pretrained
        self.register_buffer("image_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(std).view(3, 1, 1), persistent=False)
        nn.init.normal_(self.image_projection.weight, std=image.d_model**-0.5)
        nn.init.normal_(self.text_projection.weight, std=text.d_model**-0.5)
        for name in self.lock:
            self._lock(name)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Maps uint8 images ``(B, 3, H, W)`` to unit vectors ``(B, embed_dim)``, at least in fp32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "image" not in self.lock):
            pixels = (image_BCHW.to(self.image_mean.dtype) / 255 - self.image_mean) / self.image_std
            feature_BD = self.image(pixels)
        return F.normalize(_fp32(self.image_projection(feature_BD)), dim=-1)

    def encode_text(self, text_BT: Tensor) -> Tensor:
        """Maps token ids ``(B, T)`` to unit vectors ``(B, embed_dim)``, at least in fp32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and "text" not in self.lock):
            feature_BD = self.text(text_BT)
        return F.normalize(_fp32(self.text_projection(feature_BD)), dim=-1)

    def scale(self) -> Tensor:
        """The temperature's inverse, ``exp(logit_scale)``, a scalar."""
        return _fp32(self.logit_scale).exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keeps ``exp(logit_scale)`` in [1, max_logit_scale]; called after every optimizer step, as published."""
        if self.max_logit_scale is not None:
            self.logit_scale.clamp_(0.0, math.log(self.max_logit_scale))

    def forward(self, image_BCHW: Tensor, text_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of images and of texts, both ``(B, embed_dim)``."""
        return self.encode_image(image_BCHW), self.encode_text(text_BT)

    def train(self, mode: bool = True) -> Self:
        """As any module, but locked towers stay in evaluation mode."""
        super().train(mode)
        for name in self.lock:
            self.get_submodule(name).eval()
        return self

    def flops_per_sample(self, num_tokens: float | None = None) -> float:
        """Training FLOPs of one pair by PaLM's formula, without the contrastive logits; a locked tower's, forward.

        Args:
            num_tokens: Of the pair's text; None for a full one.
        """
        flops = 6.0 * (self.image_projection.weight.numel() + self.text_projection.weight.numel())
        towers = {"image": self.image.flops_per_sample(), "text": self.text.flops_per_sample(num_tokens)}
        return flops + sum(cost / (3 if name in self.lock else 1) for name, cost in towers.items())

    def _lock(self, name: TowerName) -> None:
        tower = self.get_submodule(name)
        if self.pretrained is None and all(getattr(part, "pretrained", None) is None for part in tower.modules()):
            raise ConfigError(
                f"the {name} tower is locked, and has no weights but random ones",
                where="model.lock",
                mend=f"say where its weights come from: model.{name}.pretrained=...",
            )
        tower.requires_grad_(False).eval()


def _fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_temperature(init_temperature: float, max_logit_scale: float | None) -> None:
    if max_logit_scale is not None and max_logit_scale < 1:
        raise ConfigError(
            f"max_logit_scale is {max_logit_scale}, below the lower bound of 1",
            where="model.max_logit_scale",
            mend="set the published 100.0, or null for no bounds",
        )
    if init_temperature <= 0:
        raise ConfigError(
            f"the temperature is {init_temperature}, and must be positive",
            where="model.init_temperature",
            mend="set CLIP's 0.07 or SigLIP's 0.1",
        )
    if max_logit_scale is not None and not 1 <= 1 / init_temperature <= max_logit_scale:
        raise ConfigError(
            f"a temperature of {init_temperature} is a scale of {1 / init_temperature:.4g}, outside of its bounds "
            f"1 and {max_logit_scale:.4g}",
            where="model.init_temperature, model.max_logit_scale",
            mend=f"set a temperature between {1 / max_logit_scale:.4g} and 1, or model.max_logit_scale=null",
        )
