"""What a browser shows of MLflow's own pages: pictures that have come, beside the names they belong to."""

import shutil

import pytest
from own_lane import jobs_of, lane

import review_pages
from lorafleet.tracking.pages import page_of
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import open_store, store_url
from lorafleet_jobs.submission.mlflow_runs import close_runs


@pytest.mark.slow
@pytest.mark.skipif(
    review_pages.chromium() is None or shutil.which("chromedriver") is None,
    reason="Chromium is not installed (Debian: apt-get install chromium chromium-driver)",
)
def test_pictures_come_first_on_the_pages_of_runs_and_of_a_version(home, tracking, recorded, monkeypatch):
    submission = recorded(home, "seen", "cup", "jug")
    lane(home, tracking, JobQueue(store_url(home), submission))
    close_runs(open_store(home), tracking, submission)
    version = jobs_of(home, submission)["cup"].version
    monkeypatch.setenv("LORAFLEET_HOME", str(home.root))
    with review_pages.pages_served() as server, review_pages.browsing() as browser:
        taken = review_pages.take(browser, server, submission)
        assert set(taken) == {"review-runs", "review-prompts", "review-run", "review-version"}
        browser.open(server + page_of(home.tracking_uri, submission), "cup", "jug", "1 TOK/adapter", "1 TOK/base")
        assert [one for one in browser.pictures() if "TOK" in one and "adapter" in one], (
            "in the tile, and not below its end"
        )
        browser.open(server + page_of(home.tracking_uri, f"cup@{version}"), f"--adapter cup@{version}", "Scores")
        assert [one for one in browser.pictures() if "preview.png" in one]
        assert "written by lorafleet" not in browser.text(), "the mark between what is ours and a person's is hidden"
