"""Between two steps: the one place where a run pauses, takes live changes, is copied, saved and ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit.cadence import Cadence
from trainkit.checkpoints import plain, save, save_resume
from trainkit.control import Control
from trainkit.devices import move
from trainkit.modelfile import exported
from trainkit.params import FOLLOWED, Params
from trainkit.place import Place
from trainkit.ranks import Ranks
from trainkit.record import Phase, to_jsonable
from trainkit.recorder import Recorder


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

    Attributes:
        tracked: what a checkpoint holds, by name.
        cadence: when a checkpoint is due by itself.
        device: where the run trains, once it is known.
    """

    def __init__(self, recorder: Recorder, params: Params, place: Place, control: Control, ranks: Ranks) -> None:
        self._recorder = recorder
        self._paths = recorder.store.paths(recorder.record.job_id)
        self._params = params
        self._place = place
        self._control = control
        self._ranks = ranks
        self.tracked: dict[str, Any] = {}
        self.cadence = Cadence()
        self.device: str | None = None

    def attend(self) -> bool:
        """Do what was asked.

        Returns:
            Whether the loops should end as if they had come to their end.

        Raises:
            StopRun: the job should stop here.
        """
        control, place = self._control, self._place
        control.attention = False
        if control.pause_wanted:
            self._pause()
        while control.changes:
            self._apply(control.changes.pop(0))
        if control.copies_wanted:
            control.hand_out_copies(self.tracked.get("model"), place.step)
        if control.checkpoint_wanted or place.step >= self.cadence.step:
            if place.within_an_epoch_of_logs:
                control.attention = True  # at the end of the epoch
            else:
                self.save()
        if control.ending is None:
            return False
        control.attention = True
        if control.ending == "stop" and not control.noticed:
            control.noticed = True
            if self.tracked:
                self.save()  # here, between two steps, and not after the code has cleaned up behind itself
                if place.within_an_epoch_of_logs:
                    self._recorder.warn(
                        "stopped within an epoch that does not use run.batches: resume() repeats that epoch"
                    )
            raise StopRun
        control.noticed = True
        return True

    def save(self) -> None:
        """Save what is tracked, the random state and the place in the loops, and plan when to do so again."""
        self._control.checkpoint_wanted = False
        recorder, step = self._recorder, self._place.step
        begun_at = recorder.clock()
        with recorder.phase(Phase.CHECKPOINTING):
            # What differs between ranks is kept of each, all else is that of rank 0.
            own = self._ranks.gather({"place": self._place.content(), "generators": self._generators()})
            if self._ranks.rank > 0:
                self.cadence.saved(step, begun_at=begun_at, ended_at=recorder.clock())
                return
            content = {
                **own[0]["place"],
                "tracked": {name: _state_of(thing) for name, thing in self.tracked.items()},
                "params": to_jsonable(self._params),
                "ranks": own if len(own) > 1 else [],
            }
            try:
                info = save_resume(self._paths, content, step=step, epoch=self._place.epoch_to_tell, now=begun_at)
                recorder.note(checkpoint=info, resumable=True)
                recorder.event("checkpoint", path=info.path, size_bytes=info.size_bytes)
                # The model file keeps up, so that anybody can ask the half-trained model.
                if (model := exported(self.tracked.get("model"))) is not None:
                    save(self._paths.model, model)
            except OSError as error:
                recorder.warn(
                    f"no checkpoint could be saved ({error}); the training goes on and tries again later"
                )
        self.cadence.saved(step, begun_at=begun_at, ended_at=recorder.clock())

    def _generators(self) -> dict[str, Any]:
        """The states of what is tracked by generators, which draw other numbers on every rank."""
        return {
            name: thing.get_state() for name, thing in self.tracked.items() if not hasattr(thing, "state_dict")
        }

    def change(self, params: Mapping[str, Any]) -> None:
        """Change or add parameters, in the record too."""
        self._params.update(params)
        self._recorder.note(params=to_jsonable(self._params))

    def _pause(self) -> None:
        if self.tracked:
            self.save()  # a paused job survives its kernel
        device = self.device
        release = self._control.release_gpu and device is not None and device != "cpu"
        if release and device:
            move(self.tracked.values(), "cpu")
        self._control.wait_until_resumed(self._place.step)
        if release and device:
            move(self.tracked.values(), device)

    def _apply(self, changes: Mapping[str, Any]) -> None:
        before = {name: self._params.get(name) for name in changes}
        self.change(changes)
        for thing in self.tracked.values():
            for group in getattr(thing, "param_groups", []):
                group.update({name: changes[name] for name in FOLLOWED if name in changes})
        self._recorder.event("change", params=dict(changes), before=before)


def _state_of(thing: Any) -> Any:
    return plain(thing.state_dict() if hasattr(thing, "state_dict") else thing.get_state())
