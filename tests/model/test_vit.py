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
