"""One table of names serves both ways: from our weights to another library's, and back, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmtrain.errors import RunError

Weights = dict[str, Tensor]
Theirs = str | tuple[str, ...]

_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Names:
    """Which of their weights each of ours is made of.

    Biases that only they have are written as zeros and must be zeros when read, so that a model without biases is
    exchanged with a library that has no word for it.

    Args:
        model: Their name of the architecture, for messages.
        table: Their name for each of our modules (with ``.weight`` and ``.bias`` on both sides) or single weights.
            ``{n}`` stands for the number of a block. Three names stand for the queries, keys and values that we keep in
            one matrix, one after the other.
        query_group: Query heads that share a key-value head.
        transposed: Our weights that they keep transposed, such as those of GPT-2's ``Conv1D``.
        leading: Axes of length 1 that they put before our weight's own.
        tied: Second names of theirs for a weight, and the first. They are not written; one that is read must be equal.
        derived: Patterns of their buffers that hold no weight.
    """

    model: str
    table: Mapping[str, Theirs]
    query_group: int = 1
    transposed: frozenset[str] = frozenset()
    leading: Mapping[str, int] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    derived: Sequence[str] = ()

    def to_theirs(self, ours: Mapping[str, Tensor]) -> Weights:
        """Their weights, as copies that share no memory.

        Raises:
            RunError: We have a weight that they have not, or lack one; all are listed.
        """
        theirs: Weights = {}
        unknown, used = [], set()
        for name, tensor in (dict(ours) | self._zero_biases(ours)).items():
            if (found := self._find(name)) is None:
                unknown.append(f"without a counterpart  {name} {_shape(tensor)}")
                continue
            key, targets = found
            used.add(key)
            theirs |= zip(targets, self._split(name, tensor, len(targets)), strict=True)
        lacking = [f"lacking                {key}" for key in self.table if key not in used]
        if unknown or lacking:
            raise RunError(
                f"this model is not one that {self.model} can hold:{_listed(unknown + lacking)}",
                mend="exchange it as our own weights, in safetensors",
            )
        return theirs

    def to_ours(
        self,
        theirs: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        *,
        where: str,
    ) -> Weights:
        """Our state dict from their weights, as copies.

        Args:
            theirs: All of their weights.
            shapes: Shape of every weight of ours.
            where: Where theirs lie, for the message.

        Raises:
            RunError: Weights are missing, unexpected or of another shape; all are listed.
        """
        pattern = "|".join(self.derived)
        given = {name: tensor for name, tensor in theirs.items() if not (pattern and re.fullmatch(pattern, name))}
        faults = []
        for second, first in self.tied.items():
            copy = given.pop(second, None)
            if copy is not None and first in given and not torch.equal(copy, given[first]):
                faults.append(f"untied      {second} differs from {first}, and the model has one weight for both")
        meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        expected = self.to_theirs(meta)
        only_theirs = {target for name in self._zero_biases(meta) for target in self._names(name)}
        faults += _mismatches(given, expected, only_theirs)
        if faults:
            raise RunError(
                f"the weights are not those of the {self.model} that config.json describes:{_listed(faults)}",
                where=where,
                mend="name a folder whose config.json and weights were written together",
            )
        return {name: self._join(name, given) for name in shapes}

    def _find(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """The table's key for one of our weights, and their names for it."""
        plain = _pattern(name)
        number = found[1] if (found := _NUMBER.search(name)) else ""
        module, _, kind = plain.rpartition(".")
        for key, ending in ((plain, ""), (module, f".{kind}")):
            if key in self.table:
                theirs = self.table[key]
                names = (theirs,) if isinstance(theirs, str) else theirs
                return key, tuple(each.replace("{n}", number) + ending for each in names)
        return None

    def _names(self, name: str) -> tuple[str, ...]:
        found = self._find(name)
        assert found is not None, "to_theirs() refuses a weight that the table has not"
        return found[1]

    def _zero_biases(self, ours: Mapping[str, Tensor]) -> Weights:
        """Zeros for the biases that modules of ours lack and theirs have."""
        return {
            bias: tensor.new_zeros(tensor.shape[0])
            for name, tensor in ours.items()
            if name.endswith(".weight")
            and (bias := f"{name.removesuffix('.weight')}.bias") not in ours
            and (found := self._find(name)) is not None
            and not found[0].endswith(".weight")
        }

    def _split(self, name: str, tensor: Tensor, parts: int) -> list[Tensor]:
        if parts > 1:
            unit = tensor.shape[0] // (self.query_group + 2)
            return [part.clone() for part in tensor.split([self.query_group * unit, unit, unit])]
        key = _pattern(name)
        if key in self.transposed:
            tensor = tensor.T
        tensor = tensor[(None,) * self.leading.get(key, 0)]
        return [tensor.clone(memory_format=torch.contiguous_format)]

    def _join(self, name: str, theirs: Mapping[str, Tensor]) -> Tensor:
        key, (first, *rest) = _pattern(name), self._names(name)
        tensor = torch.cat([theirs[first], *(theirs[each] for each in rest)]) if rest else theirs[first].clone()
        tensor = tensor.reshape(tensor.shape[self.leading.get(key, 0) :])
        return tensor.T.contiguous() if key in self.transposed else tensor


def _mismatches(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], only_theirs: set[str]) -> list[str]:
    missing = [name for name in expected if name not in given and name not in only_theirs]
    unexpected = [name for name in given if name not in expected]
    both = [name for name in expected if name in given]
    misshapen = [name for name in both if given[name].shape != expected[name].shape]
    biased = [name for name in both if name in only_theirs and name not in misshapen and given[name].any()]
    return [
        *(f"missing     {name} {_shape(expected[name])}" for name in missing),
        *(f"unexpected  {name} {_shape(given[name])}" for name in unexpected),
        *(
            f"shape       {name} is {_shape(given[name])}, and {_shape(expected[name])} in the model"
            for name in misshapen
        ),
        *(f"bias        {name} is not zero, and the model has none there" for name in biased),
    ]


def _pattern(name: str) -> str:
    """The name with ``{n}`` for the number of the block."""
    return _NUMBER.sub(".{n}.", name, count=1)


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"\n    {line}" for line in lines)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def under(ours: str, theirs: str, table: Mapping[str, Theirs]) -> dict[str, Theirs]:
    """The table of a part, as it stands under these prefixes in the whole."""
    return {
        f"{ours}{name}": f"{theirs}{each}" if isinstance(each, str) else tuple(f"{theirs}{part}" for part in each)
        for name, each in table.items()
    }


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """Shape of every weight of a model."""
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
