"""Between two steps: the one place where a run pauses, takes live changes, is copied, saved and ended."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from trainkit.files.modelfile import exported
from trainkit.files.plain import to_jsonable
from trainkit.files.record import EndedBy, Phase
from trainkit.files.recorder import Recorder
from trainkit.files.scalars import whole_number
from trainkit.ranks.group import Ranks
from trainkit.resuming.cadence import Cadence
from trainkit.resuming.checkpoints import save_model, save_resume, sync_for_resume
from trainkit.resuming.kept import Kept
from trainkit.resuming.place import Place
from trainkit.resuming.steering import Change, History, Plan, Position
from trainkit.training.control import Control
from trainkit.training.devices import move
from trainkit.training.following import follow
from trainkit.training.params import Params
from trainkit.watching.gradients import GradientNorm


class StopRun(BaseException):
    """Ends a run from within, on request.

    Not an ``Exception``, so that an ``except Exception`` in training code does not swallow it by accident.
    """


class Boundary:
    """What a run does between two steps, in the training thread.

    Args:
        recorder: writes what happened.
        params: the parameters, live.
        place: where the run is in its loops.
        control: what others ask of it.
        ranks: those who come here together.
        history: the changes that were made, and those that are to be made again.
        plan: what it does because another run did.
        gradients: takes the norm of the gradients, when it is asked to.

    Attributes:
        tracked: what a checkpoint holds.
        extras: what it holds besides, of ours.
        cadence: when a checkpoint is due by itself.
        device: where the run trains, once it is known.
    """

    def __init__(
        self,
        recorder: Recorder,
        params: Params,
        place: Place,
        control: Control,
        *,
        ranks: Ranks,
        history: History,
        plan: Plan,
        gradients: GradientNorm,
    ) -> None:
        self._recorder = recorder
        self._paths = recorder.store.paths(recorder.record.job_id)
        self._params = params
        self._place = place
        self._control = control
        self._ranks = ranks
        self._history = history
        self._planned_ending = plan.ending
        self._gradients = gradients
        self._kept = Kept(self._paths)
        self._saved_at: Position | None = None
        self._resumable = False  # whether what a resume needs with a checkpoint is on the disk
        self._foreseen: dict[str, Any] = {}  # what parameters were before those changes that are only shown yet
        self._best_saved = recorder.record.best
        self.tracked = place.tracked
        self.extras: dict[str, Any] = {}
        self.cadence = Cadence()
        self.device: str | None = None
        self._plan_waking()

    def attend(self) -> bool:
        """Do what was asked, or is planned.

        Returns:
            Whether the loops should end as if they had come to their end.

        Raises:
            StopRun: the job should stop here.
        """
        control, place, history = self._control, self._place, self._history
        control.attention = False
        if self._recorder.forked:
            place.wake_at = math.inf
            return False  # what was requested of the job is for the parent of this process
        if place.passing_over:
            return self._attend_on_the_way_back()
        while history.coming and place.position >= history.coming[0].at:
            self._apply(history.coming[0].params, planned=True)
        if self._gradients.wanted:
            self._gradients.take(self.tracked.values(), place.step)
        if control.pause_wanted:
            self._pause()
        if control.changes:
            self._save_before_a_change()
        while control.changes:
            self._apply(control.changes.pop(0))
        if control.copies_wanted:
            control.hand_out_copies(self.tracked.get("model"), place.step)
        if control.checkpoint_wanted or place.step >= self.cadence.step:
            if place.within_an_epoch_of_logs:
                control.attention = True  # at the end of the epoch
            else:
                self.save()
        self._plan_waking()
        self.come_to_a_planned_ending()
        if control.ending is None:
            return False
        control.attention = True
        noticed = control.noticed
        self.notice_the_ending()
        if control.ending == "stop" and not noticed:
            if self.tracked:
                self.save()  # here, between two steps, and not after the code has cleaned up behind itself
                if place.within_an_epoch_of_logs:
                    self._recorder.warn(
                        "stopped within an epoch that does not use run.batches: resume() repeats that epoch"
                    )
            raise StopRun
        return True

    def _attend_on_the_way_back(self) -> bool:
        """Attend to what cannot wait while batches are passed over: the rest is done where the cut was."""
        control = self._control
        if control.ending == "stop":
            control.noticed = True
            raise StopRun  # the checkpoint that it came from is still its newest
        control.attention = True
        return False

    def come_to_a_planned_ending(self) -> None:
        """Begin to end where another run did, if that is planned for here."""
        planned = self._planned_ending
        if planned is not None and self._place.position >= planned.at:
            self._planned_ending = None
            self._control.end_as(planned.ending, EndedBy(planned.ended_by))

    def notice_the_ending(self) -> None:
        """Take note that the training code is told of the ending, and where."""
        control = self._control
        if control.ending is not None and not control.noticed:
            control.noticed = True
            self._recorder.event(
                "ending", at=self._place.position, ending=control.ending, ended_by=control.ended_by
            )

    def choose_checkpoints(self, *, steps: int | None, seconds: float | None, keep: int | None) -> None:
        """Take what the user chose.

        Raises:
            OptionError: a number that is not allowed.
        """
        keep = self._kept.keep if keep is None else whole_number(keep, "checkpoint_every(keep=...)")
        self.cadence.choose(self._place.step, steps=steps, seconds=seconds)
        self._kept.keep = keep
        self._plan_waking()

    def save(self, *, reason: str | None = None) -> None:
        """Save what is tracked, the random state and the place in the loops, and plan when to do so again.

        Args:
            reason: why the checkpoint is to be kept longer than others.
        """
        if self._recorder.forked:
            return  # the checkpoints are those of the parent
        begun_at = self._recorder.clock()
        best = self._recorder.record.best
        if reason is None and best is not None and best != self._best_saved:
            reason, self._best_saved = "best", best
        with self.cadence.taking(self._place.step, self._recorder.ticks):
            with self._recorder.phase(Phase.CHECKPOINTING):
                # What differs between ranks is kept of each, all else is that of rank 0.
                own = self._ranks.gather({"place": self._place.content(), "generators": self.tracked.generators()})
                if self._ranks.rank == 0:
                    self._save_as_first(own, begun_at, reason)
            self._control.checkpoint_wanted = False  # also where it was asked for meanwhile: this is the one
        self._saved_at = self._place.position
        self._plan_waking()

    def _save_as_first(self, own: list[dict[str, Any]], now: float, reason: str | None) -> None:
        content = {
            **own[0]["place"],
            "job_id": self._recorder.record.job_id,
            "position": list(self._place.position),
            "changes": len(self._history.made),
            "tracked": self.tracked.states(),
            "extras": {name: thing.state_dict() for name, thing in self.extras.items()},
            "params": to_jsonable(self._params),
            "ranks": own if len(own) > 1 else [],
        }
        try:
            try:
                self._write(content, now, reason)
            except OSError:
                if not self._kept.give_way():
                    raise
                self._write(content, now, reason)
        except OSError as error:
            self._recorder.warn(
                f"no checkpoint could be saved ({error}); the training goes on and tries again later"
            )

    def _write(self, content: dict[str, Any], now: float, reason: str | None) -> None:
        recorder, place = self._recorder, self._place
        if not self._resumable:
            sync_for_resume(self._paths)
            self._resumable = True
        info = save_resume(
            self._paths, content, step=place.step, epoch=place.epoch_to_tell, now=now, reason=reason
        )
        try:
            # The model file keeps up, so that anybody can ask the half-trained model.
            model = exported(self.tracked.get("model"))
            if model is not None and (path := save_model(self._paths, model)) != self._paths.model:
                recorder.warn(f"{self._paths.model} cannot be written; the model is saved in {path}")
        finally:  # told when both are there; the checkpoint is good also where the model file cannot be written
            self._kept.add(info)
            recorder.note(checkpoint=info, resumable=True)
            recorder.event("checkpoint", path=info.path, size_bytes=info.size_bytes)

    def save_at_the_end(self) -> None:
        """Have a checkpoint behind the last epoch, to branch off with more of them, where that costs little."""
        if self.tracked and self._is_cheap():
            self.save()

    def _is_cheap(self) -> bool:
        # Several ranks would have to agree on it.
        return self._ranks.world_size == 1 and self.cadence.is_affordable(self._recorder.ticks())

    def _save_before_a_change(self) -> None:
        """Have a checkpoint to branch off from without the change, where that costs little."""
        place = self._place
        if not self.tracked or not place.looping or place.within_an_epoch_of_logs:
            return
        if self._is_cheap() and self._saved_at != place.position:
            self.save(reason="change")
        elif self._ranks.rank == 0:
            with contextlib.suppress(OSError):  # on a full disk the change is what matters
                self._kept.hold_newest("change")

    def _plan_waking(self) -> None:
        coming = self._history.coming[0].at[3] if self._history.coming else math.inf
        ending = self._planned_ending.at[3] if self._planned_ending else math.inf
        self._place.wake_at = min(self.cadence.step, coming, ending)

    def foresee(self, position: Position) -> None:
        """Show the parameters as they will be where the run goes on, to code that reads them before its loops.

        Args:
            position: of the checkpoint.
        """
        for change in self._history.coming:
            if change.at <= position:
                for name in change.params:
                    self._foreseen.setdefault(name, self._params.get(name))
                self._params.update(change.params)

    def choose(self, params: Mapping[str, Any]) -> None:
        """Take parameters that the code chose.

        An attempt that goes on chooses again what the first one chose; what was changed since stays changed.
        """
        if self._place.going_back:
            changed = {name for change in self._history.made for name in change.params}
            params = {name: value for name, value in params.items() if name not in changed}
        self._change(params)

    def _change(self, params: Mapping[str, Any]) -> None:
        self._params.update(params)
        self._recorder.note(params=to_jsonable(self._params))

    def _pause(self) -> None:
        if self.tracked:
            self.save()  # a paused job survives its kernel
        device = self.device
        release = self._control.release_gpu and device is not None and device != "cpu"
        if release and device:
            move(self.tracked.values(), "cpu")
        self._control.wait_until_resumed(self.tracked.get("model"), self._place.step)
        if release and device:
            move(self.tracked.values(), device)

    def _apply(self, changes: Mapping[str, Any], *, planned: bool = False) -> None:
        before = {name: self._foreseen.pop(name, self._params.get(name)) for name in changes}
        at = self._place.position
        # First the word, then the deed: a kill in between is one before the next step, and the word counts.
        self._recorder.event("change", params=dict(changes), before=before, at=at, planned=planned)
        self._history.make(Change(at, dict(changes)), planned=planned)
        self._change(changes)
        for doubt in follow(self.tracked.values(), changes, before):
            self._recorder.warn(doubt)
