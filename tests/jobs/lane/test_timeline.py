"""What a lane spends its time on: recorded as it goes, whole even after a sudden death."""

from itertools import count

from lorafleet_jobs.lane.timeline import Span, Timeline, read_spans


def test_stretches_follow_each_other_and_the_same_kind_goes_on(tmp_path):
    path, ticks = tmp_path / "new" / "lane.jsonl", count(100)
    timeline = Timeline(path, lambda: float(next(ticks)))
    for kind in ("load", "start", "train", "train", "train", "publish", None):
        timeline.begin(kind)
    assert read_spans(path) == [
        Span("load", 100, 101), Span("start", 101, 102), Span("train", 102, 103), Span("publish", 103, 104),
    ]  # fmt: skip
    with path.open("a") as stream:
        stream.write('{"kind": "tra')
    assert len(read_spans(path)) == 4


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    timeline = Timeline(tmp_path / "file" / "lane.jsonl")
    timeline.begin("train")
    timeline.begin(None)
