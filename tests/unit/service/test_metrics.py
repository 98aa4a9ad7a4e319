from __future__ import annotations

import re

from uploader.jobs import STATES, Stats
from uploader.service.metrics import Counter, Histogram, Metrics

SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? [-+0-9.e]+')


def test_every_line_is_one_that_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.blobs.add(registry='a"\\\nb', result="uploaded")
    metrics.wait.observe(0.25)
    text = metrics.text(Stats(dict.fromkeys(STATES, 0), 1.5, 1), 2)
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line.replace("+Inf", "9")), line
    assert text.endswith("\n")


def test_buckets_are_cumulative() -> None:
    histogram = Histogram("h_seconds", "About.", (1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(seconds)
    buckets = [line for line in histogram.lines() if "bucket" in line]
    assert buckets == ['h_seconds_bucket{le="1"} 2', 'h_seconds_bucket{le="2"} 3', 'h_seconds_bucket{le="+Inf"} 4']


def test_fixed_values_are_there_from_the_beginning() -> None:
    lines = list(Counter("c_total", "About.", "outcome", ("good", "bad")).lines())
    assert lines[2:] == ['c_total{outcome="good"} 0', 'c_total{outcome="bad"} 0']


def test_without_the_store_the_page_still_says_so() -> None:
    text = Metrics().text(None, 0)
    assert "uploader_store_up 0" in text
    assert "uploader_jobs{" not in text
