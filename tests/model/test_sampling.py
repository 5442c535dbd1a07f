from __future__ import annotations

import pytest
import torch

from mmtrain.errors import ConfigError
from mmtrain.model.sampling import GREEDY, Sampling, next_token, probabilities

LOGITS = torch.tensor([[0.5, 2.0, 0.1, 1.9], [3.0, 0.0, 1.0, 2.0]]).log()  # shares, up to their sum


def shares(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers) / sum(numbers)


@pytest.mark.parametrize(
    ("sampling", "first"),
    [
        (Sampling(), shares(0.5, 2.0, 0.1, 1.9)),
        (Sampling(temperature=0.5), shares(0.25, 4.0, 0.01, 3.61)),
        (Sampling(top_k=2), shares(0, 2.0, 0, 1.9)),
        (Sampling(top_k=9), shares(0.5, 2.0, 0.1, 1.9)),
        (Sampling(top_p=0.4), shares(0, 1, 0, 0)),
        (Sampling(top_p=0.5), shares(0, 2.0, 0, 1.9)),
        (Sampling(top_p=0.9), shares(0.5, 2.0, 0, 1.9)),
        (Sampling(top_p=1.0), shares(0.5, 2.0, 0.1, 1.9)),
        # In this order: of the two that are kept, with 0.51 and 0.49, both are needed for 0.6.
        (Sampling(temperature=0.5, top_k=2, top_p=0.6), shares(0, 4.0, 0, 3.61)),
        (Sampling(temperature=0.5, top_k=2, top_p=0.52), shares(0, 1, 0, 0)),
    ],
)
def test_probabilities_are_those_of_the_definitions(sampling: Sampling, first: torch.Tensor) -> None:
    torch.testing.assert_close(probabilities(LOGITS, sampling)[0], first)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    """4,000 draws: four standard deviations of the rarest share, 0.022, are 0.01."""
    sampling, generator = Sampling(top_p=0.99), torch.Generator().manual_seed(0)
    drawn = next_token(LOGITS.repeat(4000, 1), sampling, generator).view(4000, 2)
    for row in range(2):
        frequency = torch.bincount(drawn[:, row], minlength=4) / 4000
        torch.testing.assert_close(frequency, probabilities(LOGITS, sampling)[row], atol=0.03, rtol=0)


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = torch.zeros(64, 100)
    first, again, other = (
        next_token(logits, Sampling(), torch.Generator().manual_seed(seed)).tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_greedy_takes_the_most_probable_token_and_so_does_top_1() -> None:
    assert next_token(LOGITS, GREEDY).tolist() == [1, 0]
    assert next_token(LOGITS, Sampling(top_k=1)).tolist() == [1, 0]


@pytest.mark.parametrize("setting", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_a_number_out_of_range_is_refused_by_name(setting: dict[str, float]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=f"{name}={setting[name]}"):
        Sampling(**setting)  # type: ignore[arg-type]
