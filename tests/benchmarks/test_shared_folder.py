"""The simulation of a shared folder says what its page says, and finds the variant that would not hold."""

from __future__ import annotations

import pytest

from .shared_folder import false_silence, load, stop_delay_s, wait_ms

SERVER = 50_000.0


def test_ranks_cost_nothing_as_long_as_one_of_them_writes() -> None:
    """Known-bad: with a record of every rank's own no server would keep up."""
    one, hundred = (
        load(1000, ranks, 20, attributes_s=3.0, list_s=2.0, all_ranks_write=False) for ranks in (1, 100)
    )
    assert one == hundred
    assert hundred.writes + hundred.looks + hundred.reads < SERVER
    assert load(1000, 100, 20, attributes_s=3.0, list_s=2.0, all_ranks_write=True).writes > 50 * SERVER


def test_a_server_near_its_limit_makes_wait() -> None:
    """The queue is played through, not guessed."""
    assert wait_ms(5_000, SERVER) < 0.01 < wait_ms(47_000, SERVER) < wait_ms(49_900, SERVER)


def test_what_clients_remember_delays_a_stop_and_silences_the_living() -> None:
    """With the 3 s of NFS a stop takes seconds and nobody is called silent; with 60 s half of them are."""
    median, worst = stop_delay_s(3.0, step_s=0.5)
    assert median == pytest.approx(1.8, abs=0.1)
    assert worst < 4
    assert false_silence(3.0, 30.0, pause_s=1.0) == 0
    assert false_silence(60.0, 30.0, pause_s=1.0) > 0.4
