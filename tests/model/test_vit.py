from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtrain.errors import ConfigError
from mmtrain.model.vit import ViT


def vit(**options: Any) -> ViT:
    torch.manual_seed(0)
    defaults = {"image_size": 32, "patch_size": 8, "d_model": 32, "num_layers": 1, "num_heads": 4}
    return ViT(**{**defaults, **options}).eval()


@pytest.mark.parametrize("stem", [(), (8,), (8, 8), (8, 8, 8)])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_every_stem_and_pool_gives_one_feature_an_image(stem: tuple[int, ...], pool: str) -> None:
    tower = vit(stem=stem, pool=pool)
    assert tower.num_tokens == 16 + (pool == "cls")
    assert tower(torch.randn(3, 3, 32, 32)).shape == (3, 32)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_size": 30}, "image_size=30 must be a multiple of patch_size=8"),
        ({"patch_size": 4, "stem": (8, 8, 8)}, "patch_size=4 must be a multiple of the stem's stride 8"),
    ],
)
def test_patches_that_do_not_tile_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        vit(**options)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_places_of_patches_count(pool: str) -> None:
    tower, image = vit(pool=pool), torch.randn(1, 3, 32, 32)
    assert not torch.allclose(tower(image), tower(image.roll(8, dims=-1)), atol=1e-3)


def test_layout_in_memory_changes_nothing() -> None:
    tower, image = vit(stem=(8, 8)), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower(image), tower(image.contiguous(memory_format=torch.channels_last)))


def test_initial_deviations_are_as_published() -> None:
    tower = vit(d_model=256, patch_size=2)
    assert tower.positions.std().item() == pytest.approx(1 / 16, rel=0.03)
    assert tower.class_token is not None
    assert tower.class_token.std().item() == pytest.approx(1 / 16, rel=0.15)


def test_images_of_another_size_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="images are 64 x 64 pixels, and the model takes 32 x 32"):
        vit()(torch.zeros(1, 3, 64, 64))


def test_patch_dropout_keeps_the_class_token_and_as_many_patches_of_each_image() -> None:
    tower = vit(patch_dropout=0.75)
    tower.positions.data.copy_(torch.arange(17.0)[:, None].expand(17, 32))
    tower.class_token.data.zero_()  # type: ignore[union-attr]
    tower.patch_embed.weight.data.zero_()  # type: ignore[operator]
    tower.norm_pre = None
    image = torch.randn(64, 3, 32, 32)
    kept_BT = tower.train()._embed(image)[..., 0]
    assert kept_BT.shape == (64, 5)
    assert (kept_BT[:, 0] == 0).all()
    assert all(len(row.unique()) == 5 for row in kept_BT), "no patch comes twice"
    assert set(kept_BT.flatten().tolist()) == set(range(17)), "every patch has its turn"
    assert len({tuple(sorted(row)) for row in kept_BT.tolist()}) > 50, "images draw by themselves"
    torch.manual_seed(3)
    first = tower._embed(image)
    torch.manual_seed(3)
    assert torch.equal(first, tower._embed(image)), "all draws are PyTorch's"
    assert tower.eval()._embed(image).shape == (64, 17, 32)


def test_the_rate_of_patch_dropout_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"patch_dropout=1.0 must lie in \[0, 1\)"):
        vit(patch_dropout=1.0)
    assert vit(patch_dropout=0.99).train()(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_patches_that_are_left_out_cost_nothing() -> None:
    whole, half = vit(num_layers=4, pool="mean"), vit(num_layers=4, pool="mean", patch_dropout=0.5)
    embedding = 6.0 * 3 * 8 * 8 * 32 * 16
    assert half.flops_per_sample() - embedding < 0.5 * (whole.flops_per_sample() - embedding)


def test_initial_deviations_of_vit_are_as_published() -> None:
    tower = vit(d_model=256, patch_size=2, norm_pre=False, patch_bias=True, init="bert")
    for name, parameter in tower.named_parameters():
        if parameter.ndim >= 2 or name == "class_token":
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
    assert not any(name.startswith("norm_pre") for name in tower.state_dict())


def test_recomputed_activations_leave_gradients_as_they_are() -> None:
    image, gradients = torch.randn(2, 3, 32, 32), []
    for checkpoint in (False, True):
        tower = vit(checkpoint=checkpoint, num_layers=2).train()
        gradients.append(torch.autograd.grad(tower(image).square().sum(), list(tower.parameters())))
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)
