"""The recorded weights are those that attention uses: they give its output, and those that transformers reports."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from mmtrain.model.hf.bert import from_hf
from mmtrain.model.hf.folder import read_folder
from mmtrain.nn.attention import Attention, Documents, Layout, Unpadded
from mmtrain.nn.attention_maps import attention_weights, recorded_attention, rollout
from mmtrain.nn.cache import KVCache
from mmtrain.nn.rope import rotation
from mmtrain.nn.transformer import Transformer

ROWS, TOKENS, WIDTH = 3, 7, 16
LENGTHS = torch.tensor([5, 1, 7])
DOCUMENTS = torch.tensor([[0, 0, 1, 1, 1, -1, -1], [0] * 7, [0, 1, 2, 2, 2, 2, -1]])
OPTIONS: list[dict[str, object]] = [
    {},
    {"causal": True},
    {"num_kv_heads": 2, "causal": True},
    {"qk_norm": True, "bias": False},
    {"num_kv_heads": 1, "qk_norm": True},
]


def attention(**options: object) -> Attention:
    torch.manual_seed(0)
    return Attention(WIDTH, 4, **options).double()  # type: ignore[arg-type]


def tokens(seed: int = 1) -> Tensor:
    return torch.randn(ROWS, TOKENS, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def layouts() -> dict[str, Layout | None]:
    return {"whole": None, "documents": Documents(DOCUMENTS), "unpadded": Unpadded(LENGTHS, TOKENS)}


@pytest.mark.parametrize("layout_name", layouts())
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_weights_give_the_output(options: dict[str, object], rotated: bool, layout_name: str) -> None:
    module, layout, x = attention(**options), layouts()[layout_name], tokens()
    position = torch.arange(TOKENS).expand(ROWS, TOKENS)
    if isinstance(layout, Unpadded):
        x, position = layout.unpad(x), layout.unpad(position)
    turn = rotation(position, module.head_dim, 100.0) if rotated else None
    weights = attention_weights(module, x, layout, turn)
    assert weights.shape == (ROWS, 4, TOKENS, TOKENS)
    _, _, v = module.project(x, turn)
    if isinstance(layout, Unpadded):
        v = layout.pad(v)
    v = v.repeat_interleave(4 // module.num_kv_heads, dim=2)
    mixed = torch.einsum("bhts,bshk->bthk", weights, v).flatten(-2)
    if isinstance(layout, Unpadded):
        mixed = layout.unpad(mixed)
    turn = rotation(position, module.head_dim, 100.0) if rotated else None
    torch.testing.assert_close(module.out(mixed), module(x, layout, turn), rtol=0, atol=1e-12)


def test_padding_is_seen_by_nobody_and_sees_nothing() -> None:
    layout = Unpadded(LENGTHS, TOKENS)
    weights = attention_weights(attention(), layout.unpad(tokens()), layout)
    sums = weights.sum(-1)
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(sums[row, :, :length], torch.ones(4, length, dtype=torch.double))
        assert not weights[row, :, length:].any()
        assert not weights[row, :, :, length:].any()


def test_a_document_does_not_see_another() -> None:
    weights = attention_weights(attention(causal=True), tokens(), Documents(DOCUMENTS))
    allowed = (DOCUMENTS[:, :, None] == DOCUMENTS[:, None]).tril()[:, None].expand_as(weights)
    assert not weights[~allowed].any()
    assert (weights[allowed] > 0).all()


@pytest.mark.parametrize("unpad", [False, True])
def test_the_weights_are_those_that_transformers_reports(unpad: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = BertConfig(**sizes, vocab_size=50, max_position_embeddings=16, attn_implementation="eager")
    theirs = BertModel(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("bert")
    theirs.save_pretrained(folder)
    ours = from_hf(read_folder(folder)).eval()
    ours.unpad = unpad  # type: ignore[assignment]
    ids, segment = torch.randint(1, 50, (ROWS, TOKENS)), torch.zeros(ROWS, TOKENS, dtype=torch.long)
    real = torch.arange(TOKENS) < LENGTHS[:, None]
    with torch.no_grad(), recorded_attention(ours) as maps:
        ours(ids, LENGTHS, segment)
        expected = theirs(ids, real.long(), segment, output_attentions=True).attentions
    assert list(maps) == [f"transformer.blocks.{layer}.attention" for layer in range(3)]
    assert len({float(weights.square().sum()) for weights in expected}) == 3, "layers differ"
    for weights, other in zip(maps.values(), expected, strict=True):
        for row, length in enumerate(LENGTHS.tolist()):
            torch.testing.assert_close(weights[row, :, :length], other[row, :, :length], rtol=0, atol=1e-6)


def test_recording_changes_no_output_and_leaves_no_hook() -> None:
    torch.manual_seed(0)
    model = Transformer(d_model=WIDTH, num_layers=2, num_heads=4, checkpoint=True).double()
    x = tokens()
    before = model(x)
    with recorded_attention(model) as maps:
        during = model(x)
        during.sum().backward()  # computes the activations again
        assert len(maps) == 2 and not any(weights.requires_grad for weights in maps.values())
        first = maps["blocks.0.attention"]
        model(tokens(seed=2))
        assert not torch.equal(first, maps["blocks.0.attention"]), "the last pass is kept"
    last = dict(maps)
    assert torch.equal(before, during)
    assert torch.equal(model(x), before)
    assert all(torch.equal(maps[name], weights) for name, weights in last.items())
    with pytest.raises(RuntimeError), recorded_attention(model):
        raise RuntimeError
    assert not any(part._forward_hooks for part in model.modules())


def test_weights_under_autocast_are_of_its_queries_in_fp32() -> None:
    module, x = attention().float(), tokens().float()
    with torch.autocast("cpu", torch.bfloat16):
        q, k, _ = module.project(x)
        weights = attention_weights(module, x)
    q, k = (part.float().transpose(1, 2) for part in (q, k))
    torch.testing.assert_close(weights, (q @ k.mT / 2).softmax(-1), rtol=0, atol=1e-6)


def test_rollout_is_the_product_of_the_layers_with_their_residuals() -> None:
    one, two = (torch.rand(ROWS, 4, TOKENS, TOKENS, dtype=torch.double).softmax(-1) for _ in range(2))
    identity = torch.eye(TOKENS, dtype=torch.double)
    expected = (0.5 * two.mean(1) + 0.5 * identity) @ (0.5 * one.mean(1) + 0.5 * identity)
    torch.testing.assert_close(rollout([one, two]), expected)
    torch.testing.assert_close(rollout({"a": one, "b": two}, residual=0.0), two.mean(1) @ one.mean(1))
    assert not torch.allclose(rollout([two, one]), expected), "the order of the layers counts"


def test_rollout_keeps_padding_apart() -> None:
    torch.manual_seed(0)
    model, layout = Transformer(d_model=WIDTH, num_layers=3, num_heads=4).double(), Unpadded(LENGTHS, TOKENS)
    with recorded_attention(model) as maps:
        model(layout.unpad(tokens()), layout)
    rolled = rollout(maps)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(ROWS, TOKENS, dtype=torch.double))
    assert not rolled[0, :5, 5:].any() and not rolled[0, 5:, :5].any()
    assert torch.equal(rolled[1, 1:, 1:], torch.eye(6, dtype=torch.double))


def test_what_cannot_be_recorded_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"Linear has no mmtrain\.nn\.attention\.Attention"),
        recorded_attention(torch.nn.Linear(2, 2)),
    ):
        pass
    model = Transformer(d_model=WIDTH, num_layers=1, num_heads=4, causal=True).eval()
    cache = KVCache(num_layers=1, max_length=TOKENS)
    cache.place(torch.arange(TOKENS).expand(ROWS, TOKENS), TOKENS)
    with recorded_attention(model), pytest.raises(ValueError, match="without a cache"):
        model(tokens().float(), cache=cache)
    model.blocks[0].compile()
    with pytest.raises(ValueError, match=r"blocks\.0 is compiled"), recorded_attention(model):
        pass


@pytest.mark.parametrize(
    ("maps", "residual", "message"),
    [
        ([], 0.5, "there are no attention weights"),
        ([torch.ones(1, 1, 2, 2)], 1.0, "residual=1.0"),
        ([torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)], 0.5, "one tower at a time"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(maps: list[Tensor], residual: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(maps, residual)
