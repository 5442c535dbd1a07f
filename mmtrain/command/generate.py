"""``python -m mmtrain generate RUN "prompt" ...``: texts of a language model, as they are made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.errors import ConfigError, RunError
from mmtrain.model.generate import collect, generate
from mmtrain.model.gpt import GPT
from mmtrain.model.sampling import Sampling
from mmtrain.run.data_record import TOKENIZER
from mmtrain.run.log import quiet_libraries
from mmtrain.run.pretrained import read_model
from mmtrain.run.stored import open_stored


def generate_texts(argv: Sequence[str]) -> None:
    """Prints what a model makes of prompts: a single text as it is made, several one after the other.

    Args:
        argv: Arguments of the command line; ``--help`` explains them.

    Raises:
        RunError: There is no such run or folder, it holds no decoder, or the model and the tokenizer do not match.
        ConfigError: A prompt is empty or leaves no room, or a number is out of its range.
    """
    arguments = _parser().parse_args(argv)
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
    if arguments.num_samples < 1:
        reason = f"num_samples={arguments.num_samples} asks for no text"
        raise ConfigError(reason, where="--num-samples", mend="set 1 or more")
    quiet_libraries()
    model, tokenizer = _open(arguments.run, live=arguments.live)
    prompts = [prompt for prompt in arguments.prompts for _ in range(arguments.num_samples)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = generate(
        model.to(device),
        tokenizer.encode_batch(prompts),
        max_new_tokens=arguments.max_new_tokens,
        sampling=sampling,
        end=tokenizer.eos,
        vocab_size=tokenizer.vocab_size,
        generator=torch.Generator(device).manual_seed(arguments.seed),
    )
    if len(prompts) == 1 and arguments.stream:
        text = tokenizer.stream()
        pieces = ("" if token is None else text.push(token) for (token,) in steps)
        for number, piece in enumerate(pieces):
            print(piece if number else prompts[0] + piece, end="", flush=True)
        print(text.end())
        return
    for number, (prompt, tokens) in enumerate(zip(prompts, collect(steps), strict=True), start=1):
        if len(prompts) > 1:
            print(f"--- {number} of {len(prompts)} ---")
        print(prompt + tokenizer.decode(tokens))


def _open(path: Path, *, live: bool) -> tuple[GPT, TextTokenizer]:
    """The model, in evaluation mode, and its tokenizer."""
    is_run = path.suffix == ".ckpt" or (path / "checkpoints").is_dir()
    if is_run:
        stored = open_stored(path)
        model, folder = stored.load_model(live=live), stored.directory / TOKENIZER
    elif path.is_dir():
        model, folder = read_model(str(path)).eval(), path
    else:
        mend = "name a directory such as runs/gpt_wiki, or a folder with config.json and model.safetensors"
        raise RunError("there is no such run", where=str(path), mend=mend)
    if not isinstance(model, GPT):
        reason = f"a {type(model).__name__} makes no texts"
        raise RunError(reason, where=str(path), mend="name a run of a decoder, such as runs/gpt_wiki")
    tokenizer = TextTokenizer(folder)
    if (needed := tokenizer.vocab_size) > model.vocab_size:
        reason = f"the tokenizer has {needed} tokens, and the model has {model.vocab_size}"
        raise RunError(reason, where=str(folder), mend="put the tokenizer there that the model was trained with")
    return model, tokenizer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain generate", description="Prints what a language model makes of prompts."
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run directory (its best checkpoint), a checkpoint, or an exported folder"
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="text to go on with")
    parser.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="most tokens to add (200)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K most probable tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the most probable tokens of this share")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (0)")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N", help="texts for each prompt (1)")
    parser.add_argument("--no-stream", dest="stream", action="store_false", help="print a text when it is whole")
    parser.add_argument("--live", action="store_true", help="not the averaged weights, where the run kept some")
    return parser
