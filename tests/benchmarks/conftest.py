"""Benchmarks are programs, not tests; that they run is tested in ``test_benchmarks.py``."""

collect_ignore_glob = ["[!t]*.py"]
