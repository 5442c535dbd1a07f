"""Against Hugging Face's GPT2LMHeadModel and LlamaForCausalLM with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hf_toys import LAYERS, assert_close, assert_equal_weights, disturb, saved
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mmtrain.errors import RunError
from mmtrain.model.gpt import GPT
from mmtrain.model.hf.families import from_folder, to_hf
from mmtrain.model.hf.folder import Folder, write_folder

VOCAB, LENGTH = 50, 16
LLAMA = {"norm": "rms", "activation": "swiglu", "bias": False, "rope_theta": 10000.0}
SPECIAL = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def gpt2(**more: Any) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCAB, n_positions=LENGTH, **SPECIAL, **more)
    )


def llama(**more: Any) -> LlamaForCausalLM:
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**LAYERS, **sizes, **SPECIAL, **more))


MODELS = {
    "gpt2": (gpt2, {}, 1e-6),
    "gpt2_untied": (gpt2, {"tie_word_embeddings": False}, 1e-6),
    "llama": (llama, {}, 1e-5),
    "llama_tied": (llama, {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}, 1e-5),
}


@pytest.fixture(params=MODELS, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Folder, float]:
    torch.manual_seed(1)
    build, options, tolerance = MODELS[request.param]
    theirs = build(**options).eval()
    disturb(theirs)
    return theirs, saved(theirs, tmp_path_factory.mktemp(request.param)), tolerance


def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(2))


def read(folder: Folder) -> GPT:
    model = from_folder(folder)
    assert isinstance(model, GPT)
    return model.eval()


def test_logits_loss_and_gradients_are_theirs(case: tuple[PreTrainedModel, Folder, float]) -> None:
    theirs, folder, tolerance = case
    ours = read(folder)
    theirs.zero_grad()
    expected = theirs(tokens(), labels=tokens())
    logits = ours.logits(ours(tokens()))
    torch.testing.assert_close(logits, expected.logits, atol=tolerance, rtol=0)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())
    torch.testing.assert_close(loss, expected.loss, atol=tolerance, rtol=0)
    loss.backward()
    expected.loss.backward()
    embedding = theirs.get_input_embeddings().weight
    assert_close(ours.token_embed.weight.grad, embedding.grad)
    assert ours.transformer.blocks[0].attention.qkv.weight.grad is not None
    if isinstance(theirs, LlamaForCausalLM):
        layer = theirs.model.layers[0]
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        qkv = torch.cat([part.weight.grad for part in parts])
    else:
        qkv = theirs.transformer.h[0].attn.c_attn.weight.grad.T
    assert_close(ours.transformer.blocks[0].attention.qkv.weight.grad, qkv)


def test_round_trips_are_exact(case: tuple[PreTrainedModel, Folder, float]) -> None:
    folder = case[1]
    config, weights = to_hf(read(folder))
    assert_equal_weights(weights, folder.weights)
    again = read(Folder("again", config, weights))
    assert_equal_weights(again.state_dict(), read(folder).state_dict())


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"tied": False}, {"activation": "relu_squared"}, LLAMA, {**LLAMA, "num_kv_heads": 1}],
    ids=["gpt2", "no_bias", "untied", "relu_squared", "llama", "one_kv_head"],
)
def test_the_written_folder_is_the_model_in_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"vocab_size": VOCAB, "context_length": LENGTH, "d_model": 32, "num_layers": 2, "num_heads": 4}
    model = GPT(**sizes, **options).eval()
    disturb(model)
    write_folder(tmp_path, *to_hf(model))
    theirs = (LlamaForCausalLM if "rope_theta" in options else GPT2LMHeadModel).from_pretrained(tmp_path).eval()
    assert_close(model.logits(model(tokens())), theirs(tokens()).logits)


def test_names_without_prefix_and_old_masks_are_read(tmp_path: Path) -> None:
    """OpenAI's own files have both."""
    folder = saved(gpt2(), tmp_path)
    old = {name.removeprefix("transformer."): tensor for name, tensor in folder.weights.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    assert_equal_weights(read(Folder("old", folder.config, old)).state_dict(), read(folder).state_dict())


def test_stretched_rotary_positions_are_refused(tmp_path: Path) -> None:
    folder = saved(llama(), tmp_path)
    config = {**folder.config, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}}
    with pytest.raises(RunError, match="rotary positions of type 'llama3'"):
        read(Folder("llama3", config, folder.weights))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rope_theta": 1e4}, "it needs rotary positions, RMS norms and SwiGLU"),
        ({"norm": "rms"}, "it needs learned positions and layer norms"),
        ({**LLAMA, "qk_norm": True}, r"without a counterpart  transformer\.blocks\.0\.attention\.q_norm\.weight"),
        ({"activation": "swiglu"}, r"without a counterpart  transformer\.blocks\.0\.mlp\.gate\.weight"),
    ],
)
def test_a_model_between_the_families_is_refused(options: dict[str, Any], reason: str) -> None:
    sizes = {"vocab_size": VOCAB, "context_length": LENGTH, "d_model": 32, "num_layers": 1, "num_heads": 4}
    with pytest.raises(RunError, match=reason):
        to_hf(GPT(**sizes, **options))
