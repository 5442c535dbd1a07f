"""A new run's start from other weights: which part of a model takes what, with every difference told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

from torch import nn

from mmtrain.errors import RunError
from mmtrain.model.bert import Bert
from mmtrain.model.hf.names import Weights
from mmtrain.model.hf.settings import Settings, blocks_of
from mmtrain.nn.transformer import Block, Transformer

_OPTIONAL = {Bert: ("pooler.",)}
"""Parts that a model may go without, where the weights have them."""


def pretrained_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and source of all modules that are to start from other weights, outer ones first."""
    for name, module in model.named_modules():
        # An attribute of its own: a property would repeat what a module inside says.
        source = vars(module).get("pretrained")
        if isinstance(source, str):
            yield name, module, source


def load_pretrained(model: nn.Module, read: Callable[[str], nn.Module]) -> list[str]:
    """Loads the weights that the modules' ``pretrained`` name; what lies further inside has the last word.

    A module takes the part of the other model that is of its own class, whole: a classifier's ``Bert`` that of a
    ``BertPretraining``, an image tower's ``ViT`` that of a ``ViTClassifier``.

    Args:
        model: The model, with the weights of its seed.
        read: Gives the model that a source stands for.

    Returns:
        A line for each source: what was taken and what was left out; and one for the weights that stay random.

    Raises:
        RunError: A source has no such part, or one of other weights, shapes or settings; all are listed.
    """
    said, loaded = [], set()
    for name, module, source in pretrained_modules(model):
        said.append(f"{name or 'model'}: {_transfer(read(source), module, source, name)}")
        loaded |= {f"{name}.{weight}".lstrip(".") for weight in module.state_dict()}
    if said and (fresh := [weight for weight in model.state_dict() if weight not in loaded]):
        said.append(f"new: {_tops(fresh)}")
    return said


def _transfer(donor: nn.Module, module: nn.Module, source: str, name: str) -> str:
    where = f"{'.'.join(filter(None, ('model', name, 'pretrained')))}={source}"
    part_name, part = _part(donor, module, where)
    given, own = part.state_dict(), module.state_dict()
    optional = next((prefixes for cls, prefixes in _OPTIONAL.items() if isinstance(module, cls)), ())
    spare = [weight for weight in given if weight not in own and weight.startswith(optional)] if optional else []
    kept = {weight: tensor for weight, tensor in given.items() if weight not in spare}
    faults = _faults(kept, own, _settings(part), _settings(module))
    if faults:
        raise RunError(
            "the pretrained weights do not fit the model:" + "".join(f"\n    {fault}" for fault in faults),
            where=where,
            mend="give the model the sizes and options of those weights, or name others",
        )
    module.load_state_dict(kept)
    prefix = f"{part_name}." if part_name else ""
    rest = [weight for weight in donor.state_dict() if not weight.startswith(prefix)] + [f"{prefix}{w}" for w in spare]
    taken = f"starts from {source}" + (f", its {part_name}" if part_name else "")
    return taken + (f"; left out: {_tops(rest)}" if rest else "")


def _faults(there: Weights, here: Weights, settings_there: Settings, settings_here: Settings) -> list[str]:
    """A line for everything that keeps the weights from being loaded."""
    shapes = {name: (tuple(there[name].shape), tuple(here[name].shape)) for name in here if name in there}
    settings = {name: (settings_there[name], settings_here[name]) for name in settings_there if name in settings_here}
    return [
        *(f"missing     {name} {tuple(here[name].shape)}" for name in here if name not in there),
        *(f"unexpected  {name} {tuple(there[name].shape)}" for name in there if name not in here),
        *(f"shape       {name} is {a} there, and {b} in the model" for name, (a, b) in shapes.items() if a != b),
        *(f"setting     {name} is {a} there, and {b} in the model" for name, (a, b) in settings.items() if a != b),
    ]


def _part(donor: nn.Module, module: nn.Module, where: str) -> tuple[str, nn.Module]:
    """The part of ``donor`` that is of the class of ``module``, and its name."""
    found = [(name, part) for name, part in donor.named_modules() if type(part) is type(module)]
    if len(found) == 1:
        return found[0]
    wanted, whole = type(module).__name__, type(donor).__name__
    count = "no" if not found else "more than one"
    raise RunError(
        f"the weights are a {whole}'s, which has {count} {wanted}", where=where, mend=f"name weights of a {wanted}"
    )


def _settings(model: nn.Module) -> Settings:
    """What decides the result and shows in no shape."""
    settings: Settings = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, Transformer):
            block = module.blocks[0]
            assert isinstance(block, Block)
            form = {"causal": block.attention.causal, "rope_theta": module.rope_theta, "post_norm": block.post}
            blocks = {key: value for key, value in asdict(blocks_of(module)).items() if key != "attention_dropout"}
            settings |= {f"{prefix}{key}": value for key, value in {**blocks, **form}.items()}
        if isinstance(pool := vars(module).get("pool"), str):
            settings[f"{prefix}pool"] = pool
    return settings


def _tops(names: list[str]) -> str:
    """``head (2 weights), mlm (5 weights)``."""
    tops: dict[str, int] = {}
    for name in names:
        top = name.partition(".")[0]
        tops[top] = tops.get(top, 0) + 1
    return ", ".join(f"{top} ({count} {'weight' if count == 1 else 'weights'})" for top, count in tops.items())
