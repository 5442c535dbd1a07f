"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), also in the form of CLIP's image tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmtrain.errors import ConfigError
from mmtrain.nn.mlp import Activation
from mmtrain.nn.transformer import Init, Transformer

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


class PatchDropout(nn.Module):
    """Leaves out patches in training, as many of each image, drawn for each image (Li et al. 2023, arXiv:2212.00794).

    Args:
        rate: Share of the patches that are left out; at least one is kept.
        num_patches: Patches of an image.
    """

    def __init__(self, rate: float, num_patches: int) -> None:
        super().__init__()
        self.rate = rate
        self.num_kept = max(1, round(num_patches * (1 - rate)))

    def forward(self, x_BPD: Tensor) -> Tensor:
        """Maps patches ``(B, P, D)`` to ``(B, num_kept, D)`` in training."""
        if not self.training or self.rate == 0.0:
            return x_BPD
        kept_BK = torch.rand(x_BPD.shape[:2], device=x_BPD.device).topk(self.num_kept, sorted=False).indices
        return x_BPD.gather(1, kept_BK[..., None].expand(-1, -1, x_BPD.shape[2]))


class ViT(nn.Module):
    """Patches, learned positions, pre-norm Transformer, one feature an image.

    The defaults are those of CLIP's image tower. ViT itself, in the form of Hugging Face's ``ViTModel``, has
    ``norm_pre=False``, ``patch_bias=True``, ``norm_eps=1e-12`` and ``init="bert"``.

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
        patch_bias: Whether the plain patch embedding has a bias.
        norm_pre: Whether the tokens are normalised before the first block, as CLIP does.
        patch_dropout: Share of the patches that are left out in training; the class token stays.
        dropout: Dropout in the blocks.
        drop_path: Stochastic-depth rate of the last block.
        norm_eps: Epsilon of the layer norms.
        init: Deviations of the initial weights: ``clip``, or ``bert``: 0.02 for all but a stem.
        checkpoint: Whether the activations of each block are computed again in the backward pass, not kept.
        pretrained: Where the weights of a new run come from: a run directory or a Hugging Face folder.

    Raises:
        ValueError: If patches do not tile the image, or none would be kept.
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
        patch_bias: bool = False,
        norm_pre: bool = True,
        patch_dropout: float = 0.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-5,
        init: Init = "clip",
        checkpoint: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} must be a multiple of patch_size={patch_size}")
        if patch_size % 2 ** len(stem):
            raise ValueError(f"patch_size={patch_size} must be a multiple of the stem's stride {2 ** len(stem)}")
        if not 0 <= patch_dropout < 1:
            raise ValueError(f"patch_dropout={patch_dropout} must lie in [0, 1)")
        self.image_size = image_size
        self.d_model = d_model
        self.pool = pool
        self.pretrained = pretrained
        num_patches = (image_size // patch_size) ** 2
        self.patch_embed: nn.Module = (
            ConvStem(stem, patch_size, d_model)
            if stem
            else nn.Conv2d(3, d_model, patch_size, stride=patch_size, bias=patch_bias)
        )
        # Convolutions of few channels are twice as fast so on a CPU.
        self.patch_embed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.class_token = nn.Parameter(torch.empty(d_model)) if pool == "cls" else None
        self.num_tokens = num_patches + (pool == "cls")
        self.positions = nn.Parameter(torch.empty(self.num_tokens, d_model))
        self.patch_dropout = PatchDropout(patch_dropout, num_patches)
        self.norm_pre = nn.LayerNorm(d_model, eps=norm_eps) if norm_pre else None
        self.transformer = Transformer(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            dropout=dropout,
            drop_path=drop_path,
            norm_eps=norm_eps,
            init=init,
            checkpoint=checkpoint,
        )
        self.norm_post = nn.LayerNorm(d_model, eps=norm_eps)
        self._init_weights(0.02 if init == "bert" else d_model**-0.5, plain=init == "bert" and not stem)

    def _init_weights(self, std: float, *, plain: bool) -> None:
        nn.init.normal_(self.positions, std=std)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=std)
        if plain:
            assert isinstance(self.patch_embed, nn.Conv2d)
            nn.init.normal_(self.patch_embed.weight, std=std)
            if self.patch_embed.bias is not None:
                nn.init.zeros_(self.patch_embed.bias)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps normalised images ``(B, 3, image_size, image_size)`` to features ``(B, d_model)``.

        Raises:
            ConfigError: Images of another size.
        """
        if image_BCHW.shape[-2:] != (self.image_size, self.image_size):
            height, width = image_BCHW.shape[-2:]
            raise ConfigError(
                f"images are {height} x {width} pixels, and the model takes {self.image_size} x {self.image_size}",
                where="data.train_transform.size, data.eval_transform.size, the model's image_size",
                mend=f"set the sizes of data to {self.image_size}",
            )
        x_BTD = self.transformer(self._embed(image_BCHW))
        pooled_BD = x_BTD[:, 0] if self.pool == "cls" else x_BTD.mean(1)
        return self.norm_post(pooled_BD)

    def _embed(self, image_BCHW: Tensor) -> Tensor:
        """Tokens of the first block: the class token, where there is one, and the patches that are kept."""
        image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        x_BTD = self.patch_embed(image_BCHW).flatten(2).transpose(1, 2)
        if self.class_token is None:
            x_BTD = self.patch_dropout(x_BTD + self.positions)
        else:
            patches_BPD = self.patch_dropout(x_BTD + self.positions[1:])
            first_BD = (self.class_token + self.positions[0]).expand(len(x_BTD), 1, -1)
            x_BTD = torch.cat([first_BD, patches_BPD], dim=1)
        return x_BTD if self.norm_pre is None else self.norm_pre(x_BTD)

    def flops_per_sample(self) -> float:
        """Training FLOPs of one image: the kept tokens, and the patch embedding once a position of each convolution."""
        kept = self.patch_dropout.num_kept + (self.pool == "cls")
        flops = kept * self.transformer.flops_per_token(kept)
        side = self.image_size
        for conv in self.patch_embed.modules():
            if isinstance(conv, nn.Conv2d):
                side //= conv.stride[0]
                flops += 6.0 * conv.weight.numel() * side * side
        return flops
