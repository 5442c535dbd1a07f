"""What a run leaves, as W&B artifacts: small files by content, checkpoints by reference and hash."""

from __future__ import annotations

from pathlib import Path

import wandb

from mmtrain.logger.base import Evidence, StoredCheckpoint


def log_evidence(run: wandb.Run, evidence: Evidence) -> None:
    """Records the artifacts ``evidence-ID`` and ``checkpoint-ID`` of the run of this id.

    Args:
        run: The run.
        evidence: What it left.

    Raises:
        OSError: A file cannot be written or read.
    """
    if evidence.texts:
        artifact = wandb.Artifact(f"evidence-{run.id}", "evidence", metadata={"run": run.name})
        # Beside the segment's other files, and by no other copy: W&B's own would stay in the user's home directory.
        folder = Path(run.dir).absolute().parent / "evidence"
        folder.mkdir(exist_ok=True)
        for name, text in evidence.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            artifact.add_file(str(folder / name), name=name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact)
    for number, checkpoint in enumerate(evidence.checkpoints, start=1):
        aliases = [f"step-{checkpoint.step}", *(["best"] if checkpoint.is_best else [])]
        if number == len(evidence.checkpoints):
            aliases.append("latest")  # which W&B would also give by itself
        run.log_artifact(_referred(run, checkpoint), aliases=aliases)


def _referred(run: wandb.Run, checkpoint: StoredCheckpoint) -> wandb.Artifact:
    """A checkpoint that W&B knows the place and the hashes of. It reads none of it: what it would compute is md5."""
    artifact = wandb.Artifact(
        f"checkpoint-{run.id}",
        "model",
        metadata={
            "run": run.name,
            "step": checkpoint.step,
            "bytes": checkpoint.bytes,
            "xxh3": checkpoint.xxh3,
            "weights_sha256": checkpoint.weights_sha256,
            "metrics": dict(checkpoint.metrics),
        },
    )
    path = checkpoint.path.absolute()
    for entry in artifact.add_reference(path.as_uri(), name=path.name, checksum=False):
        entry.extra["xxh3"] = checkpoint.parts.get(Path(entry.path).name, checkpoint.xxh3)
    return artifact
