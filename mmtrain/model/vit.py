"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), in the form of CLIP's image tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmtrain.errors import ConfigError
from mmtrain.nn.transformer import Activation, Transformer

Pool = Literal["cls", "mean"]


class ConvStem(nn.Sequential):
    """Stride-2 3x3 convolutions, then one that forms the patches (Xiao et al. 2021, arXiv:2106.14881).

    Args:
        channels: Output channels of each stride-2 convolution.
        patch_size: Pixels a side that become one token; a multiple of ``2 ** len(channels)``.
        d_model: Width of the tokens.
    """

    def __init__(self, channels: Sequence[int], patch_size: int, d_model: int) -> None:
        layers: list[nn.Module] = []
        width = 3
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, out), nn.GELU()]
            width = out
        rest = patch_size // 2 ** len(channels)
        layers.append(nn.Conv2d(width, d_model, rest, stride=rest))
        super().__init__(*layers)


class ViT(nn.Module):
    """Image tower: patches, learned positions, pre-norm Transformer, one feature an image.

    Args:
        image_size: Height and width of the input, in pixels; a multiple of ``patch_size``.
        patch_size: Height and width of a patch, in pixels.
        d_model: Width of the tokens and of the output feature.
        num_layers: Number of Transformer blocks.
        num_heads: Heads of each block.
        mlp_ratio: Width of the MLP's hidden layer over ``d_model``.
        activation: Non-linearity of the MLP.
        pool: ``cls``: the class token after the last norm; ``mean``: the mean over patches.
        stem: Channels of a convolutional stem; empty for ViT's plain patch embedding.
        dropout: Dropout in the blocks.
        drop_path: Stochastic-depth rate of the last block.
        norm_eps: Epsilon of the layer norms.

    Raises:
        ValueError: If patches do not tile the image.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        pool: Pool = "cls",
        stem: Sequence[int] = (),
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} must be a multiple of patch_size={patch_size}")
        if patch_size % 2 ** len(stem):
            raise ValueError(f"patch_size={patch_size} must be a multiple of the stem's stride {2 ** len(stem)}")
        self.image_size = image_size
        self.d_model = d_model
        self.pool = pool
        num_patches = (image_size // patch_size) ** 2
        self.patch_embed: nn.Module = (
            ConvStem(stem, patch_size, d_model)
            if stem
            else nn.Conv2d(3, d_model, patch_size, stride=patch_size, bias=False)
        )
        # Convolutions of few channels are twice as fast so on a CPU.
        self.patch_embed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.class_token = nn.Parameter(torch.empty(d_model)) if pool == "cls" else None
        self.num_tokens = num_patches + (pool == "cls")
        self.positions = nn.Parameter(torch.empty(self.num_tokens, d_model))
        self.norm_pre = nn.LayerNorm(d_model, eps=norm_eps)
        self.transformer = Transformer(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            dropout=dropout,
            drop_path=drop_path,
            norm_eps=norm_eps,
        )
        self.norm_post = nn.LayerNorm(d_model, eps=norm_eps)
        nn.init.normal_(self.positions, std=d_model**-0.5)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=d_model**-0.5)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps normalised images ``(B, 3, image_size, image_size)`` to features ``(B, d_model)``.

        Raises:
            ConfigError: Images of another size.
        """
        if image_BCHW.shape[-2:] != (self.image_size, self.image_size):
            height, width = image_BCHW.shape[-2:]
            raise ConfigError(
                f"images are {height} x {width} pixels, and the model takes {self.image_size} x {self.image_size}",
                where="data.train_transform.size, data.eval_transform.size, model.image.image_size",
                mend=f"set the sizes of data to {self.image_size}",
            )
        image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        x_BTD = self.patch_embed(image_BCHW).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x_BTD = torch.cat([self.class_token.expand(x_BTD.shape[0], 1, -1), x_BTD], dim=1)
        x_BTD = self.transformer(self.norm_pre(x_BTD + self.positions))
        pooled_BD = x_BTD[:, 0] if self.pool == "cls" else x_BTD.mean(1)
        return self.norm_post(pooled_BD)

    def flops_per_sample(self) -> float:
        """Training FLOPs of one image: the blocks, the patch embedding counted once a position of each convolution."""
        flops = self.num_tokens * self.transformer.flops_per_token(self.num_tokens)
        side = self.image_size
        for conv in self.patch_embed.modules():
            if isinstance(conv, nn.Conv2d):
                side //= conv.stride[0]
                flops += 6.0 * conv.weight.numel() * side * side
        return flops
