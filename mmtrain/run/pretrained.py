"""Where ``pretrained`` weights come from: a run, a folder of Hugging Face or open_clip, or a name."""

from __future__ import annotations

import logging
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from mmtrain import distributed
from mmtrain.data.sources.minilm import minilm_folder
from mmtrain.errors import RunError
from mmtrain.model.hf.families import from_folder
from mmtrain.model.hf.folder import is_folder, read_folder
from mmtrain.model.pretrained import load_pretrained, pretrained_modules
from mmtrain.run.data_record import TOKENIZER
from mmtrain.run.export.own import CONFIG as OWN
from mmtrain.run.export.own import read_own
from mmtrain.run.stored import open_stored

_LOG = logging.getLogger(__name__)
_TOKENIZER_FILE = "tokenizer.json"


def start_from_pretrained(model: nn.Module, run: Path) -> None:
    """Loads what the model's ``pretrained`` name, and says in the log what was taken. For a run that starts anew.

    Args:
        model: The model, with the weights of its seed.
        run: Directory of the run that starts. Weights that read the tokens of its tokenizer must know the same.

    Raises:
        RunError: A source is missing, does not fit the model, or was trained with another tokenizer.
    """
    for name, module, source in pretrained_modules(model) if distributed.rank() == 0 else ():
        if any(weight.endswith("token_embed.weight") for weight in module.state_dict()):
            _require_same_tokens(
                _tokenizer_of(source),
                run / TOKENIZER / _TOKENIZER_FILE,
                f"model.{name}.pretrained={source}".replace("..", "."),
            )
    for line in load_pretrained(model, read_model):
        _LOG.info(line)


def read_model(source: str) -> nn.Module:
    """The model that a source stands for: ``minilm``, an exported model, a run's newest checkpoint, ...

    Raises:
        RunError: There is none, or it cannot be read.
    """
    path = _place(source)
    if (path / OWN).is_file():
        return read_own(path)
    if is_folder(path):
        return from_folder(read_folder(path))
    if path.suffix == ".ckpt" or (path / "checkpoints").is_dir():
        return open_stored(path, newest=True).load_model()
    raise RunError(
        "there are no pretrained weights",
        where=source,
        mend="name a run's directory, a folder with config.json and model.safetensors, or minilm",
    )


def _place(source: str) -> Path:
    return minilm_folder() if source == "minilm" else Path(source).expanduser()


def _tokenizer_of(source: str) -> Path:
    path = _place(source)
    if path.suffix == ".ckpt":
        path = path.resolve().parent.parent
    exported = is_folder(path) or (path / OWN).is_file()
    return path / _TOKENIZER_FILE if exported else path / TOKENIZER / _TOKENIZER_FILE


def _require_same_tokens(theirs: Path, ours: Path, where: str) -> None:
    if not (theirs.is_file() and ours.is_file()):
        return
    there, here = (Tokenizer.from_file(str(path)).get_vocab() for path in (theirs, ours))
    other = sorted(token for token, number in there.items() if here.get(token) != number)
    if other:
        token = other[0]
        raise RunError(
            f"the weights were trained with another tokenizer: {len(other)} of {len(there)} tokens have other ids, "
            f"{token!r}: {there[token]} there, {here.get(token, 'none')} here",
            where=where,
            mend=f"set the tokenizer of data to {theirs.parent}",
        )
