"""What steers a run beside its code: live changes and an ending, each with the place where it took effect.

The history of a run's changes survives kills: what was decided after the checkpoint that an attempt goes on
from is made again by itself where it was made.  With the whole history planned from the start, a run repeats
another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from trainkit.errors import RecordError
from trainkit.files.plain import from_plain, to_plain
from trainkit.files.record import EndedBy
from trainkit.files.streams import attempt_of, tail
from trainkit.files.whole import read_whole, write_atomically

#: A place between two steps: which loop over epochs, epoch, loop over batches within it, steps begun.
#: Later places are greater.
Position = tuple[int, int, int, int]


class Change(msgspec.Struct, frozen=True):
    """Parameters that were changed between two steps."""

    at: Position
    params: dict[str, Any]


class Ending(msgspec.Struct, frozen=True):
    """Where a run was cut short: ``"stop"`` or ``"finish"``, and by what."""

    at: Position
    ending: str
    ended_by: str


class Plan(msgspec.Struct):
    """What a run does by itself, because another one was made to do it.

    Args:
        arguments: of the function, in place of those of its task.
        changes: to be made, in their order.
        ending: to come to.
        not_followed: how many events of the other run make no sense, so that they are not repeated.
    """

    arguments: dict[str, Any] = {}
    changes: list[Change] = []
    ending: Ending | None = None
    not_followed: int = 0


def save_plan(path: Path, plan: Plan) -> None:
    """Write a plan, for a job that is not yet run.  Only this user may read it: arguments may be secrets."""
    data = msgspec.json.encode(to_plain(msgspec.to_builtins(plan))) + b"\n"
    write_atomically(path, data, durable=False, private=True)


def load_plan(path: Path) -> Plan:
    """Read a plan; an empty one where there is no file.

    Raises:
        RecordError: the file is damaged.
    """
    try:
        return msgspec.convert(from_plain(msgspec.json.decode(read_whole(path))), Plan)
    except FileNotFoundError:
        return Plan()
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: {error}") from error


class _Began(msgspec.Struct):
    changes: Annotated[int, msgspec.Meta(ge=0)]
    params: dict[str, Any]


class _Asked(msgspec.Struct):
    params: dict[str, Any]


class _Made(msgspec.Struct):
    at: Position
    params: dict[str, Any]
    planned: bool = False


class _Ended(msgspec.Struct):
    at: Position
    ending: Literal["stop", "finish"]
    ended_by: EndedBy


class History:
    """The changes of a run over all its attempts, as its events tell.

    Attributes:
        made: those in effect, in their order.
        coming: those that are to be made again, at their places.
        ending: where the last attempt was cut short on request, if it was.
        params: the parameters that the job began with, if its events tell.
        not_followed: how many events make no sense, and were passed over.

    >>> history = History([
    ...     {"event": "change", "at": [1, 1, 1, 5], "params": {"lr": 0.1}},
    ...     {"event": "change", "at": [1, 2, 1, 15], "params": {"lr": 0.2}},
    ... ])
    >>> history.begin(changes=1)  # from a checkpoint that only the first of them had reached
    >>> [change.params for change in history.coming]
    [{'lr': 0.2}]
    """

    def __init__(self, events: Iterable[Mapping[str, Any]], planned: Iterable[Change] = ()) -> None:
        self.made: list[Change] = []
        self.coming: list[Change] = list(planned)
        self.ending: Ending | None = None
        self.params: dict[str, Any] | None = None
        self.not_followed = 0
        self._asked: list[dict[str, Any]] = []
        for event in events:
            try:
                self._follow(event)
            except msgspec.ValidationError:
                self.not_followed += 1

    def _follow(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "state" and "changes" in event:
            began = msgspec.convert(event, _Began)
            self.begin(began.changes)
            if self.params is None:
                self.params = began.params
        elif kind == "request" and event.get("action") == "set":
            self._asked.append(msgspec.convert(event, _Asked).params)
        elif kind == "change" and "at" in event:  # those of older jobs have no place
            made = msgspec.convert(event, _Made)
            self.make(Change(made.at, made.params), planned=made.planned)
        elif kind == "ending":
            ended = msgspec.convert(event, _Ended)
            if ended.ended_by is not EndedBy.LOST:  # one that nobody requested
                self.ending = Ending(ended.at, ended.ending, ended.ended_by)

    def begin(self, changes: int) -> None:
        """Begin an attempt whose checkpoint has so many of the changes behind it."""
        self.coming = self.made[changes:] + self.coming
        self.made = self.made[:changes]
        self.ending = None
        # What was asked for and not come to, in a pause say, is made after all else was made again.
        last = self.coming[-1].at if self.coming else (0, 0, 0, 0)
        self.coming += [Change(at=last, params=params) for params in self._asked]
        self._asked = []

    def make(self, change: Change, *, planned: bool) -> None:
        """Take note of a change that is made now.

        Args:
            change: with its place.
            planned: whether it is the first of those that were coming.  A new one takes the place of what was
                coming for its parameters: it was wished later, whatever the step.
        """
        self.made.append(change)
        if planned:
            self.coming = self.coming[1:]
            return
        self._asked = self._asked[1:]
        kept = (
            Change(each.at, {name: value for name, value in each.params.items() if name not in change.params})
            for each in self.coming
        )
        self.coming = [each for each in kept if each.params]


def history_of(events_path: Path, plan: Plan, *, before_attempt: int | None = None) -> History:
    """Return the history of a job's changes from its files.

    Args:
        events_path: what happened.
        plan: what was planned from the start.
        before_attempt: pass over this attempt and later ones.
    """
    events = tail(events_path)[0]
    if before_attempt is not None:
        events = [event for event in events if attempt_of(event) < before_attempt]
    return History(events, plan.changes)
