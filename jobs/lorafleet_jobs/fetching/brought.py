"""Subjects whose photographs lie in a zip file or at an address get a folder. Knows subjects; refuses to know jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorafleet.errors import DataError
from lorafleet_jobs.dataset.subjects import Subject
from lorafleet_jobs.fetching.remote_folder import fetch, scheme_of
from lorafleet_jobs.fetching.zip_file import unpack


def brought(subjects: Sequence[Subject], kept: Path) -> list[Subject]:
    """The subjects, each with a folder on this machine: under `kept` for those that come from elsewhere.

    A subject whose photographs cannot be had says why.
    """
    return [_brought(subject, kept) for subject in subjects]


def _brought(subject: Subject, kept: Path) -> Subject:
    folder = subject.folder
    try:
        if scheme_of(subject.written) is not None:
            return replace(subject, folder=fetch(subject.written, kept), fetched=True)
        if folder is not None and folder.suffix.lower() == ".zip" and folder.is_file():
            return replace(subject, folder=unpack(folder, subject.written, kept), fetched=True)
    except DataError as problem:
        return replace(subject, out_of_reach=str(problem))
    return subject
