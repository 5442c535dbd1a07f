"""``generate``: texts of a run or of an exported folder, as they are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_runs import BERT, LLAMA, write_run
from stored_runs import GPT as GPT2
from tiny_run import Program

from mmtrain.data.decode.text_tokenizer import TextTokenizer
from mmtrain.model.generate import collect, generate
from mmtrain.model.gpt import GPT

BYTES = TextTokenizer("bytes")
GREEDY = ("--temperature", "0", "--max-new-tokens", "12")


@pytest.fixture(scope="module", params=[GPT2, LLAMA], ids=["gpt2", "llama"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GPT]:
    directory = tmp_path_factory.mktemp("runs") / "gpt"
    model = write_run(directory, request.param, tokenizer=BYTES)
    assert isinstance(model, GPT)
    return directory, model


def greedy(model: GPT, *prompts: str) -> list[str]:
    ids = BYTES.encode_batch(prompts)
    steps = generate(model, ids, max_new_tokens=12, end=BYTES.eos, vocab_size=BYTES.vocab_size)
    return [prompt + text for prompt, text in zip(prompts, BYTES.decode_batch(collect(steps)), strict=True)]


@pytest.mark.parametrize("more", [(), ("--no-stream",)])
def test_a_text_is_printed_after_its_prompt(program: Program, run: tuple[Path, GPT], more: tuple[str, ...]) -> None:
    directory, model = run
    outcome = program("generate", directory, "To be", *GREEDY, *more)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == greedy(model, "To be")[0] + "\n"


def test_several_prompts_and_samples_are_numbered(program: Program, run: tuple[Path, GPT]) -> None:
    directory, model = run
    outcome = program("generate", directory, "To be", "or", "--num-samples", "2", *GREEDY)
    first, second = greedy(model, "To be", "or")
    texts = [first, first, second, second]
    assert outcome.out == "".join(f"--- {number} of 4 ---\n{text}\n" for number, text in enumerate(texts, start=1))


def test_the_seed_decides_what_is_drawn(program: Program, run: tuple[Path, GPT]) -> None:
    first, again, other = (
        program("generate", run[0], "To be", "--seed", seed, "--top-k", "50", "--top-p", "0.95").out
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_checkpoint_an_average_and_an_exported_folder_serve_as_well(program: Program, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    model = write_run(directory, GPT2, tokenizer=BYTES, average=True)
    assert isinstance(model, GPT)
    (checkpoint,) = (directory / "checkpoints").glob("*.ckpt")
    assert program("generate", checkpoint, "To be", "--live", *GREEDY).out == greedy(model, "To be")[0] + "\n"
    average = program("generate", directory, "To be", *GREEDY)
    assert average.status == 0 and average.out != greedy(model, "To be")[0] + "\n"
    assert program("export", directory, "--to", "hf", "--live", "--out", tmp_path / "hf").status == 0
    assert program("generate", tmp_path / "hf", "To be", *GREEDY).out == greedy(model, "To be")[0] + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the prompt has no token"),
        (["x" * 64], "the prompt has 64 tokens, and the model has 64 positions: no room is left"),
        (["x", "--max-new-tokens", "0"], "max_new_tokens=0 leaves nothing to generate"),
        (["x", "--temperature", "-1"], "temperature=-1.0 is negative"),
        (["x", "--top-p", "2"], "top_p=2.0 is no share of a probability"),
        (["x", "--num-samples", "0"], "num_samples=0 asks for no text"),
    ],
)
def test_what_cannot_be_generated_is_refused(
    program: Program, run: tuple[Path, GPT], arguments: list[str], message: str
) -> None:
    outcome = program("generate", run[0], *arguments)
    assert (outcome.status, outcome.out) == (1, "")
    assert message in outcome.err


def test_runs_that_cannot_generate_are_refused(program: Program, tmp_path: Path) -> None:
    write_run(tmp_path / "bert", BERT, tokenizer=BYTES)
    write_run(tmp_path / "small", {**GPT2, "vocab_size": 64}, tokenizer=BYTES)
    write_run(tmp_path / "bare", GPT2)
    faults = {
        "nowhere": "there is no such run",
        "bert": "a Bert makes no texts",
        "small": f"the tokenizer has {BYTES.vocab_size} tokens, and the model has 64",
        "bare": "there is no tokenizer",
    }
    for name, message in faults.items():
        outcome = program("generate", tmp_path / name, "To be")
        assert outcome.status == 1
        assert message in outcome.err
