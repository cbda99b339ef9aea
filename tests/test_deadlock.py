"""Ranks that wait for each other at different steps are told; those that are only slow are left alone."""

from __future__ import annotations

import pytest

from trainkit.ranks.deadlock import PATIENCE_S, SAY_S, DeadlockWatch
from trainkit.ranks.group import Ranks

HOUR_S = 3600.0


class Pair(Ranks):
    """One of two ranks with a board between them."""

    world_size = 2

    def __init__(self, rank: int, board: dict[str, tuple[int, int]]) -> None:
        self.rank, self._board = rank, board

    def say_that_it_waits(self, step: int) -> None:
        self._board["word"] = (self.rank, step)

    def who_waits(self) -> tuple[int, int] | None:
        return self._board.get("word")


@pytest.fixture
def board() -> dict[str, tuple[int, int]]:
    """What the ranks have said."""
    return {}


def watch(rank: Pair, step: int | None) -> DeadlockWatch:
    """That of a rank within a step."""
    return DeadlockWatch(rank, lambda: step, pytest.fail)


def test_a_rank_says_that_it_waits_only_after_a_while(board: dict[str, tuple[int, int]]) -> None:
    """Ranks wait for each other all the time, for less than a step."""
    one = Pair(1, board)
    watching = watch(one, 5)
    assert watching.look(0.0) is None
    one.waits_since = 1.0
    assert watching.look(1.0 + SAY_S / 2) is None
    assert board == {}
    assert watching.look(1.0 + SAY_S) is None
    assert board == {"word": (1, 5)}


@pytest.mark.parametrize("step", [4, 5, None])
def test_a_slow_rank_is_left_alone(board: dict[str, tuple[int, int]], step: int | None) -> None:
    """It may take hours for the step that the others have made, or after the last one, or where nobody counts."""
    board["word"] = (1, 5)
    watching = watch(Pair(0, board), step)
    assert [watching.look(now) for now in (0.0, PATIENCE_S, HOUR_S)] == [None] * 3


def test_a_rank_in_a_later_step_is_told_once_it_has_stayed_there(board: dict[str, tuple[int, int]]) -> None:
    """Who waits, who is where, and what to do; as long as it goes on, and whenever nobody waits, it is nothing."""
    at = [6]
    watching = DeadlockWatch(Pair(0, board), lambda: at[0], pytest.fail)
    assert watching.look(0.0) is None
    board["word"] = (1, 5)
    assert watching.look(10.0) is None
    at[0] = 7
    assert watching.look(20.0) is None
    assert watching.look(19.9 + PATIENCE_S) is None
    del board["word"]
    assert watching.look(20.0 + PATIENCE_S) is None
    board["word"] = (1, 5)
    assert watching.look(100.0) is None
    told = watching.look(100.0 + PATIENCE_S)
    assert told is not None
    assert told.startswith("rank 1 has made 5 steps and waits for the others, and rank 0 is within step 7, ")
