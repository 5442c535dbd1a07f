"""Every command in the documentation is one that the program, or whatever it calls, takes."""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from doc_commands import PAGES, ROOT, Command, commands, files
from tiny_run import Program
from torch.distributed.run import get_args_parser

from mmtrain.__main__ import main
from mmtrain.config import allow_targets, compose, config_dir, instantiate, validate
from mmtrain.errors import ConfigError

EXAMPLE = ROOT / "examples" / "rotnet"
COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
OTHERS = {"python3", "scancel", "scontrol", "squeue", "sbatch", "ssh", "source", "bash", "pip", "pytest", "pre-commit"}
OF_OVERRIDES = ("train", "show", "multirun", "doctor")
OF_A_RUN = ("resume", "eval")
EXPERIMENTS = {path.stem for path in (config_dir() / "experiment").glob("*.yaml")}


class Parsed(Exception):  # noqa: N818
    """A command's own parser took its arguments."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self.arguments = arguments


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which the paths of the documentation mean what they mean in the repository."""
    for name in ("examples", "slurm", "benchmarks", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    # As if the example were installed.
    monkeypatch.setattr(sys.modules[instantiate.__module__], "_prefixes", {"mmtrain.", "torch.optim.", "lightning."})
    monkeypatch.syspath_prepend(EXAMPLE)
    allow_targets("rotnet.")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_of_the_documentation_is_valid(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files(command.page).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    words = [word for word in command.words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program = Path(words[0]).name
    if "mmtrain" in words and words[words.index("mmtrain") - 1] == "-m":
        at = words.index("mmtrain")
        if program == "torchrun":
            get_args_parser().parse_args([*words[1 : at - 1], "script"])
        else:
            assert (program, at) == ("python", 2)
        if command.output is None:
            check_program(words[at + 1 :], monkeypatch)
    elif program == "python":
        check_script(words[1:])
    else:
        assert program in OTHERS, f"{program}: how would one know that this is right?"
        check_other(program, words[1:], monkeypatch)


def check_program(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Composes and validates what the command would train, or has its own parser read it."""
    config_dirs, rest = split_config_dirs(words)
    verb, *arguments = rest or ["--help"]
    if "=" in verb:
        verb, arguments = "train", rest
    if verb in OF_OVERRIDES:
        overrides = [word for word in arguments if not word.startswith("--")]
        if verb == "multirun":
            overrides = [re.sub(r",.*", "", word) for word in overrides if not word.startswith("hydra/")]
        check_config(overrides, config_dirs)
    elif verb in OF_A_RUN:
        check_overrides_of_a_run(arguments)
    elif not rest:
        assert main([]) == 2, "without arguments it says how it is used"
    elif verb == "sweep" and arguments[0] not in ("run", "status"):
        # Without --local or --slurm a sweep is planned: all its jobs are checked.
        own = arguments[: arguments.index("--")] if "--" in arguments else arguments
        assert main(["sweep", *(word for word in own if word not in ("--local", "--slurm"))]) == 0
    else:
        parsed(rest, monkeypatch)


def check_overrides_of_a_run(arguments: Sequence[str]) -> None:
    """A run of the documentation bears the name of its experiment."""
    run, *overrides = arguments
    name = Path(run).relative_to("runs").parts[0]
    assert name in EXPERIMENTS or name == "rotnet_drawings", f"{run} is a run of no experiment"
    check_config([f"experiment={name}", *overrides], [EXAMPLE / "rotnet" / "conf"])


def check_config(overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    """Validates a config, in which what only a user can bring, the shards, is filled in."""
    try:
        composed = compose(overrides, extra_dirs=config_dirs)
    except ConfigError as error:
        _, _, missing = error.message.partition(" missing: ")
        if not missing.startswith("data."):
            raise
        composed = compose([*overrides, *(f"{key}=shards" for key in missing.split(", "))], extra_dirs=config_dirs)
    validate(composed)


def split_config_dirs(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    config_dirs, rest, words = [], [], list(words)
    while words:
        word = words.pop(0)
        if word == "--config-dir":
            config_dirs.append(Path(words.pop(0)))
        else:
            rest.append(word)
    return config_dirs, rest


def parsed(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the parser of a command makes of its arguments; the command itself does not run."""
    for name in ("parse_args", "parse_intermixed_args"):
        real = getattr(argparse.ArgumentParser, name)

        def stop(self: Any, *given: Any, real: Any = real, **named: Any) -> None:
            raise Parsed(real(self, *given, **named))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    with pytest.raises(Parsed) as ended:
        main(list(arguments))
    return ended.value.arguments


def check_script(words: Sequence[str]) -> None:
    """A script of the repository, and options that it knows."""
    script, *options = words
    text = (ROOT / script).read_text()
    for option in options:
        assert not option.startswith("--") or f'"{option.partition("=")[0]}"' in text, f"{script} has no {option}"


def check_other(program: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are named exist; what is installed is a part of this project; a batch script gets what it takes."""
    scripts = [word for word in words if word.startswith(("slurm/", "examples/")) and "=" not in word]
    assert all((ROOT / script).exists() for script in scripts)
    if program == "sbatch":
        (script,) = scripts
        arguments = list(words[words.index(script) + 1 :])
        if script in ("slurm/train.sbatch", "slurm/container.sbatch"):
            check_program(arguments, monkeypatch)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"(?:mmtrain|\.)\[([\w,]+)\]", " ".join(words)):
            assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    elif program in ("source", "bash"):
        assert scripts or words[0] == ".venv/bin/activate"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.output is not None], ids=str)
def test_a_command_says_what_the_documentation_shows(command: Command, place: Path, program: Program) -> None:
    """Lines of three dots stand for anything."""
    assert command.output is not None
    outcome = program(*command.words[command.words.index("mmtrain") + 1 :])
    said = "\n".join(line.rstrip() for line in (outcome.out + outcome.err).splitlines())
    pattern = (
        re.escape(command.output).replace(re.escape("...\n"), r"(?:.*\n)*").replace(re.escape("\n..."), r"(?:\n.*)*")
    )
    assert re.fullmatch(pattern, said), said


@pytest.mark.parametrize(
    "wrong",
    [
        "experiment=clip_emoji model.lrr=1",
        "experiment=clip_emogi",
        "--config-dir nowhere experiment=clip_emoji",
        "resume runs/clip_emoji optim.lrr=1",
        "eval runs/of_nothing",
        "sweep experiment=clip_emoji optim.lrr=1,2",
        "export runs/clip_emoji --to onnx",
        "data pack images photos --outt data",
        "data pact images photos",
        "nonsense",
    ],
)
def test_a_wrong_command_would_be_found(wrong: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((ConfigError, AssertionError, SystemExit, pytest.fail.Exception)):
        check_program(wrong.split(), monkeypatch)


def test_the_documentation_has_commands_of_every_kind() -> None:
    kinds = {
        command.words[3]
        for command in COMMANDS
        if command.words[:3] == ("python", "-m", "mmtrain") and command.words[3:]
    }
    assert {"show", "resume", "eval", "generate", "export", "data", "doctor", "sweep"} <= kinds
    assert len(COMMANDS) > 60
