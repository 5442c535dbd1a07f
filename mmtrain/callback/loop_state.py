"""The state of Lightning's training loops in one canonical form, whatever hook a checkpoint was written in.

Lightning 2.6 guesses from its counters at which hook a checkpoint was written. After one of ``on_train_batch_end`` it
skips a validation that was due at that step, and after one of an epoch's end its counters, and with them the next
checkpoints, differ from those of an uninterrupted run. Here the counters are rewritten to what is true after step S:
S batches are complete, and the validation of step S has run, or is still to run from its first batch.
"""

from __future__ import annotations

from typing import Any

LoopState = dict[str, Any]

_BATCHES = "epoch_loop.batch_progress"
_VALIDATION = "epoch_loop.val_loop.batch_progress"
_PER_EPOCH = (
    _BATCHES,
    "epoch_loop.scheduler_progress",
    "epoch_loop.automatic_optimization.optim_progress",
    "epoch_loop.manual_optimization.optim_step_progress",
)


def canonical_fit_loop(state: LoopState, *, steps_per_epoch: float, validation_due: bool, validated: bool) -> LoopState:
    """Rewrites the state of Lightning's ``fit_loop`` after a step to its canonical form.

    Args:
        state: ``checkpoint["loops"]["fit_loop"]``, saved after the step's optimizer update. Not changed.
        steps_per_epoch: Batches in an epoch; ``inf`` for a loader without an end.
        validation_due: Whether a validation is due at this step.
        validated: Whether that validation has run.

    Returns:
        The state from which Lightning goes on with the next batch, after a validation that is still pending.
    """
    state = _copied(state)
    # The data module carries the position in the data, the same on all ranks; Lightning's copy is rank 0's.
    state["state_dict"].pop("combined_loader", None)
    done = state[_BATCHES]["current"]["ready"]
    total = state[_BATCHES]["total"]["ready"]
    epochs = state["epoch_progress"]["current"]["ready"]
    # Before its first batch an epoch has not begun: the end of one and the start of the next are one position.
    if done == 0:
        epochs -= 1
    between_epochs = done == 0 or done >= steps_per_epoch or state[_BATCHES]["is_last_batch"]

    finished = epochs if between_epochs else epochs - 1
    progress = {"ready": epochs, "completed": finished, "started": epochs, "processed": finished}
    state["epoch_progress"] = {"total": dict(progress), "current": dict(progress)}
    state[_BATCHES] |= {"total": _all(total), "current": _all(done), "is_last_batch": False}
    if between_epochs:
        for name in _PER_EPOCH:
            _clear_current(state[name])

    # "Started and not processed" is how Lightning knows that it must go back into the evaluation.
    pending = int(validation_due and not validated)
    unfinished = {"ready": pending, "completed": 0, "started": pending, "processed": 0}
    state[_VALIDATION] = {"total": dict(unfinished), "current": dict(unfinished), "is_last_batch": False}
    # Where a validation is due, the restarted loop passes its end-of-batch once more and counts this up itself.
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = total - int(validation_due)
    return state


def _all(count: int) -> dict[str, int]:
    return {"ready": count, "completed": count, "started": count, "processed": count}


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _clear_current(progress: dict[str, Any]) -> None:
    for key, value in progress.items():
        if key == "current":
            progress[key] = dict.fromkeys(value, 0)
        elif isinstance(value, dict):
            _clear_current(value)
