"""Pre-training of BERT: masked tokens and next sentences are predicted (Devlin et al. 2018, arXiv:1810.04805)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.model.bert_heads import BertPretraining
from mmtrain.nn.accumulate import Sums, accumulate
from mmtrain.objective.base import Batch, Objective, Optim, share_of

NO_LABEL = -100


class MaskedLanguageModel(Objective):
    """Corrupted texts -> BERT -> cross-entropy of the masked tokens, plus that of the next sentence -> perplexity.

    Each of the two losses is the mean over its own labels of the global batch. A model without a pooler has the first
    one alone, and so has a batch without pairs.

    Args:
        model: The encoder and its heads.
        optim: See `Objective`.
        micro_batch_size: See `Objective`.
    """

    model: BertPretraining

    def __init__(self, *, model: BertPretraining, optim: Optim, micro_batch_size: int | None = None) -> None:
        super().__init__(model=model, optim=optim, micro_batch_size=micro_batch_size)
        self.tasks = ("mlm",) if model.nsp is None else ("mlm", "nsp")
        self._row: Tensor | None = None
        self._totals: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Compares the model with the data.

        Raises:
            ConfigError: The data has more tokens in a row, or in its vocabulary, than the model; or one of them alone
                is made for pairs.
        """
        encoder = self.model.encoder
        encoder.require_positions(self.data.sequence_length)
        encoder.require_vocabulary(self.data.vocab_size)
        if self.data.next_sentence != (has_head := self.model.nsp is not None):
            pairs = "pairs" if self.data.next_sentence else "no pairs"
            raise ConfigError(
                f"the data has {pairs} of sentences, and BERT has {'a' if has_head else 'no'} pooler",
                where="data.next_sentence, model.encoder.pooler",
                mend="set both to true, to predict the next sentence, or both to false",
            )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The losses of this rank, of which the mean over ranks is the loss of the global batch."""
        counts = torch.stack([_has_label(label).sum() for label in self._labels(batch).values()])
        shares = dict(zip(self.tasks, share_of(counts), strict=True))
        self._row = torch.stack([batch["length"].sum(), counts[0]]) / len(batch["weight"])

        def loss_of(part: Batch) -> tuple[Tensor, Sums]:
            labels = self._labels(part)
            losses = {
                f"{task}_loss": _cross_entropy(logits, labels[task]) / shares[task]
                for task, logits in self._logits(part).items()
            }
            return torch.stack(list(losses.values())).sum(), losses

        loss, losses = accumulate(loss_of, self.parts(batch), list(self.model.parameters()))
        return {"loss": loss, **losses}

    def on_validation_epoch_start(self) -> None:
        """Forgets the evaluation before."""
        shape = (len(self.tasks), 3)
        self._totals = {name: torch.zeros(shape, dtype=torch.float64, device=self.device) for name in self.eval_sets}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds this rank's part of a batch to the totals of its set."""
        totals = self._totals[list(self._totals)[dataloader_idx]]
        for part in self.parts(batch):
            labels = self._labels(part)
            totals += torch.stack([_measure(logits, labels[task]) for task, logits in self._logits(part).items()])

    def on_validation_epoch_end(self) -> None:
        """Brings the ranks' totals together; all ranks log the same numbers."""
        for name in self.eval_sets:
            totals = distributed.all_reduce_sum(self._totals.pop(name), distributed.data_parallel_group())
            metrics: dict[str, Tensor] = {}
            for task, (loss, correct, count) in zip(self.tasks, totals, strict=True):
                if task == "mlm" or count > 0:  # a set without pairs has nothing to say of the next sentence
                    metrics |= {f"{task}_loss": loss / count, f"{task}_accuracy": correct / count}
            losses = [value for key, value in metrics.items() if key.endswith("_loss")]
            metrics |= {"loss": torch.stack(losses).sum(), "perplexity": metrics["mlm_loss"].exp()}
            self.log_dict({f"eval/{name}/{key}": value.float() for key, value in metrics.items()}, logger=False)

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs of a row of the mean length and mean number of labels of this rank's last batch."""
        if self._row is None:
            return self.model.flops_per_sample()
        num_tokens, num_predicted = self._row.tolist()
        return self.model.flops_per_sample(num_tokens, num_predicted)

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of each task, ``(labels, classes)``."""
        names = ("tokens", "length", "segment", "masked_position")
        mlm_BMV, nsp_BC = self.model(*(batch[name] for name in names))
        logits = {"mlm": mlm_BMV.flatten(0, 1), "nsp": nsp_BC}
        return {task: logits[task] for task in self.tasks}

    def _labels(self, batch: Batch) -> dict[str, Tensor]:
        """Labels of each task, one for each row of its logits; filler has none."""
        filler_B = batch["weight"] == 0
        mlm_BM = batch["masked_label"].masked_fill(filler_B[:, None], NO_LABEL)
        labels = {"mlm": mlm_BM.flatten(), "nsp": batch["next_sentence"].masked_fill(filler_B, NO_LABEL)}
        return {task: labels[task] for task in self.tasks}


def _has_label(label_N: Tensor) -> Tensor:
    return label_N != NO_LABEL


def _cross_entropy(logits_NC: Tensor, label_N: Tensor) -> Tensor:
    logits_NC = logits_NC.to(torch.promote_types(logits_NC.dtype, torch.float32))
    return F.cross_entropy(logits_NC, label_N, ignore_index=NO_LABEL, reduction="sum")


def _measure(logits_NC: Tensor, label_N: Tensor) -> Tensor:
    """Sums of the loss, of the right predictions and of the labels."""
    correct = logits_NC.argmax(dim=1) == label_N  # no class is NO_LABEL
    return torch.stack([_cross_entropy(logits_NC, label_N).double(), correct.sum(), _has_label(label_N).sum()])
