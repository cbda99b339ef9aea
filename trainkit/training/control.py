"""What others ask of a run, taken in the recorder's thread and acted upon in the training thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from trainkit.errors import OptionError
from trainkit.files.record import EndedBy, Status
from trainkit.files.recorder import Recorder
from trainkit.ranks.agreement import Agreement, Wish
from trainkit.ranks.group import ALONE, Ranks
from trainkit.training.params import check_followed

#: What a request to end means: how the loops end, what the record says of the reason, and what it says until then.
ENDINGS = {
    "stop": ("stop", EndedBy.USER, "stopping after this step, as asked"),
    "kill": ("stop", EndedBy.USER, "being killed, as asked"),
    "finish": ("finish", EndedBy.USER, "finishing early after this step, as asked"),
    # Made by the thread runner when the interpreter ends: nobody asked, so it is an interruption.
    "shutdown": ("stop", EndedBy.LOST, "saving, since the interpreter that runs it is ending"),
}

#: All that can be requested of a run.
_ACTIONS = (*ENDINGS, "pause", "resume", "checkpoint", "set")

#: How often paused ranks meet, in seconds.
PAUSED_S = 0.05


def _fault(request: Mapping[str, Any]) -> str | None:
    """Return why a request cannot be acted on."""
    action, params = request.get("action"), request.get("params")
    if action not in _ACTIONS:
        return f"action {action!r:.80} is not one of {', '.join(_ACTIONS)}"
    if action != "set":
        return None
    if not isinstance(params, dict):
        return f"action 'set' needs an object params, got {params!r:.80}"
    try:
        check_followed(params)
    except OptionError as error:
        return str(error)
    return None


class Control:
    """The wishes of others, and whether the training thread has acted on them.

    Args:
        recorder: acknowledges requests by states and events.
        ranks: those who have to act alike.

    Attributes:
        agreement: by which they do.
        attention: whether there is anything to do; the one flag that the training thread reads at every step.
        ending: None, ``"stop"`` (leave at once) or ``"finish"`` (let the loops end).
        noticed: whether the training code has been told of the ending.
        ended_by: why the run ends.
        repeats: whether it ends where another run did, rather than because it was asked to.
        changes: parameters to be changed, oldest first.
        checkpoint_wanted: whether a checkpoint should be taken after this step.
        release_gpu: whether a pause should give back the memory of the GPU.
        copies_wanted: those who wait for a copy of the model from between two steps.
    """

    def __init__(self, recorder: Recorder, ranks: Ranks = ALONE) -> None:
        self._recorder = recorder
        self.agreement = Agreement(ranks, self._take)
        self.attention = False
        self.ending: str | None = None
        self.noticed = False
        self.ended_by = EndedBy.EPOCHS
        self.repeats = False
        self.changes: list[dict[str, Any]] = []
        self.checkpoint_wanted = False
        self.release_gpu = False
        self.copies_wanted: list[Future[tuple[Any, int]]] = []
        self._over = False
        self._copies_guard = threading.Lock()
        self._go_on = threading.Event()
        self._go_on.set()
        self._stirred = threading.Event()  # something for a paused run to look at

    # --- the recorder's thread -------------------------------------------------------------------

    def receive(self, request: Mapping[str, Any]) -> None:
        """Take a request and acknowledge it; the training thread acts on it after its current step.

        Anyone may write a request.  One that makes no sense is ignored with a warning.
        """
        action = request.get("action")
        if (fault := _fault(request)) is not None:
            self._recorder.warn(f"ignored a request: {fault}")
            return
        status = self._recorder.record.status
        if action in ENDINGS:
            # The wish counts before it is acknowledged: on a full disk only the latter fails.
            self.agreement.wish({"action": action})
            if status is not Status.STOPPING:
                self._recorder.change(Status.STOPPING, message=ENDINGS[action][2])
        elif action == "pause" and status is Status.RUNNING:
            self.agreement.wish({"action": action, "release_gpu": bool(request.get("release_gpu"))})
        elif action == "set":
            self.agreement.wish({"action": action, "params": request["params"]})
        elif action in ("resume", "checkpoint"):
            self.agreement.wish({"action": action})
        else:
            return
        self._recorder.event("request", action=action, params=request.get("params"))

    def _take(self, wish: Wish) -> None:
        """Make a wish count: where it is heard if there is one rank, else between two steps, on each of them."""
        action = wish["action"]
        if action in ENDINGS:
            ending, ended_by, _ = ENDINGS[action]
            if self.ending is None or (ending == "stop" and self.ending == "finish"):
                self.ending, self.ended_by = ending, ended_by
        elif action == "end_early":
            self.ended_by = EndedBy(wish["reason"])
            self.ending = self.ending or "finish"
        elif action == "pause":
            self.release_gpu = wish["release_gpu"]
        elif action == "set":
            self.changes.append(wish["params"])
        elif action == "checkpoint":
            self.checkpoint_wanted = True
        if action == "pause":
            self._go_on.clear()
        self.attention = True
        if action == "resume" or action in ENDINGS:
            self._go_on.set()
            self._stirred.set()

    # --- any thread ------------------------------------------------------------------------------

    def end_early(self, reason: EndedBy) -> None:
        """Let the loops end after this step, as if they had come to their end."""
        self.agreement.wish({"action": "end_early", "reason": str(reason)})

    def call(self) -> None:
        """Have the training thread look up after its current step."""
        self.attention = True

    def end_as(self, ending: str, ended_by: EndedBy) -> None:
        """End here as another run did, in the training thread."""
        if self.ending is None:
            self.ending, self.ended_by, self.attention = ending, ended_by, True
            self.repeats = True

    def ask_for_a_checkpoint(self) -> None:
        """Have a checkpoint taken after this step."""
        self.agreement.wish({"action": "checkpoint"})

    def ask_for_a_copy(self) -> Future[tuple[Any, int]]:
        """Have the model copied after this step; the future holds the copy and its step."""
        wish: Future[tuple[Any, int]] = Future()
        with self._copies_guard:
            if self._over:
                wish.cancel()
            else:
                self.copies_wanted.append(wish)
                self.attention = True
                self._stirred.set()
        return wish

    # --- the training thread ---------------------------------------------------------------------

    @property
    def pause_wanted(self) -> bool:
        """Whether the run should wait here."""
        return not self._go_on.is_set()

    def wait_until_resumed(self, model: Any, step: int) -> None:
        """Be PAUSED after a step until somebody lets the run go on, or end; meanwhile the model can be asked."""
        # If the job is STOPPING by now, there is nothing to wait for.
        paused = self._recorder.change_from(Status.RUNNING, Status.PAUSED, message="paused")
        while self.agreement.alone and paused and self.pause_wanted:
            self._stirred.wait()
            self._stirred.clear()
            self.hand_out_copies(model, step)
        while not self.agreement.alone and not self._go_on.wait(PAUSED_S):
            self.agreement.meet(step)
        if paused:
            self._recorder.change_from(Status.PAUSED, Status.RUNNING, message="")

    def hand_out_copies(self, model: Any, step: int) -> None:
        """Give a copy of the model to all who asked; None if there is no model."""
        with self._copies_guard:
            wishes, self.copies_wanted = self.copies_wanted, []
        for wish in wishes:
            try:
                wish.set_result((copy.deepcopy(model), step))
            except Exception as error:  # noqa: BLE001 - a model that cannot be copied must not end its training
                wish.set_exception(error)

    def close(self) -> None:
        """Tell those who still wait for a copy that there will be none."""
        with self._copies_guard:
            self._over = True
            for wish in self.copies_wanted:
                wish.cancel()
