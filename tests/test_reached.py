"""What the end of a function that raised nothing is called: every case of what was asked and what is left."""

from __future__ import annotations

import itertools

import pytest

from trainkit.files.endings import reached
from trainkit.files.record import EndedBy, Status

LIMIT = "its time limit of 2 h"
#: What was asked; whether it was cut; whether it was to finish; whether there is a model.  State, reason, message.
CASES = [
    (EndedBy.EPOCHS, False, False, True, (Status.COMPLETED, EndedBy.EPOCHS, "as said")),
    (EndedBy.EARLY_STOPPING, False, False, False, (Status.COMPLETED, EndedBy.EARLY_STOPPING, "as said")),
    (EndedBy.USER, True, False, False, (Status.STOPPED, EndedBy.USER, "stopped on request")),
    (EndedBy.USER, True, False, True, (Status.STOPPED, EndedBy.USER, "stopped on request; model saved")),
    (EndedBy.USER, True, True, False, (Status.STOPPED, EndedBy.USER, "stopped on request")),
    (EndedBy.USER, True, True, True, (Status.COMPLETED, EndedBy.USER, "finished early on request")),
    (EndedBy.USER, False, True, False, (Status.COMPLETED, EndedBy.USER, "finished early on request")),
    (
        EndedBy.USER,
        False,
        False,
        True,
        (Status.COMPLETED, EndedBy.EPOCHS, "ran to its end before the request took effect"),
    ),
    (
        EndedBy.LOST,
        True,
        False,
        True,
        (Status.INTERRUPTED, EndedBy.LOST, "the interpreter that ran it was shut down"),
    ),
    (
        EndedBy.LOST,
        False,
        False,
        True,
        (Status.COMPLETED, EndedBy.EPOCHS, "ran to its end before the request took effect"),
    ),
]


@pytest.mark.parametrize(("ended_by", "stopped", "finishing", "usable", "expected"), CASES)
def test_every_end_has_its_name(
    ended_by: EndedBy, stopped: bool, finishing: bool, usable: bool, expected: tuple[Status, EndedBy, str]
) -> None:
    """The state, the reason, and the line that people read."""
    found = reached(
        ended_by, "as said", stopped=stopped, finishing=finishing, usable=usable, saved=False, limit=""
    )
    assert (found.status, found.ended_by, found.message) == expected


def test_a_time_limit_is_named() -> None:
    """In whatever way it took effect."""
    told = [
        reached(
            EndedBy.TIME_LIMIT, "", stopped=stopped, finishing=finishing, usable=True, saved=True, limit=LIMIT
        ).message
        for stopped, finishing in itertools.product((True, False), repeat=2)
    ]
    assert told == [
        f"finished by {LIMIT}",
        f"stopped by {LIMIT}; model saved",
        f"finished by {LIMIT}",
        f"ran to its end when {LIMIT} was reached",
    ]


def test_nothing_is_completed_that_was_cut_without_a_model() -> None:
    """Over all that can be."""
    for ended_by, finishing, saved in itertools.product(EndedBy, (True, False), (True, False)):
        found = reached(ended_by, "", stopped=True, finishing=finishing, usable=False, saved=saved, limit="")
        assert found.status is not Status.COMPLETED
