"""What of a run is run again, by which config; and every run that cannot be, told with the mend."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recorded_runs import CONFIG, ENVIRONMENT, MANIFEST, ROWS, SEGMENT, ended, write_recorded

from mmtrain.config.secret import masked
from mmtrain.errors import ConfigError, RunError
from mmtrain.run.environment import Node
from mmtrain.run.manifest import Manifest
from mmtrain.run.reproduce_child import child_environment
from mmtrain.run.reproduce_plan import Plan, as_overrides, plan_reproduction
from mmtrain.run.source_tree import json_sha256

OUT = Path("/new")


def plan(path: Path, *overrides: str, steps: int | None = None, exact: bool = True) -> Plan:
    return plan_reproduction(path, OUT, steps, overrides, exact=exact)


def on(*nodes: Node, world_size: int = 1, **trainer: Any) -> Manifest:
    """A manifest of a run on these nodes."""
    config = CONFIG | {"trainer": CONFIG["trainer"] | trainer}
    segment = replace(SEGMENT, world_size=world_size, config_sha256=json_sha256(config))
    environments = {"environment0": replace(ENVIRONMENT, nodes=list(nodes))}
    return replace(MANIFEST, config=config, segments=[segment], environments=environments)


def test_what_the_machine_gave_is_set_and_nothing_is_tracked_or_overwritten(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run", on(Node("node1", 3, "cpu"), world_size=3, devices="auto"))
    found = plan(path)
    assert found.config["trainer"] == {
        "accelerator": "cpu", "devices": 3, "num_nodes": 1, "threads": 2, "precision": "32-true",
    }  # fmt: skip
    assert found.config["run"] == {"dir": "/new", "fresh": False}
    assert found.config["logger"] == {}
    assert found.config["callback"] == {"progress": None, "guard": {"window": 1}}
    assert found.config["optim"] == CONFIG["optim"]
    assert (found.steps, found.is_whole, found.open_end) == (4, True, False)
    assert found.expected[4] == {"train/loss": 0.25}
    assert found.is_own("trainer.devices") and found.is_own("logger.wandb.project") and not found.is_own("optim.lr")


def test_fewer_steps_are_the_beginning_of_the_record(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run")
    found = plan(path, steps=3)
    assert (found.steps, sorted(found.expected), found.is_whole) == (3, [1, 2, 3], False)
    with pytest.raises(RunError, match="the run recorded 4 steps, and 5 are to be compared") as caught:
        plan(path, steps=5)
    assert caught.value.mend == "--steps 4"
    sparse = write_recorded(tmp_path / "sparse", rows=ROWS[1::2])
    assert plan(sparse, steps=3).steps == 2
    with pytest.raises(RunError, match="recorded nothing up to step 1"):
        plan(sparse, steps=1)


@pytest.mark.parametrize(
    ("reason", "marks", "rows", "message", "mend"),
    [
        (
            "failed: RunError: x",
            ("lock",),
            [],
            r"ended before its first recorded step \(failed: RunError: x\)",
            "resume",
        ),
        (None, ("lock",), [], r"ended before its first recorded step \(killed\)", "log.txt"),
        (
            "preempted",
            ("REQUEUE",),
            ROWS[:3],
            "did not finish .preempted.*it recorded 3 of 4 steps",
            "resume .*--steps 3",
        ),
        (None, ("lock",), ROWS[:2], "did not finish .killed.: it recorded 2 of 4 steps", "resume .*--steps 2"),
    ],
)
def test_a_run_that_did_not_finish_is_told_with_both_ways_out(
    tmp_path: Path, reason: str | None, marks: tuple[str, ...], rows: list[Any], message: str, mend: str
) -> None:
    path = write_recorded(tmp_path / "run", ended(reason, None), rows, marks=marks)
    with pytest.raises(RunError, match=message) as caught:
        plan(path)
    assert caught.match(mend)


def test_what_an_unfinished_run_recorded_can_be_compared_its_last_step_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run", ended(None, None), ROWS[:3], marks=("lock",))
    assert (plan(path, steps=3).is_whole, plan(path, steps=3).open_end) == (False, True)
    assert not plan(path, steps=2).open_end


def test_a_running_run_is_told(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run", ended(None, None), ROWS[:2], marks=())
    begun = write_recorded(tmp_path / "begun", ended(None, None), [], marks=())
    script = (
        "import sys; from pathlib import Path; from mmtrain.run.lock import take_lock\n"
        "locks = [take_lock(Path(path)) for path in sys.argv[1:]]; print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path), str(begun)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(RunError, match="still running: it recorded 2 of 4 steps") as caught:
            plan(path)
        assert caught.match("wait for it; or compare what there is: --steps 2")
        assert plan(path, steps=2).steps == 2
        with pytest.raises(RunError, match="has just begun"):
            plan(begun)
        holder.stdin.close()


def test_what_is_no_run_has_no_manifest_or_another_schema_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the directory of a run"):
        plan(tmp_path)
    with pytest.raises(RunError, match="the run has no manifest") as caught:
        plan(write_recorded(tmp_path / "old", None))
    assert "mmtrain diff" in str(caught.value.mend)
    other = write_recorded(tmp_path / "other")
    (other / "manifest.json").write_text(json.dumps({"schema": 2, "mmtrain": "9"}))
    with pytest.raises(RunError, match="has schema 2"):
        plan(other)


def test_another_machine_and_a_folder_that_is_gone_are_noted(tmp_path: Path) -> None:
    found = plan(write_recorded(tmp_path / "run"))
    assert any(note.startswith("the run was made on node1, and this is ") for note in found.notes)
    assert any("it was started in /home/me, which is not here" in note for note in found.notes)
    assert found.cwd == Path.cwd()
    here = replace(MANIFEST, segments=[replace(SEGMENT, cwd=str(tmp_path), host=os.uname().nodename)])
    found = plan(write_recorded(tmp_path / "here", here))
    assert (found.cwd, found.notes) == (tmp_path, [])


def history(*changes: dict[str, Any]) -> Manifest:
    """A run in segments, each ended by the next one's beginning."""
    configs = [CONFIG | {"data": {"root": "d", "micro_batch_size": change.pop("micro", None)}} for change in changes]
    hashes = [json_sha256(config) for config in configs]
    segments = [
        replace(SEGMENT, config_sha256=sha256, **change) for sha256, change in zip(hashes, changes, strict=True)
    ]
    earlier = dict(zip(hashes[:-1], configs[:-1], strict=True))
    earlier.pop(hashes[-1], None)
    return replace(MANIFEST, segments=segments, config=configs[-1], config_sha256=hashes[-1], earlier_configs=earlier)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"world_size": 2}, "ranks: 1 -> 2"),
        ({"strategy": "FSDP"}, "strategy: SingleDeviceStrategy -> FSDP"),
        ({"precision": "bf16-mixed"}, "precision: 32-true -> bf16-mixed"),
        ({"threads": 4}, "threads: 2 -> 4"),
        ({"micro": 8}, "data.micro_batch_size: None -> 8"),
    ],
)
def test_a_run_that_went_on_otherwise_is_compared_up_to_there(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = write_recorded(tmp_path / "run", history({}, {"from_step": 3, **change}))
    with pytest.raises(RunError, match=f"went on at step 3 with {told}") as caught:
        plan(path)
    assert "--steps 3" in str(caught.value.mend)
    assert plan(path, steps=3).segment.world_size == 1
    tolerant = plan(path, exact=False)
    assert (tolerant.steps, tolerant.config["data"]["micro_batch_size"], tolerant.segment.threads) == (4, None, 2)


def test_a_segment_whose_steps_were_all_made_again_does_not_count(tmp_path: Path) -> None:
    manifest = history({"world_size": 4}, {"world_size": 2}, {"from_step": 2, "world_size": 2})
    assert plan(write_recorded(tmp_path / "run", manifest)).segment.world_size == 2
    nothing = history({"world_size": None, "from_step": None})
    with pytest.raises(RunError, match="does not say how its steps were made"):
        plan(write_recorded(tmp_path / "nothing", nothing))


def test_a_secret_comes_from_the_config_of_the_run_as_long_as_that_is_its_own(tmp_path: Path) -> None:
    secret = copy.deepcopy(CONFIG) | {"objective": {"api_key": "hunter2"}}
    shown = masked(secret)
    segment = replace(SEGMENT, config_sha256=json_sha256(shown))
    path = write_recorded(tmp_path / "run", replace(MANIFEST, config=shown, segments=[segment]))
    (path / "config.yaml").write_text(yaml.safe_dump(secret))
    assert plan(path).config["objective"]["api_key"] == "hunter2"
    (path / "config.yaml").write_text(yaml.safe_dump(secret | {"seed": 1}))
    with pytest.raises(RunError, match="a secret, objective.api_key, which the manifest does not hold"):
        plan(path)


def test_a_config_that_was_edited_or_lost_is_taken_from_the_manifest(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run")
    (path / "config.yaml").write_text("seed: 5\n")
    assert plan(path).config["seed"] == 0
    (path / "config.yaml").unlink()
    (path / "origin.json").unlink()
    assert plan(path).config["seed"] == 0
    assert plan(path).origin.overrides == ("experiment=toy",)


def test_only_what_does_not_change_the_run_may_be_set(tmp_path: Path) -> None:
    path = write_recorded(tmp_path / "run")
    found = plan(path, "data.root=/other", "trainer.threads=4", "trainer.devices=2")
    assert (found.config["data"]["root"], found.config["trainer"]["threads"]) == ("/other", 4)
    assert found.is_own("data.root")
    with pytest.raises(ConfigError, match="with another optim.lr it is another run"):
        plan(path, "optim.lr=1")
    with pytest.raises(ConfigError, match="no value 'data.rot'") as caught:
        plan(path, "data.rot=1")
    assert caught.value.mend == "did you mean 'data.root'?"


def test_nodes_and_gpus_that_are_not_here_are_told(tmp_path: Path) -> None:
    two = write_recorded(tmp_path / "two", on(Node("a", 2, "cpu"), Node("b", 2, "cpu"), world_size=4, num_nodes=2))
    with pytest.raises(RunError, match="made on 2 nodes") as caught:
        plan(two)
    assert caught.value.mend == "run all ranks here: trainer.num_nodes=1 trainer.devices=4"
    assert plan(two, "trainer.num_nodes=1", "trainer.devices=4").config["trainer"]["devices"] == 4
    if torch.cuda.device_count() < 8:
        gpu = write_recorded(tmp_path / "gpu", on(Node("a", 8, "NVIDIA H100"), world_size=8))
        with pytest.raises(RunError, match=r"made on 8 x NVIDIA H100, and there (is|are) .*here") as caught:
            plan(gpu)
        assert caught.match("--tolerance")
        found = plan(gpu, "trainer.accelerator=cpu", "trainer.devices=1", exact=False)
        assert found.config["trainer"]["accelerator"] == "cpu"


def test_as_overrides_it_is_the_command_line_of_then_with_what_the_machine_gave(tmp_path: Path) -> None:
    overrides = ["experiment=toy", "~logger.wandb", "run.dir=runs/x", "+logger.x=1", "optim.lr=1"]
    manifest = replace(MANIFEST, segments=[replace(SEGMENT, overrides=overrides)])
    lines = as_overrides(plan(write_recorded(tmp_path / "run", manifest), "data.root=/o"), Path("/new dir"))
    assert lines == [
        "experiment=toy", "optim.lr=1", 'trainer.accelerator="cpu"', "trainer.devices=1", "trainer.num_nodes=1",
        "trainer.threads=2", 'trainer.precision="32-true"', 'data.root="/o"', "callback.progress=null", "logger=none",
        'run.dir="/new dir"', "run.fresh=false",
    ]  # fmt: skip


def test_the_environment_is_that_of_here_with_what_steered_the_numbers_then() -> None:
    here = {"PATH": "/bin", "OMP_NUM_THREADS": "7", "CUBLAS_X": "1", "PYTHONPATH": "/mine", "NCCL_SOCKET_IFNAME": "a"}
    then = {"OMP_NUM_THREADS": "2", "SLURM_JOB_ID": "1", "NCCL_SOCKET_IFNAME": "b", "NCCL_ALGO": "Ring"}
    here, then = here | {"MKL_CBWR": "AVX2"}, then | {"ATEN_CPU_CAPABILITY": "avx2"}
    assert child_environment(here, then, Path("/code"), Path("/work")) == {
        "PATH": "/bin", "OMP_NUM_THREADS": "2", "NCCL_SOCKET_IFNAME": "a", "NCCL_ALGO": "Ring",
        "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": "/code:/mine:/work", "PYTHONSAFEPATH": "1",
    }  # fmt: skip
