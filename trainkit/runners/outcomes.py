"""What a function returned or raised, in the process that ran it.

It lives as long as somebody holds a handle of its job: all handles of one job in a process share one
:class:`Remembered`.  What the run tracked (models, optimizers) is released when the job ends, since it may fill a
GPU; of a tracked model only the class and the structure stay, which take the weights of the model file again.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

from trainkit.errors import StoreError, TaskError
from trainkit.files.record import Record
from trainkit.files.store import Store
from trainkit.files.trust import job_key
from trainkit.files.whole import write_atomically
from trainkit.runners.task import BoundedBuffer, ValuePickler, dump_outcome

if TYPE_CHECKING:
    from trainkit.training.run import Run

#: Of a thread job, what takes more than this is not pickled: it is in the memory of its process, and only there.
LARGEST_RESULT_BYTES = 64_000_000
#: How much of a tracked model may stay when its job has ended: its structure, without weights.
_LARGEST_STRUCTURE_BYTES = 16_000_000


class Outcome:
    """What one attempt returned or raised.

    Attributes:
        attempt: of the job.
        value: what the function returned.
        returned: whether it returned.
        error: what it raised.
        run: the run, until it ends in a process that goes on.
        step: the step at which it ended.
        structure: the tracked model without its weights, pickled, if it can be.
        settled: set when the other attributes do not change any more.
    """

    def __init__(self, attempt: int = 1) -> None:
        self.attempt = attempt
        self.value: Any = None
        self.returned = False
        self.error: BaseException | None = None
        self.run: Run | None = None
        self.step = 0
        self.structure: bytes | None = None
        self.settled = threading.Event()

    def release_run(self) -> None:
        """Let go of the run and of all that it tracks."""
        if (run := self.run) is None:
            return
        self.step = run.step
        if (model := run.tracked.get("model")) is not None and model is not self.value:
            self.structure = structure_of(model)
        run.release()
        self.run = None

    def release_frames(self) -> None:
        """Let go of the local variables of the code that raised: they hold models and data.  Its lines stay."""
        error, seen = self.error, set[int]()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            traceback.clear_frames(error.__traceback__)
            caller = error.__traceback__.tb_frame.f_back if error.__traceback__ is not None else None
            while caller is not None:  # a frame keeps its callers
                with contextlib.suppress(RuntimeError):  # it runs
                    caller.clear()
                caller = caller.f_back
            error = error.__cause__ or error.__context__

    def model_with(self, weights: Any) -> Any:
        """Return a new module of the class of the tracked model, with these weights; None if there is none."""
        if self.structure is None:
            return None
        try:
            model = _Refilled(io.BytesIO(self.structure)).load()
            model.load_state_dict(weights)
        except Exception:  # noqa: BLE001 - the module runs its own code here; the weights are what is left
            return None
        return model

    def write(self, store: Store, record: Record) -> None:
        """Keep what can be pickled, for other processes and for handles that are made later."""
        if not self.returned and self.error is None:
            return
        try:
            data = dump_outcome(
                self.value,
                self.error,
                returned=self.returned,
                limit_bytes=LARGEST_RESULT_BYTES,
                key=job_key(record.job_id),
            )
            write_atomically(store.paths(record.job_id).result, data, durable=False, private=True)
        except (TaskError, StoreError):
            return  # live objects are what a thread is for; `result` reports where it cannot be had


class Remembered:
    """What this process remembers of one job; shared by all handles of the job.

    Attributes:
        outcome: of its newest attempt here.
    """

    def __init__(self) -> None:
        self.outcome: Outcome | None = None


_remembered: weakref.WeakValueDictionary[tuple[str, str], Remembered] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def remembered(store: Store, job_id: str) -> Remembered:
    """Return what this process remembers of a job; it is forgotten when nobody holds it any more."""
    key = (store.real_root, job_id)
    with _guard:
        if (found := _remembered.get(key)) is None:
            found = _remembered[key] = Remembered()
        return found


def outcome_of(store: Store, record: Record) -> Outcome | None:
    """Return what an attempt came to, if it ran in this process and somebody holds a handle of its job."""
    outcome = remembered(store, record.job_id).outcome
    return outcome if outcome is not None and outcome.attempt == record.attempt else None


def forget(store: Store, job_id: str) -> None:
    """Forget the result of a job that is deleted, even if handles of it remain."""
    remembered(store, job_id).outcome = None


def structure_of(model: Any) -> bytes | None:
    """Return a pickle of a module without the tensors of its state dict; None if there is none that is small."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return None
    file = BoundedBuffer(_LARGEST_STRUCTURE_BYTES)
    try:
        _WithoutWeights(file, model).dump(model)
    except Exception:  # noqa: BLE001 - pickling runs the code of any class
        return None
    return file.getvalue()


class _WithoutWeights(ValuePickler):
    def __init__(self, file: io.BytesIO, model: Any) -> None:
        super().__init__(file)
        import torch

        self._kept = model.state_dict(keep_vars=True)  # so that no id is used again
        self._weights = {
            id(value): (
                number,
                type(value) is torch.nn.Parameter,
                value.requires_grad,
                value.shape,
                value.dtype,
                value.device,
            )
            for number, value in enumerate(self._kept.values())
            if type(value) in (torch.Tensor, torch.nn.Parameter)
        }

    def persistent_id(self, thing: Any) -> Any:
        return self._weights.get(id(thing))


class _Refilled(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._made: dict[int, Any] = {}

    def persistent_load(self, weight: Any) -> Any:
        import torch

        number, is_parameter, requires_grad, shape, dtype, device = weight
        if number not in self._made:
            tensor = torch.empty(shape, dtype=dtype, device=device)
            self._made[number] = torch.nn.Parameter(tensor, requires_grad) if is_parameter else tensor
        return self._made[number]


def _start_anew_in_forked_child() -> None:
    global _guard
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_forked_child)
