"""The command line: ``python -m mmtrain [VERB] [arguments]``; no verb trains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from mmtrain.errors import ConfigError, UserError, did_you_mean

USAGE = """\
usage: python -m mmtrain [VERB] [--config-dir DIR] [ARGUMENTS]

  [train] OVERRIDES          train, or go on with a run that was begun: experiment=clip_emoji seed=1
  show OVERRIDES             the composed config, and where each value came from
  resume RUN [OVERRIDES]     go on with a run
  eval RUN [OVERRIDES]       evaluate a run or a checkpoint, on its own or other data
  generate RUN PROMPT ...    texts of a language model (python -m mmtrain generate --help)
  export RUN --to FORM       the model as a folder of transformers (hf), open_clip or safetensors
  runs [ROOT ...]            what runs there are, their state, speed and best metric (runs --help)
  diff RUN_A RUN_B           what differs: config, code, packages, machine, data, metrics
  report RUNS ...            tables, tests and curves over seeds: a paper's (report --help)
  ui [ROOT ...]              look at runs in a browser, also while they go on (ui --help)
  reproduce RUN              run it again, and say whether every step is the same, bit by bit
  doctor OVERRIDES           how fast the data comes here, what bounds it, and what to set
  sweep OVERRIDES            many runs: seed=1,2,3 optim.lr=1e-4,3e-4 (python -m mmtrain sweep --help)
  multirun OVERRIDES         the same through Hydra's launchers: hydra/launcher=slurm seed=1,2,3
  data prepare|inspect ...   make a data set; look at one (python -m mmtrain data --help)

  --config-dir DIR           a directory of your own experiments and groups; may be repeated
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status, 1 for a mistake of the user."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    try:
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    # Commands are imported when they run: a mistake in an override should not wait for Lightning.
    verbs: dict[str, Callable[[list[str]], int | None]] = {
        "train": _train,
        "show": _show,
        "resume": _resume,
        "eval": _eval,
        "generate": _generate,
        "export": _export,
        "runs": _runs,
        "diff": _diff,
        "reproduce": _reproduce,
        "report": _report,
        "ui": _ui,
        "doctor": _doctor,
        "sweep": _sweep,
        "multirun": _multirun,
        "data": _data,
    }
    verb, *rest = arguments
    if verb in verbs:
        return verbs[verb](rest) or 0
    if verb.startswith("-") or "=" in verb or verb.startswith("~"):
        _train(arguments)
        return 0
    raise ConfigError(f"unknown command {verb!r}", where="the command line", mend=did_you_mean(verb, verbs))


def _train(arguments: list[str]) -> None:
    overrides, config_dirs = _config_dirs(arguments)
    from mmtrain.command.train import train

    train(overrides, config_dirs)


def _show(arguments: list[str]) -> None:
    overrides, config_dirs = _config_dirs(arguments)
    from mmtrain.command.show import show

    show(overrides, config_dirs)


def _resume(arguments: list[str]) -> None:
    run, overrides = _run_and_overrides("resume", arguments)
    from mmtrain.command.resume import resume

    resume(run, overrides)


def _eval(arguments: list[str]) -> None:
    run, overrides = _run_and_overrides("eval", arguments)
    from mmtrain.command.eval import evaluate

    evaluate(run, overrides)


def _generate(arguments: list[str]) -> None:
    from mmtrain.command.generate import generate_texts

    generate_texts(arguments)


def _export(arguments: list[str]) -> None:
    from mmtrain.command.export import export

    export(arguments)


def _runs(arguments: list[str]) -> None:
    from mmtrain.command.runs import runs

    runs(arguments)


def _diff(arguments: list[str]) -> None:
    from mmtrain.command.diff import diff

    diff(arguments)


def _report(arguments: list[str]) -> None:
    from mmtrain.command.report import report

    report(arguments)


def _ui(arguments: list[str]) -> None:
    from mmtrain.command.ui import ui

    ui(arguments)


def _reproduce(arguments: list[str]) -> int:
    from mmtrain.command.reproduce import reproduce_run

    return reproduce_run(arguments)


def _doctor(arguments: list[str]) -> None:
    from mmtrain.command.doctor import doctor

    doctor(arguments)


def _sweep(arguments: list[str]) -> int:
    from mmtrain.command.sweep import sweep

    return sweep(arguments)


def _multirun(arguments: list[str]) -> None:
    overrides, config_dirs = _config_dirs(arguments)
    from mmtrain.command.multirun import multirun

    multirun(overrides, config_dirs)


def _data(arguments: list[str]) -> None:
    from mmtrain.command.data import data

    data(arguments)


def _run_and_overrides(verb: str, arguments: list[str]) -> tuple[str, list[str]]:
    # A run may have been named lr=0.1.
    if not arguments or arguments[0].startswith("-") or ("=" in arguments[0] and not Path(arguments[0]).exists()):
        raise ConfigError(
            f"{verb} needs a run", where="the command line", mend=f"python -m mmtrain {verb} runs/clip_emoji"
        )
    return arguments[0], arguments[1:]


def _config_dirs(arguments: list[str]) -> tuple[list[str], list[Path]]:
    overrides, directories = [], []
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if name == "--config-dir":
            directory = value or next(rest, "")
            if not directory:
                raise ConfigError("--config-dir needs a directory", where="the command line", mend="--config-dir DIR")
            directories.append(Path(directory))
        elif argument.startswith("-"):
            raise ConfigError(f"unknown option {argument!r}", where="the command line", mend="python -m mmtrain --help")
        else:
            overrides.append(argument)
    return overrides, directories


if __name__ == "__main__":
    sys.exit(main())
