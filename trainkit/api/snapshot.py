"""A job's model, at any time: a copy from between two steps, or the newest that was saved."""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, cast

from trainkit.errors import CheckpointError, ModelFileError, TrainkitError
from trainkit.files.modelfile import exported, load_model_content, model_file
from trainkit.files.opening import check_no_link
from trainkit.files.paths import JobPaths
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.resuming.checkpoints import load_resume
from trainkit.runners.outcomes import Outcome, outcome_of

#: How long a copy from between two steps is waited for; a step that takes longer answers with what is saved.
COPY_S = 30.0


@dataclass(frozen=True)
class Snapshot:
    """A model, and of which step it is.

    Attributes:
        model: a :class:`~trainkit.tabular.model.TableModel` for a table; the ``torch.nn.Module`` itself, or a
            copy of it, in the process that runs, or ran, the job; elsewhere a state dict.
        step: the step after which it was taken.
        source: ``"live"``, ``"result"``, ``"file"``, or ``"checkpoint"`` where no model file could be written.
    """

    model: Any
    step: int
    source: str

    def predict(self, x: Any) -> Any:
        """Return what the model says of new rows or of a batch.

        Args:
            x: rows of a table, as :meth:`trainkit.tabular.model.TableModel.predict` takes them; for a module, what
                its ``forward`` takes.

        Raises:
            TrainkitError: there is only a state dict, which cannot answer.
        """
        if hasattr(self.model, "predict"):
            return self.model.predict(x)
        if isinstance(self.model, dict):
            raise TrainkitError(
                "this process has the weights of that model, but not its class: call job.result() where the "
                "function returned its model; else make the model, give it job.model() by load_state_dict, and "
                "call it"
            )
        import torch

        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                return self.model(x)
        finally:
            self.model.train(training)


def take(store: Store, record: Record) -> Snapshot:
    """Return the newest model of a job that can be had here.

    Raises:
        TrainkitError: the job has left no model (yet).
        ModelFileError: its model file is damaged.
    """
    outcome = outcome_of(store, record)
    running = record.status in (Status.RUNNING, Status.PAUSED, Status.STOPPING)
    run = outcome.run if outcome is not None else None
    if outcome is not None and run is not None and running and "model" in run.tracked:
        try:
            model, step = run.control.ask_for_a_copy().result(COPY_S)
            return Snapshot(model, step, "live")
        except CancelledError:
            outcome.settled.wait()  # it ended just now; what it returned answers
        except FutureTimeoutError:
            pass  # a long step: what is saved answers
        except Exception as error:
            raise TrainkitError(
                f"the model of job {record.name!r} cannot be copied while it trains ({error}); "
                "job.checkpoint() saves it, and then its file answers"
            ) from error
    if outcome is not None and outcome.returned and _is_model(outcome.value):
        outcome.settled.wait()
        return Snapshot(outcome.value, outcome.step, "result")
    paths = store.paths(record.job_id)
    path = model_file(paths)
    if path is None and (weights := _weights_of_checkpoint(paths, record)) is not None:
        return Snapshot(_with_its_class(outcome, weights), record.step, "checkpoint")
    if path is None:
        raise TrainkitError(
            f"job {record.name!r} ({record.status}) has left no model; one is saved with each checkpoint when "
            "run.track(model=...) names it, and when its function returns one"
        )
    check_no_link(path)
    content = load_model_content(path)
    saved_at_step = record.checkpoint.step if record.checkpoint else None
    step = record.step if record.status is Status.COMPLETED or saved_at_step is None else saved_at_step
    if content.get("kind") == "table":
        from trainkit.tabular.model import load_model

        return Snapshot(load_model(path), step, "file")
    if "state_dict" not in content:
        raise ModelFileError(f"{path} holds neither a table model nor a state dict")
    return Snapshot(_with_its_class(outcome, content["state_dict"]), step, "file")


def _weights_of_checkpoint(paths: JobPaths, record: Record) -> dict[str, Any] | None:
    """Return the state dict in the checkpoint of a job's last step, where the model file could not be written."""
    if record.checkpoint is None or record.checkpoint.step != record.step:
        return None
    try:
        weights = load_resume(paths)[0]["tracked"].get("model")
    except CheckpointError:
        return None
    content = exported(weights)
    return None if content is None else cast("dict[str, Any]", content["state_dict"])


def _with_its_class(outcome: Outcome | None, weights: Any) -> Any:
    """Return weights as the module they are of, where this process has run the job to its end."""
    model = outcome.model_with(weights) if outcome is not None else None
    return weights if model is None else model


def _is_model(value: Any) -> bool:
    return hasattr(value, "state_dict") and (hasattr(value, "forward") or hasattr(value, "predict"))
