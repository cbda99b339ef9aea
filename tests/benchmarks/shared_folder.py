"""How the files fare with many jobs of many ranks on a shared file system: a simulation, second by second.

``python tests/benchmarks/shared_folder.py`` prints the figures of ``notebooks/shared-folder.md``.  What a job does
per second is counted from the constants of the recorder, not guessed; what a server and its caches do is assumed,
and the assumptions are arguments.
"""

from __future__ import annotations

import argparse
import heapq
import random
from dataclasses import dataclass

from trainkit.files.recorder import HEARTBEAT_S, REFRESH_S, TICK_S

#: Round trips to a file server: one record is a temporary file, its content and its new name.
RECORD_TRIPS = 4  # create, write, close, rename
METRICS_TRIPS = 1  # append; close-to-open consistency flushes it with the next heartbeat
REQUESTS_TRIPS = 1  # ask for the size of requests.jsonl, from the cache while that is young


@dataclass
class Load:
    """What one second asks of the file server, in operations a second."""

    writes: float
    reads: float
    looks: float


def load(
    jobs: int, ranks: int, readers: int, *, attributes_s: float, list_s: float, all_ranks_write: bool
) -> Load:
    """Return the load of running jobs.

    Args:
        jobs: how many run.
        ranks: of each.
        readers: how many dashboards look at all of them.
        attributes_s: for how long a client trusts what it knows of a file (NFS: acregmin, 3 s by default).
        list_s: how often a dashboard looks.
        all_ranks_write: the known-bad variant, in which every rank keeps a record of its own.
    """
    writers = jobs * (ranks if all_ranks_write else 1)
    writes = writers * (RECORD_TRIPS / REFRESH_S + METRICS_TRIPS / TICK_S)
    looks = writers * REQUESTS_TRIPS / max(TICK_S, attributes_s)
    reads = readers * jobs / max(list_s, attributes_s)
    return Load(writes, reads, looks)


def wait_ms(demand_per_s: float, server_per_s: float, *, seed: int = 0, seconds: int = 5) -> float:
    """Return how long an operation waits on average, by playing the arrivals through a queue of 16 servers."""
    rng = random.Random(seed)
    servers = [0.0] * 16
    service_s = len(servers) / server_per_s
    scale = max(1.0, demand_per_s / 20_000)  # the larger, the thinner the sample: a slice of server and demand
    now = waited = 0.0
    served = 0
    free = [0.0] * max(1, round(len(servers) / scale))
    rate = demand_per_s * len(free) / len(servers)
    while now < seconds:
        now += rng.expovariate(rate)
        begins = max(now, heapq.heappop(free))
        heapq.heappush(free, begins + rng.expovariate(1 / service_s))
        waited += begins - now
        served += 1
    return 1000 * waited / served


def stop_delay_s(
    attributes_s: float, *, step_s: float, seed: int = 0, trials: int = 10_000
) -> tuple[float, float]:
    """Return the median and the worst second in a hundred from a stop, asked elsewhere, to the step that ends."""
    rng = random.Random(seed)
    delays = sorted(
        rng.uniform(0, attributes_s)  # the owner's client still believes the old size
        + rng.uniform(0, TICK_S)
        + rng.uniform(0, step_s)
        for _ in range(trials)
    )
    return delays[trials // 2], delays[trials * 99 // 100]


def false_silence(
    attributes_s: float, silence_s: float, *, pause_s: float, seed: int = 0, trials: int = 10_000
) -> float:
    """Return the share of readers that call a living job silent, when its owner's writes pause now and then."""
    rng = random.Random(seed)
    wrong = 0
    for _ in range(trials):
        unseen = HEARTBEAT_S + rng.expovariate(1 / pause_s) + rng.uniform(0, attributes_s)
        wrong += unseen > silence_s
    return wrong / trials


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--server", type=float, default=50_000.0, help="operations that the file server does a second"
    )
    server = parser.parse_args().server
    print(
        f"{'jobs':>6} {'ranks':>6} {'variant':>18} {'writes/s':>10} {'looks/s':>9} {'reads/s':>9} {'wait, ms':>9}"
    )
    for jobs, ranks, bad in [(10, 8, False), (100, 100, False), (1000, 100, False), (1000, 100, True)]:
        each = load(jobs, ranks, readers=20, attributes_s=3.0, list_s=2.0, all_ranks_write=bad)
        demand = each.writes + each.looks + each.reads
        # A server of which more is asked than it does has no average: its queue grows by the second.
        wait = f"{wait_ms(demand, server):9.2f}" if demand < server else "   no end"
        name = "every rank writes" if bad else "rank 0 writes"
        print(
            f"{jobs:>6} {ranks:>6} {name:>18} {each.writes:>10,.0f} {each.looks:>9,.0f} {each.reads:>9,.0f} {wait}"
        )
    for attributes_s in (0.0, 3.0, 60.0):
        median, worst = stop_delay_s(attributes_s, step_s=0.5)
        wrong = false_silence(attributes_s, 30.0, pause_s=1.0)
        print(
            f"attributes kept {attributes_s:>4.0f} s: a stop takes {median:.1f} s (median), {worst:.1f} s "
            f"(1 in 100); called silent though it lives: {wrong:.2%}"
        )


if __name__ == "__main__":
    main()
