from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mmtrain.errors import ConfigError
from mmtrain.model.gpt import GPT
from mmtrain.model.hf.families import from_folder, to_hf
from mmtrain.model.hf.folder import Folder

GPT2: dict[str, Any] = {}
LLAMA: dict[str, Any] = {
    "norm": "rms",
    "activation": "swiglu",
    "bias": False,
    "rope_theta": 10000.0,
    "num_kv_heads": 2,
    "tied": False,
}
SIZES: dict[str, Any] = {"vocab_size": 101, "context_length": 32, "d_model": 32, "num_layers": 3, "num_heads": 4}
STYLES = pytest.mark.parametrize("style", [GPT2, LLAMA], ids=["gpt2", "llama"])


def small(style: dict[str, Any], **more: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(**(SIZES | style | more))
    for parameter in model.parameters():  # far from where they begin, so that all of them matter
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def tokens(rows: int = 3, length: int = 32) -> Tensor:
    return torch.randint(0, 101, (rows, length), generator=torch.Generator().manual_seed(1))


def loss_of(model: GPT, tokens_BT: Tensor) -> Tensor:
    logits_BTV = model.logits(model(tokens_BT[:, :-1]))
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())


def gradients(loss: Tensor, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def ours(theirs: PreTrainedModel) -> GPT:
    model = from_folder(Folder("memory", theirs.config.to_dict(), theirs.state_dict()))
    assert isinstance(model, GPT)
    return model.eval()


def assert_equal_to(theirs: PreTrainedModel, tolerance: float) -> None:
    model, tokens_BT = ours(theirs.eval()), tokens()
    expected = theirs(tokens_BT, labels=tokens_BT)
    torch.testing.assert_close(model.logits(model(tokens_BT)), expected.logits, atol=tolerance, rtol=0)
    loss = loss_of(model, tokens_BT)
    torch.testing.assert_close(loss, expected.loss, atol=1e-6, rtol=0)
    expected.loss.backward()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = gradients(loss, dict(model.named_parameters()))
    model.load_state_dict(found)  # so that gradients are named and shaped as theirs
    renamed = to_hf(model)[1]
    assert renamed.keys() == wanted.keys()
    for name, gradient in renamed.items():
        torch.testing.assert_close(
            gradient, wanted[name], atol=1e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_gpt2_is_transformers_gpt2() -> None:
    """Within 1e-6: the exact GELU in place of its approximation shows below 1e-5 only."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=101, n_positions=32, n_embd=32, n_layer=3, n_head=4, initializer_range=0.05)
    assert_equal_to(GPT2LMHeadModel(config), 1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_llama_with_grouped_queries_is_transformers_llama(tied: bool) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101,
        max_position_embeddings=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.05,
        tie_word_embeddings=tied,
    )
    assert_equal_to(LlamaForCausalLM(config), 1e-5)


def packed() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Four documents; the same in two rows with padding; their numbers; and their positions."""
    lengths = [7, 12, 1, 20]
    documents = [tokens(1, 32)[0, :length] + number for number, length in enumerate(lengths)]
    rows = torch.zeros(2, 24, dtype=torch.long)
    document = torch.full((2, 24), -1, dtype=torch.int32)
    position = torch.zeros(2, 24, dtype=torch.int32)
    for number, (row, start) in enumerate([(0, 0), (0, 7), (0, 19), (1, 0)]):
        place = (row, slice(start, start + lengths[number]))
        rows[place], document[place] = documents[number] % 101, number
        position[place] = torch.arange(lengths[number], dtype=torch.int32)
    return [document % 101 for document in documents], rows, document, position


@STYLES
def test_packed_rows_equal_separate_documents(style: dict[str, Any]) -> None:
    model = small(style).eval()
    documents, rows, document, position = packed()
    separate = torch.cat([model(text[None])[0] for text in documents])
    together = model(rows, document, position)[document >= 0]
    torch.testing.assert_close(together, separate, atol=1e-6, rtol=1e-6)
    weights = torch.randn(separate.shape, generator=torch.Generator().manual_seed(2))
    below_head = {name: parameter for name, parameter in model.named_parameters() if name != "head.weight"}
    found, expected = (gradients((hidden * weights).sum(), below_head) for hidden in (together, separate))
    size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-6 * size, name


@STYLES
def test_without_the_mask_documents_leak_into_each_other(style: dict[str, Any]) -> None:
    model = small(style).eval()
    documents, rows, document, position = packed()
    separate = torch.cat([model(text[None])[0] for text in documents])
    together = model(rows, None, position)[document >= 0]
    assert torch.allclose(together[: len(documents[0])], separate[: len(documents[0])], atol=1e-5)
    assert (together - separate).abs().max() > 0.01


@STYLES
def test_a_token_sees_no_later_one(style: dict[str, Any]) -> None:
    model, rows = small(style).eval(), tokens()
    changed = rows.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 101
    difference = (model(rows) - model(changed)).abs().amax(dim=(0, 2))
    assert (difference[:20] == 0).all()
    assert (difference[20:] > 1e-4).all()


@STYLES
def test_flops_are_those_of_the_counter(style: dict[str, Any]) -> None:
    model, rows = small(style), tokens()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss_of(model, F.pad(rows, (0, 1))).backward()
    assert counter.get_total_flops() == len(rows) * model.flops_per_sample(rows.shape[1])


def test_published_sizes_have_their_published_parameters() -> None:
    with torch.device("meta"):
        gpt2 = GPT(vocab_size=50257, context_length=1024, d_model=768, num_layers=12, num_heads=12)
        llama = GPT(
            vocab_size=32000, context_length=2048, d_model=4096, num_layers=32, num_heads=32, mlp_hidden=11008,
            **LLAMA | {"num_kv_heads": 32},
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in gpt2.parameters()) == 124_439_808
    assert sum(parameter.numel() for parameter in llama.parameters()) == 6_738_415_616


@STYLES
def test_the_first_loss_is_that_of_guessing(style: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = GPT(vocab_size=101, context_length=32, d_model=64, num_layers=2, num_heads=4, **style)
    assert loss_of(model, tokens(8)).item() == pytest.approx(math.log(101), rel=0.02)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_one_weight_before_and_after_loading(tied: bool) -> None:
    source, model = small(GPT2, tied=tied), GPT(**SIZES, tied=tied)
    assert ("head.weight" in source.state_dict()) != tied
    model.load_state_dict(source.state_dict())
    assert (model.head_weight is model.token_embed.weight) == tied
    torch.testing.assert_close(model(tokens()), source(tokens()))
    with torch.no_grad():
        model.head_weight.zero_()
    assert (model.token_embed.weight.count_nonzero() == 0) == tied


@STYLES
def test_computing_activations_again_leaves_gradients_equal(style: dict[str, Any]) -> None:
    kept, again = (small(style, dropout=0.2, checkpoint=checkpoint).train() for checkpoint in (False, True))
    found = []
    for model in (kept, again):
        torch.manual_seed(3)
        found.append(gradients(loss_of(model, tokens()), dict(model.named_parameters())))
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def test_dropout_of_the_embeddings_can_be_set_apart() -> None:
    assert small(GPT2, dropout=0.2).dropout.p == 0.2
    assert small(GPT2, dropout=0.2, embed_dropout=0.0).dropout.p == 0.0


@STYLES
def test_rows_beyond_the_positions_are_refused_by_name(style: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rows have 33 tokens, and the model has 32 positions"):
        small(style)(tokens(1, 33))
