"""What training code sees of its job: :class:`Run`.

``run.epochs`` and ``run.batches`` wrap the two loops that people write anyway; between two batches is the
one place where a job stops, pauses, takes live changes and is saved, so that all of these see it after a
whole step and never within one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

from trainkit.errors import OptionError
from trainkit.files.record import EndedBy, Phase
from trainkit.files.recorder import Recorder
from trainkit.files.scalars import MOST, taken, whole_number
from trainkit.ranks.group import ALONE, Ranks, unwrapped
from trainkit.resuming.determinism import LIBRARIES, doubts_of_loader, restore_compute
from trainkit.resuming.place import Place, of_rank
from trainkit.resuming.randomness import OWN_IN_A_THREAD
from trainkit.resuming.states import has_state, part_of
from trainkit.resuming.steering import History, Plan
from trainkit.training.boundary import Boundary, StopRun
from trainkit.training.control import Control
from trainkit.training.devices import best_device, check_device
from trainkit.training.extent import Extent, why_no_batch
from trainkit.training.params import Params
from trainkit.training.sharding import shard
from trainkit.training.stopping import Patience
from trainkit.watching.gradients import GradientNorm
from trainkit.watching.loading import Stopwatch

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = TypeVar("Batch")


class Run:
    """One attempt of a job, from within.

    Training code gets it as its first argument; it is never made by hand.

    Attributes:
        job_id: the job.
        name: its name.
        params: the parameters, live.
        total_steps: how many steps there will be, if known; set it where loaders have no length.
    """

    def __init__(
        self,
        recorder: Recorder,
        params: Mapping[str, Any],
        *,
        resumed: Mapping[str, Any] | None = None,
        ranks: Ranks = ALONE,
        history: History | None = None,
        plan: Plan | None = None,
    ) -> None:
        self._recorder = recorder
        self._put = recorder.metrics.pending.append
        self.job_id = recorder.record.job_id
        self.name = recorder.record.name
        self.params = Params(params)
        self._total: int | None = None
        self._total_of_loaders = False  # and not of the code
        self._extent = Extent()
        self._doubt = ""  # what a warning of a resumed attempt begins with
        self._ranks = ranks
        self.control = Control(recorder, ranks)
        self.stopwatch = Stopwatch(self.control.call)
        self.gradients = GradientNorm(self.control.call)
        own_process = recorder.record.runner != "thread"
        own_random: tuple[str, ...] = LIBRARIES if own_process else ()
        if not own_process and recorder.record.randomness.why == OWN_IN_A_THREAD:
            own_random = ("torch",)
        resumed = of_rank(resumed, ranks.rank, ranks.world_size) if resumed else None
        self._place = Place(keeps_random=own_random, saved=resumed, world_size=ranks.world_size)
        self._boundary = Boundary(
            recorder,
            self.params,
            self._place,
            self.control,
            ranks=ranks,
            history=history or History([]),
            plan=plan or Plan(),
            gradients=self.gradients,
        )
        self._patience: Patience | None = None
        if (patience := recorder.record.limits.patience) is not None and ranks.rank == 0:
            self._patience = Patience(
                self._put,
                patience,
                watched=lambda: recorder.metrics.watched,
                end=lambda told: self.end_early(EndedBy.EARLY_STOPPING, told),
            )
            self._put = self._patience.put
            self._boundary.extras["patience"] = self._patience
        if resumed:
            self._go_on_from(resumed, own_process=own_process)

    def _go_on_from(self, saved: Mapping[str, Any], *, own_process: bool) -> None:
        self.params.update(saved["params"])
        if "position" in saved:  # those of older versions do not tell
            self._boundary.foresee(tuple(saved["position"]))
        for name, state in saved.get("extras", {}).items():
            if name in self._boundary.extras:
                self._boundary.extras[name].load_state_dict(state)
        randomness = self._recorder.record.randomness
        doubt = self._doubt = "resumed, but it may not repeat exactly: "
        if not own_process and not randomness.reproducible:
            self.warn(doubt + "in a thread random numbers are the notebook's own; runner='process' has its own")
        for difference in restore_compute(saved["compute"], own_process=own_process):
            self.warn(doubt + difference)
        if (before := saved.get("world_size", 1)) != self.world_size:
            self.warn(f"{doubt}it goes on with {self.world_size} ranks, it had {before}")

    # --- the loops -------------------------------------------------------------------------------

    def epochs(self, count: int) -> Iterator[int]:
        """Yield 0 … count-1 like ``range``, beginning where an earlier attempt of the job was cut.

        Args:
            count: how many epochs the whole job has.

        Raises:
            OptionError: ``count`` is not a whole number, or is negative.

        Example::

            for epoch in run.epochs(20):
                for x, y in run.batches(loader):
                    ...
        """
        return self._epochs(whole_number(count, "run.epochs(count)"))

    def _epochs(self, count: int) -> Iterator[int]:
        self._place.epochs = count
        self._recorder.note(epochs=count, phase=Phase.TRAINING)
        first = self._place.begin_loop()
        self._extent.begin_loop()
        if first is None:
            return  # what that loop did is in what is tracked
        for epoch in range(first, count):
            self._extent.begin_epoch(count - epoch - 1, self._place.steps_within_epoch)
            self._place.begin_epoch(epoch + 1)
            self.control.agreement.meet(self.step)
            if (self.control.attention or self.step >= self._place.wake_at) and self._boundary.attend():
                return
            self._place.within_epoch = True
            yield epoch
            self._place.within_epoch = False
            if self._patience is not None and (fault := self._patience.end_epoch(epoch)) is not None:
                self._recorder.warn(fault, cause="patience")
            self.control.agreement.meet(self.step)
            if self.control.ending == "finish":
                self._boundary.notice_the_ending()
                return
        # Nothing of this loop is left to be done again: a checkpoint says that the epoch after the last begins.
        # A stop that comes as late as this lets the job complete.
        self._place.begin_epoch(count + 1)
        self._extent.begin_loop()
        if self.control.checkpoint_wanted:
            self.save_now()
        else:
            self._boundary.save_at_the_end()
        self._place.looping = False

    def batches(self, loader: Iterable[Batch], *, phase: str = "training") -> Iterator[Batch]:
        """Yield the batches of a loader; each one is a step.

        Args:
            loader: any iterable of batches.  ``loader.set_epoch(epoch)``, where there is one, is called with
                the 0-based epoch, and so is its ``sampler``'s.  Of several ranks each gets its own batches, see
                :mod:`trainkit.training.sharding`; those that are only looked at are the same on every rank.
            phase: ``"training"``, or ``"validating"`` for batches that are looked at but are no steps.

        Raises:
            StopRun: the job was asked to stop; let it pass.
            OptionError: no such phase.
        """
        if _phase(phase) is not Phase.TRAINING:
            yield from self._looked_at(loader, phase)
            return
        for part in (loader, part_of(loader, "sampler"), part_of(loader, "batch_sampler")):
            if callable(set_epoch := part_of(part, "set_epoch")):
                set_epoch(max(self.epoch - 1, 0))
        own = shard(loader, self._ranks)
        control, place = self.control, self._place
        if place.epochs:
            self._expect(self._extent.begin_batches(own))
        place.steps_by_log = False
        if self._doubt and place.going_back:
            for doubt in doubts_of_loader(loader, list(self.tracked.values())):
                self.warn(self._doubt + doubt)
        agreement = control.agreement
        batches = agreement.timed(place.begin_batches(own, dealt=part_of(loader, "share_of_rank") is None))
        batches, part, exhausted = self.stopwatch.timed(batches), place.part, False
        first_step, passed_over = place.step, place.has_passed_over_batches
        try:
            while True:
                if place.step >= agreement.at_step:
                    agreement.meet(place.step)
                # Before the next batch is fetched: fetching may draw random numbers.
                if control.attention or place.step >= place.wake_at:
                    if self._boundary.attend():
                        return
                    batches = self.stopwatch.timed(batches)
                try:
                    batch = next(batches)
                except StopIteration:
                    exhausted = True
                    if place.step == first_step and not passed_over:
                        self._warn_of_no_batch(loader, phase)
                    return
                place.begin_step()
                yield batch
        finally:
            if control.ending is None:  # a loop that is left because the run ends is one to come back into
                place.end_batches(part, exhausted=exhausted)

    def _expect(self, ahead: int | None) -> None:
        if ahead is not None:
            self._total, self._total_of_loaders = self._place.steps_before_epoch + ahead, True
        elif self._total_of_loaders:
            self._total, self._total_of_loaders = None, False

    def _warn_of_no_batch(self, loader: Iterable[Any], phase: str) -> None:
        at = f" in epoch {self.epoch}" if self.epoch else ""
        what = "nothing was trained" if phase == Phase.TRAINING else "nothing was validated"
        message = (
            f"run.batches got no batch from its {type(loader).__name__}{at}, so {what}: {why_no_batch(loader)}"
        )
        self._recorder.warn(message, cause=f"no batch: {phase}")

    def _looked_at(self, loader: Iterable[Batch], phase: str) -> Iterator[Batch]:
        # No place to be cut at: the code around a validation could not come back to its middle.
        with self.phase(phase):
            batches = iter(loader)
            try:
                first = next(batches)
            except StopIteration:
                self._warn_of_no_batch(loader, phase)
                return
            yield first
            yield from batches

    @property
    def total_steps(self) -> int | None:
        """How many steps there will be, or None where that is not known.

        Raises:
            OptionError: what it is set to is not a whole number, or is negative.
        """
        return self._total

    @total_steps.setter
    def total_steps(self, count: int | None) -> None:
        self._total = None if count is None else whole_number(count, "run.total_steps")
        self._total_of_loaders = False

    @property
    def step(self) -> int:
        """How many steps have begun, over all epochs and attempts."""
        return self._place.step

    @property
    def epoch(self) -> int:
        """The current epoch, from 1."""
        return self._place.epoch_to_tell

    # --- reporting -------------------------------------------------------------------------------

    def log(self, more: Mapping[str, Any] | None = None, /, *, step: int | None = None, **values: Any) -> None:
        """Note metrics of the current step.  Never waits, neither for the disk nor for a GPU.

        Of several ranks, what rank 0 logs counts.

        Args:
            more: metrics whose names are no names of Python's, as in ``run.log({"val/loss": 0.3})``.
            step: the step they belong to; without it the current one.  Where ``run.batches`` is not used,
                every call is a step of its own, and a place where the job can stop; then every rank has to call.
            **values: floats, or tensors of one element.

        Raises:
            StopRun: the job was asked to stop and has no ``run.batches`` to do it between two steps.
            OptionError: ``more`` is not a mapping, or ``step`` is not a whole number.
        """
        place = self._place
        if place.steps_by_log:
            self._step_of_a_bare_loop()
        if more is not None:
            values = {**_metrics(more), **values}
        for value in values.values():
            if type(value) is not float:
                values = {name: each if type(each) is float else taken(each) for name, each in values.items()}
                break
        if step is None:
            step = place.step
        elif type(step) is not int or not -MOST <= step <= MOST:
            step = whole_number(step, "run.log(step=...)", least=-MOST)
        self._put((step, place.epoch, time(), values))

    def _step_of_a_bare_loop(self) -> None:
        if self._place.step >= self.control.agreement.at_step:
            self.control.agreement.meet(self._place.step)
        if self.control.attention or self._place.step >= self._place.wake_at:
            noticed = self.control.noticed
            if self._boundary.attend() and self._place.epochs is None and not noticed:
                raise StopRun
        self._place.step += 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say what the job is doing meanwhile.

        Args:
            name: one of loading, training, validating, checkpointing, finalizing.
        """
        with self._recorder.phase(_phase(name)):
            yield

    def message(self, text: str) -> None:
        """Set the line that people read first."""
        self._recorder.note(message=str.__str__(str(text)))

    def warn(self, text: str) -> None:
        """Record a warning; the same one only once."""
        self._recorder.warn(str(text))

    def update_params(self, /, **params: Any) -> None:
        """Show parameters that were chosen by the code in the record, and in ``run.params``."""
        self._boundary.choose(params)

    def best(self, metric: str, mode: str = "min") -> None:
        """Say which metric tells the best step; without it ``val_loss``, if it is logged.

        Args:
            metric: a name that is logged.
            mode: ``"min"`` or ``"max"``.
        """
        if not isinstance(metric, str):
            raise OptionError(f"run.best({metric!r:.80}): expected the name of a metric, such as 'val_loss'")
        if not isinstance(mode, str) or mode not in ("min", "max"):
            raise OptionError(f"mode={mode!r:.80}: expected 'min' or 'max'")
        self._recorder.metrics.watched = (str.__str__(metric), str.__str__(mode))

    @property
    def device(self) -> str:
        """Where to train: the parameter ``device`` if given, else the first there is of cuda, mps, cpu.

        Raises:
            OptionError: that is a GPU which is not here.
        """
        if self._boundary.device is None:
            chosen = self.params.get("device")
            if chosen in (None, "", "cuda"):
                chosen = self._ranks.device or chosen
            device = str(chosen or best_device())
            check_device(device)
            self._boundary.device = self.control.agreement.device = device
            self._recorder.note(device=self._boundary.device)
        return self._boundary.device

    # --- ranks -----------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """Which of the processes that train together this is, from 0.  Rank 0 reports and saves."""
        return self._ranks.rank

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return self._ranks.world_size

    def prepare(self, model: nn.Module, **options: Any) -> nn.Module:
        """Return a model whose gradients are the means over all ranks; with one rank, the model itself.

        Args:
            model: on its device already.
            **options: for ``torch.nn.parallel.DistributedDataParallel``.

        Raises:
            OptionError: it has nothing to train.
        """
        return self._ranks.wrap(model, **options)

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all ranks, in place.  Every rank has to call it; alone, nothing is to be done.

        Args:
            tensor: of the same shape on every rank, on this rank's device.
        """
        return self._ranks.sum(tensor)

    # --- state -----------------------------------------------------------------------------------

    def track(self, *unnamed: Any, **objects: Any) -> None:
        """Name what a checkpoint holds; on resume it is restored here.

        Args:
            **objects: things with ``state_dict`` and ``load_state_dict`` (models, optimizers, schedulers,
                scalers), or random generators of torch's, numpy's or Python's.  The one named ``model`` becomes
                the model file.

        Raises:
            OptionError: an object has no state that could be kept, or no name.
        """
        if unnamed:
            raise OptionError(
                f"run.track got {type(unnamed[0]).__name__} without a name; expected names, such as "
                "run.track(model=model, optimizer=optimizer)"
            )
        for name, thing in objects.items():
            if not has_state(thing):
                raise OptionError(
                    f"run.track({name}=...) got {type(thing).__name__}, which has neither state_dict and "
                    "load_state_dict nor get_state and set_state, and is no random generator"
                )
            self._boundary.tracked.add(name, unwrapped(thing))

    def checkpoint(self) -> None:
        """Save what is tracked, the random state and the place in the loops, at the end of the current step.

        Within a step, or between the batches of an epoch and its end, there is no place to which the code
        could come back without doing something twice; so inside the loops the checkpoint is taken when the
        next batch or epoch begins.
        """
        if self._place.looping:
            self.control.ask_for_a_checkpoint()
        else:
            self.save_now()

    def checkpoint_every(
        self, *, steps: int | None = None, seconds: float | None = None, keep: int | None = None
    ) -> None:
        """Choose how often a checkpoint is taken by itself; without this every ten seconds.

        Whatever is chosen by time, checkpoints take no more than 3 % of the time.

        Args:
            steps: after that many steps, besides.
            seconds: after that many seconds.
            keep: how many to keep for ``job.branch``, beside the newest two; three unless chosen.  They are
                spread over the whole run; those before live changes and the one at the best value go last.

        Raises:
            OptionError: a number that is not positive, or a count that is not whole.
        """
        self._boundary.choose_checkpoints(steps=steps, seconds=seconds, keep=keep)

    def save_now(self) -> None:
        """Save as :meth:`checkpoint` does, without waiting for the end of the step."""
        self._boundary.save()

    @property
    def tracked(self) -> Mapping[str, Any]:
        """What was given to :meth:`track`, by name."""
        return self._boundary.tracked

    # --- endings ---------------------------------------------------------------------------------

    @property
    def should_stop(self) -> bool:
        """Whether the job was asked to end.  Who asks is expected to return soon, and is not stopped otherwise.

        Of several ranks each has to ask as often as the others.
        """
        self.control.agreement.meet(self.step)
        if self.step >= self._place.wake_at:
            self._boundary.come_to_a_planned_ending()
        self._boundary.notice_the_ending()
        return self.control.ending is not None

    def end_early(self, reason: str, message: str = "") -> None:
        """Let the loops end after this step, as if they had come to their end.

        Args:
            reason: ``"early_stopping"`` or ``"time_limit"``.
            message: the line that people read first.

        Raises:
            OptionError: another reason.
        """
        if not isinstance(reason, str) or reason not in (EndedBy.EARLY_STOPPING, EndedBy.TIME_LIMIT):
            raise OptionError(f"run.end_early({reason!r:.80}): expected 'early_stopping' or 'time_limit'")
        self.control.end_early(EndedBy(reason))
        if message:
            self.message(message)

    # --- the worker's and the recorder's side ----------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether a request to stop cut the run short, rather than coming too late."""
        return self.control.ending == "stop" and self.control.noticed

    @property
    def finishing(self) -> bool:
        """Whether a request to finish early cut the run short."""
        return self.control.ending == "finish" and self.control.noticed

    @property
    def step_of_batches(self) -> int | None:
        """The step that ``run.batches`` has begun last, or None where steps are not begun by it."""
        return None if self._place.steps_by_log else self._place.step

    def release(self) -> None:
        """Let go of what is tracked; the run has ended, and its process may go on for days."""
        self._boundary.tracked.release()

    def report(self) -> None:
        """Bring the place in the loops into the record; called before it is written."""
        if (
            self._boundary.tracked
            and self._place.looping
            and self._boundary.cadence.is_due(self._recorder.ticks())
        ):
            self.control.ask_for_a_checkpoint()
        done, total = None, self._total
        if self._total_of_loaders and total is not None and self.step > total:
            total = None  # a loader gives more batches than its length
        if total:
            done = self.step / total
        elif self._place.epochs:
            done = max(self.epoch - 1, 0) / self._place.epochs
        self._recorder.note(step=self.step, epoch=self.epoch, total_steps=total)
        if self.control.agreement.members:
            self._recorder.note(ranks=self.control.agreement.members)
        if done is not None:
            self._recorder.note(progress=round(min(100.0, 100.0 * done), 2))


def _metrics(more: object) -> dict[str, Any]:
    if not isinstance(more, Mapping):
        what = f"{type(more).__name__} {more!r:.60}"
        raise OptionError(f"run.log got {what}; expected names, such as run.log(loss=loss)")
    return {str.__str__(str(name)): value for name, value in more.items()}


def _phase(name: str) -> Phase:
    try:
        return Phase(name)
    except ValueError:
        raise OptionError(f"{name!r} is not a phase; phases: {', '.join(Phase)}") from None
