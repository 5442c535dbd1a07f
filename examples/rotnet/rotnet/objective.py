"""Predicting the rotation of pictures (Gidaris et al. 2018, arXiv:1803.07728): labels that cost nothing.

Shape suffixes: B pictures, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtrain import distributed
from mmtrain.nn.accumulate import Sums, accumulate
from mmtrain.objective.base import Batch, Objective, share_of

TURNS = 4  # by 0, 90, 180 and 270 degrees


class RotationPrediction(Objective):
    """Batch -> every picture in its four rotations -> logits -> cross-entropy -> accuracy.

    The constructor is `Objective`'s: the program passes ``model``, ``optim`` and ``micro_batch_size``. The model maps
    uint8 pictures ``(B, 3, H, H)`` to logits ``(B, 4)``.
    """

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of this rank, of which the mean over ranks is the mean over the pictures of the global batch.

        Equations 2 and 3 of the paper.
        """
        count = share_of(batch["weight"].sum())

        def loss_of(part: Batch) -> tuple[Tensor, Sums]:
            loss_B, _ = self.measured(part)
            return (loss_B * part["weight"]).sum() / count, {}

        loss, _ = accumulate(loss_of, self.parts(batch), list(self.model.parameters()))
        return {"loss": loss}

    def measured(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss over the rotations of each picture, ``(B,)``, and the share of them that was told right."""
        losses, hits = [], []
        for turn in range(TURNS):
            logits_B4 = self.model(torch.rot90(batch["image"], turn, dims=(2, 3))).float()
            label_B = torch.full((len(logits_B4),), turn, device=logits_B4.device)
            losses.append(F.cross_entropy(logits_B4, label_B, reduction="none"))
            hits.append((logits_B4.argmax(1) == label_B).float())
        return torch.stack(losses).mean(0), torch.stack(hits).mean(0)

    def on_validation_epoch_start(self) -> None:
        """Forgets the evaluation before."""
        self._sums = {name: torch.zeros(3, device=self.device) for name in self.eval_sets}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch to the sums of its set; filler has weight 0."""
        loss_B, hits_B = self.measured(batch)
        weight_B = batch["weight"]
        self._sums[list(self._sums)[dataloader_idx]] += (
            torch.stack([loss_B, hits_B, torch.ones_like(loss_B)]) @ weight_B
        )

    def on_validation_epoch_end(self) -> None:
        """Logs the means over each whole set, which are the same on all ranks."""
        for name, sums in self._sums.items():
            loss, accuracy, pictures = distributed.all_reduce_sum(sums)
            metrics = {f"eval/{name}/loss": loss / pictures, f"eval/{name}/accuracy": accuracy / pictures}
            self.log_dict(metrics, logger=False)
