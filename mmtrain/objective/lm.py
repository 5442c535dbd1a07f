"""Language models that predict the next token (Radford et al. 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmtrain import distributed
from mmtrain.errors import ConfigError
from mmtrain.model.gpt import GPT
from mmtrain.nn.accumulate import Sums, accumulate
from mmtrain.nn.cross_entropy import IGNORED, CrossEntropy
from mmtrain.objective.base import Batch, Objective, Optim, share_of


class LanguageModel(Objective):
    """Rows of documents -> decoder -> cross-entropy of the next tokens -> perplexity and bits per byte.

    The loss is the mean over the targets of the global batch, however many each rank and micro-batch has.

    Args:
        model: The decoder.
        optim: See `Objective`.
        micro_batch_size: See `Objective`.
        document_mask: Whether tokens see, and predict, their own document only. Otherwise a row is one text, whatever
            documents it was packed from, as in GPT-2 and nanoGPT.
        z_loss: See `CrossEntropy`; the loss without it is then logged as ``nll``. Evaluation is without.
    """

    model: GPT

    def __init__(
        self,
        *,
        model: GPT,
        optim: Optim,
        micro_batch_size: int | None = None,
        document_mask: bool = True,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(model=model, optim=optim, micro_batch_size=micro_batch_size)
        self.document_mask = document_mask
        self.z_loss = z_loss
        self.cross_entropy = CrossEntropy(z_loss)
        self.flops_per_sample = model.flops_per_sample(model.context_length)
        self._token_bytes: Tensor | None = None
        self._totals: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Compares the model with the data.

        Raises:
            ConfigError: The data has more tokens in a row, or in its vocabulary, than the model.
        """
        self.model.require_positions(self.data.sequence_length)
        if (needed := self.data.vocab_size) > self.model.vocab_size:
            raise ConfigError(
                f"the data's vocabulary has {needed} tokens, and the model's has {self.model.vocab_size}",
                where="data.tokenizer, model.vocab_size",
                mend=f"set model.vocab_size={needed}, or the next multiple of 64, which is faster on a GPU",
            )
        self.flops_per_sample = self.model.flops_per_sample(self.data.sequence_length)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of this rank, of which the mean over ranks is the loss of the global batch."""
        share = share_of((self.targets(batch) != IGNORED).sum())

        def loss_of(part: Batch) -> tuple[Tensor, Sums]:
            loss, nll = self._sums(part, self.targets(part))
            return loss / share, {"nll": nll / share} if self.z_loss else {}

        loss, sums = accumulate(loss_of, self.parts(batch), list(self.model.parameters()))
        return {"loss": loss, **sums}

    def on_validation_epoch_start(self) -> None:
        """Forgets the evaluation before."""
        self._token_bytes = torch.from_numpy(self.data.tokenizer.token_bytes()).to(self.device)
        self._totals = {name: torch.zeros(3, dtype=torch.float64, device=self.device) for name in self.eval_sets}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds this rank's part of a batch to the totals of its set."""
        assert self._token_bytes is not None, "on_validation_epoch_start() came before"
        totals = self._totals[list(self._totals)[dataloader_idx]]
        for part in self.parts(batch):
            target_BT = self.targets(part)
            scored = target_BT[target_BT != IGNORED]
            _, nll = self._sums(part, target_BT)
            totals += torch.stack([nll.double(), totals.new_tensor(len(scored)), self._token_bytes[scored].sum()])

    def on_validation_epoch_end(self) -> None:
        """Brings the ranks' totals together; all ranks log the same numbers."""
        for name in self.eval_sets:
            nll, count, num_bytes = distributed.all_reduce_sum(
                self._totals.pop(name), distributed.data_parallel_group()
            )
            loss = nll / count
            metrics = {"loss": loss, "perplexity": loss.exp(), "bits_per_byte": nll / math.log(2) / num_bytes}
            self.log_dict({f"eval/{name}/{key}": value.float() for key, value in metrics.items()}, logger=False)

    def targets(self, batch: Batch) -> Tensor:
        """The next token of each token of a batch, ``(B, T)``; `IGNORED` where none counts.

        Filler has none, nor has what follows the last document of a row; nor, with the document mask, the last token
        of a document.
        """
        document_BT = batch["document"][:, 1:]
        counts_BT = (document_BT >= 0) & (batch["weight"] > 0)[:, None]
        if self.document_mask:
            counts_BT &= document_BT == batch["document"][:, :-1]
        return torch.where(counts_BT, batch["tokens"][:, 1:], IGNORED)

    def _sums(self, batch: Batch, target_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over targets of the loss, and of the negative log likelihood without gradient."""
        document_BT, position_BT = (
            (batch["document"][:, :-1], batch["position"][:, :-1]) if self.document_mask else (None, None)
        )
        hidden_BTD = self.model(batch["tokens"][:, :-1], document_BT, position_BT)
        loss, nll = self.cross_entropy(hidden_BTD.flatten(0, 1), self.model.head_weight, target_BT.flatten())
        return loss, nll
