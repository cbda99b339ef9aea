"""What training code sees of its job: :class:`Run`.

``run.epochs`` and ``run.batches`` wrap the two loops that people write anyway; between two batches is the
one place where a job stops, pauses, takes live changes and is saved, so that all of these see it after a
whole step and never within one.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from trainkit.checkpoints import (
    compute_state,
    plain_random_state,
    random_state,
    restore_compute,
    restore_random_state,
    save_resume,
)
from trainkit.errors import OptionError
from trainkit.record import EndedBy, Phase, Status, to_jsonable
from trainkit.recorder import Recorder

Batch = TypeVar("Batch")


#: How often a checkpoint is taken by itself, in seconds, and what share of the time it may take at most.
CHECKPOINT_EVERY_S = 10.0
CHECKPOINT_SHARE = 0.03

#: What a request to end means: how the loops end, what the record says of the reason, and what it says until then.
_ENDINGS = {
    "stop": ("stop", EndedBy.USER, "stopping after this step, as asked"),
    "kill": ("stop", EndedBy.USER, "being killed, as asked"),
    "finish": ("finish", EndedBy.USER, "finishing early after this step, as asked"),
    # Made by the thread runner when the interpreter ends: nobody asked, so it is an interruption.
    "shutdown": ("stop", EndedBy.LOST, "saving, since the interpreter that runs it is ending"),
}


class StopRun(BaseException):
    """Ends a run from within, on request.

    Not an ``Exception``, so that an ``except Exception`` in training code does not swallow it by accident.
    """


class Params(Mapping[str, Any]):
    """The parameters of a job as they are now; ``job.set`` changes them between two steps.

    >>> Params({"lr": 0.1}).lr
    0.1
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}; parameters: {', '.join(self) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Params({self._values!r})"


class Run:
    """One attempt of a job, from within.

    Training code gets it as its first argument; it is never made by hand.

    Attributes:
        job_id: the job.
        name: its name.
        params: the parameters, live.
        step: how many steps have begun, over all epochs and attempts.
        epoch: the current epoch, from 1.
        total_steps: how many steps there will be, if known; set it where ``run.batches`` cannot tell.
    """

    def __init__(
        self, recorder: Recorder, params: Mapping[str, Any], *, resumed: Mapping[str, Any] | None = None
    ) -> None:
        self._recorder = recorder
        self._paths = recorder.store.paths(recorder.record.job_id)
        self.job_id = recorder.record.job_id
        self.name = recorder.record.name
        self.params = Params(params)
        self.step = 0
        self.epoch = 0
        self.total_steps: int | None = None
        self._epochs: int | None = None
        self._offset = 0  # batches begun in this epoch
        self._skip = 0  # batches of this epoch that an earlier attempt has done
        self._loops = 0  # calls of `epochs` so far
        self._own_process = recorder.record.runner != "thread"
        self._steps_by_log = True  # until `batches` is used
        self._device: str | None = None
        self._tracked: dict[str, Any] = {}
        self._pending = recorder.pending

        # Set by the recorder's thread, read by the training thread. `_attention` is the one flag on the hot path.
        self._attention = False
        self._ending: str | None = None
        self._noticed = False
        self._changes: list[dict[str, Any]] = []
        self._checkpoint_wanted = False
        self._go_on = threading.Event()
        self._go_on.set()
        self.ended_by = EndedBy.EPOCHS

        self._save_at_step: float = math.inf
        self._save_every_steps: int | None = None
        self._save_every_s = CHECKPOINT_EVERY_S
        self._save_at: float | None = None
        self._epoch_random: dict[str, Any] | None = None  # as it was when the current epoch began
        self._loader_random: Any = None  # that of the loader's own generator, when its batches began
        self._resumed = dict(resumed or {})
        if resumed:
            self._go_on_from(resumed)

    def _go_on_from(self, saved: Mapping[str, Any]) -> None:
        """Take the place of an earlier attempt from its checkpoint."""
        self.step, self.epoch = saved["step"], saved["epoch"]
        self._skip = self._offset = saved["offset"]
        self.params._values.update(saved["params"])
        if not self._own_process:
            self.warn(
                "resumed in a thread: its random numbers are the notebook's own, so it may not repeat exactly; "
                "runner='process' does"
            )
        elif "torch" in sys.modules or saved["compute"]:
            for difference in restore_compute(saved["compute"]):
                self.warn(f"resumed, but not on the same footing, so it may not repeat exactly: {difference}")

    # --- the loops -------------------------------------------------------------------------------

    def epochs(self, count: int) -> Iterator[int]:
        """Yield 0 … count-1 like ``range``, beginning where an earlier attempt of the job was cut.

        Args:
            count: how many epochs the whole job has.

        Example::

            for epoch in run.epochs(20):
                for x, y in run.batches(loader):
                    ...
        """
        self._epochs = count
        self._recorder.note(epochs=count, phase=Phase.TRAINING)
        self._loops += 1
        loop_to_go_on_in = self._resumed.get("loop", 0)
        if self._loops < loop_to_go_on_in:
            return  # an earlier attempt has done this loop; what it did is in what is tracked
        first = max(self.epoch - 1, 0) if self._loops == loop_to_go_on_in else 0
        for epoch in range(first, count):
            self._begin_epoch(epoch + 1)
            if self._attention and self._attend():
                return
            yield epoch
            if self._ending == "finish":
                return
        # Nothing of this loop is left to be done again: a checkpoint says that the epoch after the last begins.
        # A stop that comes as late as this lets the job complete.
        self._begin_epoch(count + 1)
        if self._checkpoint_wanted:
            self.save_now()

    def _begin_epoch(self, epoch: int) -> None:
        """Set the place to before the first batch, or to where the epoch was cut."""
        self._offset = self._skip
        self.epoch = epoch
        if self._skip and "epoch_random" in self._resumed:
            # What the code does between the top of the epoch and its batches is done again, with the random
            # numbers of then; `batches` brings those of the cut.
            self._restore_random("epoch_random")
        else:
            self._restore_random("random")
        self._epoch_random = random_state() if self._own_process else {}

    def _restore_random(self, name: str) -> None:
        state = self._resumed.pop(name, None)
        if state and self._own_process:
            restore_random_state(state)

    def batches(self, loader: Iterable[Batch], *, phase: str = "training") -> Iterator[Batch]:
        """Yield the batches of a loader; each one is a step.

        Args:
            loader: any iterable of batches.  ``loader.set_epoch(epoch)``, where there is one, is called with
                the 0-based epoch, and so is its ``sampler``'s.
            phase: ``"training"``, or ``"validating"`` for batches that are looked at but are no steps.

        Raises:
            StopRun: the job was asked to stop; let it pass.
        """
        if Phase(phase) is not Phase.TRAINING:
            with self.phase(phase):
                for batch in loader:
                    if self._attention and self._attend():
                        return
                    yield batch
            return
        for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(max(self.epoch - 1, 0))
        try:
            length = len(loader)  # type: ignore[arg-type]
        except TypeError:
            length = None
        if length and self._epochs:
            self.total_steps = length * self._epochs
        self._steps_by_log = False
        batches = self._from_where_it_was_cut(loader)
        while True:
            # Before the next batch is fetched: fetching may draw random numbers.
            if (self._attention or self.step >= self._save_at_step) and self._attend():
                return
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.step += 1
            self._offset += 1
            yield batch

    def _from_where_it_was_cut(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Begin a loader's batches, and pass over those that an earlier attempt has done."""
        if self._epoch_random is None:
            self._epoch_random = random_state() if self._own_process else {}
        generator = getattr(loader, "generator", None)
        if self._skip and generator is not None and self._resumed.get("loader_random") is not None:
            generator.set_state(self._resumed["loader_random"])
        self._loader_random = generator.get_state() if generator is not None else None
        batches = iter(loader)
        skip, self._skip = self._skip, 0
        if skip:
            next(itertools.islice(batches, skip - 1, None), None)
            self._restore_random("random")
        return batches

    # --- reporting -------------------------------------------------------------------------------

    def log(self, *, step: int | None = None, **values: Any) -> None:
        """Note metrics of the current step.  Never waits, neither for the disk nor for a GPU.

        Args:
            step: the step they belong to; without it the current one.  Where ``run.batches`` is not used,
                every call is a step of its own, and a place where the job can stop.
            **values: floats, or tensors of one element.

        Raises:
            StopRun: the job was asked to stop and has no ``run.batches`` to do it between two steps.
        """
        if self._steps_by_log:
            self._step_of_a_bare_loop()
        for name, value in values.items():
            if type(value) is not float:
                values[name] = _taken(value)
        self._pending.append((self.step if step is None else step, self.epoch, time.time(), values))

    def _step_of_a_bare_loop(self) -> None:
        if self._attention:
            noticed = self._noticed
            if self._attend() and self._epochs is None and not noticed:
                raise StopRun
        self.step += 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say what the job is doing meanwhile.

        Args:
            name: one of loading, training, validating, checkpointing, finalizing.
        """
        try:
            phase = Phase(name)
        except ValueError:
            raise OptionError(f"{name!r} is not a phase; phases: {', '.join(Phase)}") from None
        before = self._recorder.record.phase
        self._recorder.note(phase=phase)
        try:
            yield
        finally:
            self._recorder.note(phase=before)

    def message(self, text: str) -> None:
        """Set the line that people read first."""
        self._recorder.note(message=str(text))

    def warn(self, text: str) -> None:
        """Record a warning; the same one only once."""
        self._recorder.warn(str(text))

    def update_params(self, /, **params: Any) -> None:
        """Show parameters that were chosen by the code in the record, and in ``run.params``."""
        self.params._values.update(params)
        self._recorder.note(params=to_jsonable(self.params._values))

    def best(self, metric: str, mode: str = "min") -> None:
        """Say which metric tells the best step; without it ``val_loss``, if it is logged.

        Args:
            metric: a name that is logged.
            mode: ``"min"`` or ``"max"``.
        """
        if mode not in ("min", "max"):
            raise OptionError(f"mode={mode!r}: expected 'min' or 'max'")
        self._recorder.watched = (metric, mode)

    @property
    def device(self) -> str:
        """Where to train: the parameter ``device`` if given, else the first there is of cuda, mps, cpu."""
        if self._device is None:
            self._device = str(self.params.get("device") or _best_device())
            self._recorder.note(device=self._device)
        return self._device

    # --- state -----------------------------------------------------------------------------------

    def track(self, **objects: Any) -> None:
        """Name what a checkpoint holds; on resume it is restored here.

        Args:
            **objects: things with ``state_dict`` and ``load_state_dict`` (models, optimizers, schedulers,
                scalers), or ``torch.Generator``.  The one named ``model`` becomes the model file.

        Raises:
            OptionError: an object has no state that could be kept.
        """
        for name, thing in objects.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")) and not hasattr(
                thing, "get_state"
            ):
                raise OptionError(
                    f"run.track({name}=...) got {type(thing).__name__}, which has neither state_dict and "
                    "load_state_dict nor get_state and set_state"
                )
            self._tracked[name] = thing
            saved = self._resumed.get("tracked", {}).get(name)
            if saved is not None:
                (thing.load_state_dict if hasattr(thing, "load_state_dict") else thing.set_state)(saved)

    def checkpoint(self) -> None:
        """Save what is tracked, the random state and the place in the loops, at the end of the current step.

        Within a step, or between the batches of an epoch and its end, there is no place to which the code
        could come back without doing something twice; so inside the loops the checkpoint is taken when the
        next batch or epoch begins.
        """
        if self._epoch_random is None:
            self.save_now()
        else:
            self._checkpoint_wanted = self._attention = True

    def checkpoint_every(self, *, steps: int | None = None, seconds: float | None = None) -> None:
        """Choose how often a checkpoint is taken by itself; without this every ten seconds.

        Whatever is chosen by time, checkpoints take no more than 3 % of the time.

        Args:
            steps: after that many steps, besides.
            seconds: after that many seconds.

        Raises:
            OptionError: a number that is not positive.
        """
        for name, value in (("steps", steps), ("seconds", seconds)):
            if value is not None and value <= 0:
                raise OptionError(f"checkpoint_every({name}={value!r}): expected a number above 0")
        if steps is not None:
            self._save_every_steps = int(steps)
            self._save_at_step = self.step + self._save_every_steps
        if seconds is not None:
            self._save_every_s, self._save_at = seconds, None

    def save_now(self) -> None:
        """Save as :meth:`checkpoint` does, without waiting for the end of the step."""
        self._checkpoint_wanted = False
        clock = self._recorder.clock
        begun_at = clock()
        with self.phase("checkpointing"):
            content = {
                "step": self.step,
                "epoch": self.epoch,
                "offset": self._offset,
                "loop": self._loops,
                "tracked": {name: _state_of(thing) for name, thing in self._tracked.items()},
                "random": plain_random_state(random_state()) if self._own_process else {},
                "epoch_random": plain_random_state(self._epoch_random) if self._epoch_random else {},
                "loader_random": self._loader_random,
                "compute": compute_state(),
                "params": to_jsonable(self.params._values),
            }
            info = save_resume(self._paths, content, step=self.step, epoch=self.epoch, now=begun_at)
            self._recorder.note(checkpoint=info, resumable=True)
            self._recorder.event("checkpoint", path=info.path, size_bytes=info.size_bytes)
        ended_at = clock()
        self._save_at = ended_at + max(self._save_every_s, (ended_at - begun_at) / CHECKPOINT_SHARE)
        if self._save_every_steps is not None:
            self._save_at_step = self.step + self._save_every_steps

    @property
    def tracked(self) -> Mapping[str, Any]:
        """What was given to :meth:`track`, by name."""
        return self._tracked

    # --- endings ---------------------------------------------------------------------------------

    @property
    def should_stop(self) -> bool:
        """Whether the job was asked to end.  Who asks is expected to return soon, and is not stopped otherwise."""
        self._noticed = self._noticed or self._ending is not None
        return self._ending is not None

    def end_early(self, reason: str, message: str = "") -> None:
        """Let the loops end after this step, as if they had come to their end.

        Args:
            reason: ``"early_stopping"`` or ``"time_limit"``.
            message: what to tell.
        """
        self.ended_by = EndedBy(reason)
        if message:
            self.message(message)
        self._ending = self._ending or "finish"
        self._attention = True

    @property
    def stopped(self) -> bool:
        """Whether a request to stop cut the run short, rather than coming too late."""
        return self._ending == "stop" and self._noticed

    @property
    def finishing(self) -> bool:
        """Whether a request to finish early cut the run short."""
        return self._ending == "finish" and self._noticed

    # --- the other threads' side -----------------------------------------------------------------

    def receive(self, request: Mapping[str, Any]) -> None:
        """Take a request, in the recorder's thread; the training thread acts on it after its current step."""
        action = request.get("action")
        status = self._recorder.record.status
        if action in _ENDINGS:
            ending, ended_by, message = _ENDINGS[action]
            if self._ending is None or (ending == "stop" and self._ending == "finish"):
                self._ending, self.ended_by = ending, ended_by
            if status is not Status.STOPPING:
                self._recorder.change(Status.STOPPING, message=message)
            self._go_on.set()
        elif action == "pause" and status is Status.RUNNING:
            self._go_on.clear()
        elif action == "resume":
            self._go_on.set()
        elif action == "set" and isinstance(request.get("params"), dict):
            self._changes.append(request["params"])
        elif action == "checkpoint":
            self._checkpoint_wanted = True
        else:
            return
        self._recorder.event("request", action=action, params=request.get("params"))
        self._attention = True

    def report(self) -> None:
        """Bring the place in the loops into the record; called before it is written."""
        self._ask_for_a_checkpoint_if_due()
        done = None
        if self.total_steps:
            done = self.step / self.total_steps
        elif self._epochs:
            done = max(self.epoch - 1, 0) / self._epochs
        epoch = min(self.epoch, self._epochs or self.epoch)
        self._recorder.note(step=self.step, epoch=epoch, total_steps=self.total_steps)
        if done is not None:
            self._recorder.note(progress=round(min(100.0, 100.0 * done), 2))

    def _ask_for_a_checkpoint_if_due(self) -> None:
        now = self._recorder.clock()
        if self._save_at is None or self._save_at > now + max(
            self._save_every_s, 3600.0
        ):  # the clock was set back
            self._save_at = now + self._save_every_s
        if now >= self._save_at and self._tracked and self._epoch_random is not None:
            self._checkpoint_wanted = self._attention = True

    def _attend(self) -> bool:
        """Do what was asked, between two steps, in the training thread.

        Returns:
            Whether the loops should end as if they had come to their end.

        Raises:
            StopRun: the job should stop here.
        """
        self._attention = False
        while self._changes:
            self._apply(self._changes.pop(0))
        if self._checkpoint_wanted or self.step >= self._save_at_step:
            self.save_now()
        if not self._go_on.is_set():
            self._pause()
        if self._ending is not None:
            self._attention = True
            if self._ending == "stop" and not self._noticed:
                self._noticed = True
                if self._tracked:
                    self.save_now()  # here, between two steps, and not after the code has cleaned up behind itself
                raise StopRun
            self._noticed = True
        return self._ending is not None

    def _pause(self) -> None:
        # If the job is STOPPING by now, there is nothing to wait for.
        if self._recorder.change_from(Status.RUNNING, Status.PAUSED, message="paused"):
            self._go_on.wait()
            self._recorder.change_from(Status.PAUSED, Status.RUNNING, message="")

    def _apply(self, changes: Mapping[str, Any]) -> None:
        before = {name: self.params.get(name) for name in changes}
        self.update_params(**changes)
        for thing in self._tracked.values():
            for group in getattr(thing, "param_groups", []):
                group.update({name: changes[name] for name in ("lr", "weight_decay") if name in changes})
        self._recorder.event("change", params=dict(changes), before=before)


def _taken(value: Any) -> Any:
    """Take a value out of the training code's hands: what it holds now is what is logged."""
    device = getattr(value, "device", None)
    if device is None or not hasattr(value, "detach"):
        return value
    if getattr(device, "type", "cpu") == "cpu":
        return value.item() if value.numel() == 1 else value.detach().clone()
    # A copy on the same stream; the recorder's thread waits for it, the training does not.
    return value.detach().clone()


def _state_of(thing: Any) -> Any:
    return thing.state_dict() if hasattr(thing, "state_dict") else thing.get_state()


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
