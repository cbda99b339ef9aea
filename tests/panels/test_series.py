"""What a chart shows of a metrics stream."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from trainkit.api.history import metrics_frame
from trainkit.files.streams import Appender
from trainkit.panels import series
from trainkit.panels.series import History, Points, thinned


def lines(first: int, last: int, attempt: int = 1, **metrics: float) -> list[dict[str, float]]:
    return [{"attempt": attempt, "epoch": 1, "step": step, "time": 0.0, **metrics} for step in range(first, last)]


@pytest.fixture
def stream(tmp_path: Path) -> Appender:
    return Appender(tmp_path / "metrics.jsonl")


def test_reads_only_what_is_new(stream: Appender) -> None:
    """A history grows by what was appended, and says whether anything was."""
    history = History(stream.path)
    assert not history.read()
    stream.append(lines(1, 4, loss=0.5))
    assert history.read()
    assert not history.read()
    stream.append([*lines(4, 6, loss=0.25), {"attempt": 1, "step": 5, "epoch": 1, "time": 0.0, "val_loss": 0.3}])
    assert history.read()
    assert history.metrics["loss"].x.tolist() == [1, 2, 3, 4, 5]
    assert history.metrics["loss"].y.tolist() == [0.5, 0.5, 0.5, 0.25, 0.25]
    assert history.metrics["val_loss"].x.tolist() == [5]
    assert list(history.metrics) == ["loss", "val_loss"]
    assert history.generation == 0


def test_a_line_that_is_being_written_waits(stream: Appender, tmp_path: Path) -> None:
    """Half a line is no point yet; once its rest is there it is one."""
    history = History(stream.path)
    with open(stream.path, "ab") as file:
        file.write(b'{"attempt":1,"step":1,"lo')
        file.flush()
        assert not history.read()
        file.write(b'ss":2.0}\n')
        file.flush()
    assert history.read()
    assert history.metrics["loss"].y.tolist() == [2.0]


def test_a_torn_line_is_passed_over(stream: Appender) -> None:
    """What a kill tore does not take the lines around it along."""
    stream.append(lines(1, 2, loss=1.0))
    with open(stream.path, "ab") as file:
        file.write(b'{"attempt":1,"st\n')
    stream.append(lines(3, 4, loss=3.0))
    history = History(stream.path)
    history.read()
    assert history.metrics["loss"].x.tolist() == [1, 3]


def test_the_newest_attempt_counts(stream: Appender) -> None:
    """Steps that a resumed attempt repeats replace the old ones, just as in job.metrics()."""
    history = History(stream.path)
    stream.append(lines(1, 11, loss=1.0))
    history.read()
    stream.append(lines(6, 9, attempt=2, loss=2.0))
    history.read()
    assert history.generation == 1
    assert history.metrics["loss"].x.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert history.metrics["loss"].y.tolist() == [1.0] * 5 + [2.0] * 3
    at_once = History(stream.path)
    at_once.read()
    frame = metrics_frame(stream.path)
    for found in (history, at_once):
        assert found.metrics["loss"].x.tolist() == frame.index.tolist()
        assert found.metrics["loss"].y.tolist() == frame["loss"].tolist()


def test_a_loss_that_diverges_is_read(stream: Appender) -> None:
    """NaN and infinity come as text and are kept as what they are; a chart leaves them out."""
    stream.append([{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": math.inf}])
    history = History(stream.path)
    history.read()
    points = history.metrics["loss"]
    assert np.isnan(points.y[1])
    assert np.isposinf(points.y[2])
    x, y = thinned(points.x, points.y, 100)
    assert (x.tolist(), y.tolist()) == ([1], [1.0])


def test_steps_in_any_order() -> None:
    """Points come in the order of their steps, one for each step, the last one logged."""
    points = Points()
    assert points.extend(np.array([1.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    assert not points.extend(np.array([1.0, 5.0]), np.array([9.0, 5.0]))
    assert points.x.tolist() == [1, 2, 5]
    assert points.y.tolist() == [9, 3, 5]


def test_thinning_keeps_every_peak() -> None:
    """Of a hundred thousand points, a thousand are left; a spike of one point is among them."""
    x = np.arange(100_000.0)
    y = np.sin(x / 9000)
    y[54_321] = 40.0
    thin_x, thin_y = thinned(x, y, 1000)
    assert len(thin_x) <= 1000
    assert thin_y.max() == 40.0
    assert thin_x[thin_y.argmax()] == 54_321
    assert (thin_x[0], thin_x[-1]) == (0, 99_999)


def test_a_window_has_its_neighbours() -> None:
    """A zoomed line goes on to the edges of the chart."""
    points = Points()
    points.extend(np.arange(100.0), np.arange(100.0))
    assert points.x[points.between(10.5, 12.5)].tolist() == [10, 11, 12, 13]
    assert points.x[points.between(-5, 200)].tolist() == list(range(100))


def test_a_file_that_was_replaced_is_read_anew(stream: Appender) -> None:
    """A stream that has become shorter is another one: deleted, and made again under the same id."""
    stream.append(lines(1, 50, loss=1.0))
    history = History(stream.path)
    history.read()
    stream.path.write_bytes(b'{"attempt":1,"step":1,"loss":7}\n')
    history.read()
    assert history.metrics["loss"].y.tolist() == [7.0]


def write_lines(path: Path, count: int, *, spike_at: int) -> None:
    """A stream of so many lines, flat but for one point."""
    line = '{"attempt":1,"epoch":1,"step":STEP,"time":1.0,"loss":LOSS}\n'
    lines = (line.replace("STEP", str(n)).replace("LOSS", "9.0" if n == spike_at else "1.0") for n in range(count))
    path.write_text("".join(lines))


def test_a_long_stream_is_sampled_first_and_then_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once there is a sample from first to last; after some calls every point is there, what came since too."""
    monkeypatch.setattr(series, "SAMPLED_FROM_BYTES", 100_000)
    monkeypatch.setattr(series, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(series, "SAMPLES", 10)
    monkeypatch.setattr(series, "CATCH_UP_S", 0.0)
    path = tmp_path / "metrics.jsonl"
    write_lines(path, 20_000, spike_at=7_003)
    history = History(path)
    assert history.read()
    assert not history.complete
    points = history.metrics["loss"]
    assert (points.x[0], points.x[-1]) == (0, 19_999)
    assert 500 < points.count < 1_000
    assert points.y.max() == 1.0, "the sample has missed the spike; else this shows nothing"
    generation = history.generation
    assert not history.read(), "nothing new yet"
    with path.open("a") as file:
        file.write('{"attempt":1,"epoch":1,"step":20000,"time":1.0,"loss":2.0}\n')
    assert history.read()
    assert history.metrics["loss"].x[-1] == 20_000
    monkeypatch.setattr(series, "CATCH_UP_S", 60.0)
    assert history.read()
    assert history.complete
    assert history.generation > generation
    points = history.metrics["loss"]
    assert points.x.tolist() == list(range(20_001))
    assert (points.y[7_003], points.y[-1]) == (9.0, 2.0)


def test_a_metric_is_thinned_in_memory_and_keeps_its_peaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the lowest and highest of neighbours stay, in order, and the last point as it is."""
    monkeypatch.setattr(series, "MOST_POINTS", 1_000)
    path = tmp_path / "metrics.jsonl"
    write_lines(path, 10_001, spike_at=7_003)
    history = History(path)
    history.read()
    points = history.metrics["loss"]
    assert 500 <= points.count <= 1_000
    assert np.all(np.diff(points.x) > 0)
    assert points.x[-1] == 10_000
    assert points.x[points.y.argmax()] == 7_003
    assert points.y.max() == 9.0
    assert history.generation > 0


@pytest.mark.parametrize(
    "values", [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [1.0] * 4, [np.nan] * 4, [np.nan, 5.0, np.nan, 0.0]]
)
def test_of_four_points_two_stay(values: list[float]) -> None:
    """The extremes where there are any, always two, in the order of their steps."""
    points = Points()
    points.extend(np.arange(5.0), np.array([*values, 7.0]))
    points.thin()
    assert points.count == 3
    assert np.all(np.diff(points.x) > 0)
    assert points.y[-1] == 7.0
    finite = [value for value in values if np.isfinite(value)]
    if finite:
        assert {min(finite), max(finite)} <= set(points.y.tolist())
