"""``python -m mmtrain diff RUN_A RUN_B``: what differs between two runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from mmtrain.run.compare import Difference, FirstDifference, Pair, compare
from mmtrain.run.evidence import Evidence, gather

_PATCH_LINES = 40
_HASH = 64
_WIDEST = 10_000


def diff(argv: list[str]) -> None:
    """Prints what differs between two runs, and what could not be compared.

    Raises:
        RunError: One of them is no run.
    """
    arguments = _parser().parse_args(argv)
    a, b = gather(arguments.a), gather(arguments.b)
    found = compare(a, b)
    if arguments.json:
        json.dump({"a": _head(a), "b": _head(b), **asdict(found)}, sys.stdout, indent=1)
        print()
    else:
        _print(a, b, found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m mmtrain diff",
        description="Shows what differs between two runs: config, code, packages, machine, data, metrics. What is not"
        " shown is the same, or is named among what could not be compared.",
    )
    parser.add_argument("a", type=Path, metavar="RUN_A", help="run directory")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="run directory")
    parser.add_argument("--json", action="store_true", help="everything, as a JSON object")
    return parser


def _head(run: Evidence) -> dict[str, Any]:
    listed = run.listed
    return {"run": str(run.path), "state": listed.state, "step": listed.step, "total_steps": listed.total_steps}


def _print(a: Evidence, b: Evidence, found: Difference) -> None:
    console = plain_console()
    for side, run in (("A", a), ("B", b)):
        listed = run.listed
        total = "?" if listed.total_steps is None else listed.total_steps
        console.print(
            Text.assemble((side, "bold"), f"  {run.path}  {listed.state}, step {listed.step or 0} of {total}")
        )
    trees = trees_of(found)
    metrics = _tree("metrics", {})
    _add(metrics, "last", found.final)
    _add(metrics, "at the best evaluation", found.best)
    metrics.add(_loss_line(found.losses))
    manifests = a.manifest is not None and b.manifest is not None
    known = {"config": bool(a.config and b.config), "data": bool(a.data.fingerprints and b.data.fingerprints)}
    for name, tree in trees.items():
        if not tree.children:
            tree.add(Text("the same" if known.get(name, manifests) else "not known of both", style="dim"))
        console.print(tree)
    console.print(metrics)
    if found.notes:
        notes = Tree(Text("not compared, or to be known", style="bold yellow"), guide_style="dim")
        for note in found.notes:
            notes.add(Text(note))
        console.print(notes)


def plain_console() -> Console:
    """A console that prints a text as it is, however long its lines: a tree would be cut at the terminal's width."""
    return Console(highlight=False, emoji=False, markup=False, soft_wrap=True, width=_WIDEST)


def trees_of(found: Difference) -> dict[str, Tree]:
    """What differs in config, code, packages, machine and data, without children where nothing does."""
    code = _tree("code", _shortened(found.code))
    _add(code, "files that differ", _shortened(found.files))
    for name, lines in found.patches.items():
        _add_patch(code, name, lines)
    data = _tree("data", _shortened(found.data))
    for name, shards in found.shards.items():
        _add(data, f"shards of {name}", _shortened(shards))
    return {
        "config": _config_tree(found.config),
        "code": code,
        "packages": _tree("packages", found.packages),
        "machine": _tree("machine", found.machine),
        "data": data,
    }


def _config_tree(pairs: Mapping[str, Pair]) -> Tree:
    root = _tree("config", {})
    branches: dict[str, Tree] = {"": root}
    for key, pair in pairs.items():
        prefix = ""
        for part in key.split(".")[:-1]:
            parent, prefix = branches[prefix], f"{prefix}.{part}" if prefix else part
            if prefix not in branches:
                branches[prefix] = parent.add(Text(part, style="bold"))
        branches[prefix].add(_line(key.rpartition(".")[2], pair))
    return root


def _tree(title: str, pairs: Mapping[str, Pair]) -> Tree:
    tree = Tree(Text(title, style="bold"), guide_style="dim")
    for name, pair in pairs.items():
        tree.add(_line(name, pair))
    return tree


def _add(tree: Tree, title: str, pairs: Mapping[str, Pair]) -> None:
    if pairs:
        tree.add(_tree(title, pairs))


def _add_patch(tree: Tree, name: str, lines: list[str]) -> None:
    branch = tree.add(Text(f"uncommitted work in {name}", style="bold"))
    for line in lines[:_PATCH_LINES]:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        branch.add(Text(line, style=style))
    if len(lines) > _PATCH_LINES:
        branch.add(Text(f"... and {len(lines) - _PATCH_LINES} lines more", style="dim"))


def _line(name: str, pair: Pair) -> Text:
    a, b = (_value(pair[side]) if side in pair else "(absent)" for side in ("a", "b"))
    line = Text.assemble((name, "bold"), ": ", (a, "red"), " -> ", (b, "green"))
    return line.append(f"  ({pair['difference']:+.4g})", "dim") if "difference" in pair else line


def _loss_line(losses: FirstDifference) -> Text:
    if losses.step is not None:
        return _line(f"training loss differs first at step {losses.step}", losses.losses)
    if losses.compared:
        return Text(f"training loss is the same at all {losses.compared} steps that both recorded")
    return Text("no step of training was recorded by both")


def _shortened(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Hashes by their first 12 digits."""
    return {
        name: {s: v[:12] if isinstance(v, str) and len(v) == _HASH else v for s, v in pair.items()}
        for name, pair in pairs.items()
    }


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
