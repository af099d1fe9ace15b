"""Many findings of one kind are told as one."""

from lorafleet_jobs.dataset.findings import Finding, finding
from lorafleet_jobs.intake.warning_lines import grouped


def small(name: str, side: int) -> Finding:
    return finding("D004", "warn", f"{name} is {side} x {side}; it will be enlarged to 1024, give a larger one", name)


def test_what_says_the_same_of_many_files_is_told_once_with_their_names() -> None:
    others = [
        finding("D028", "info", "left out as hidden: .a.png; rename what is meant to be trained"),
        finding("D028", "info", "left out as neither images nor captions: notes.md"),
        finding("D004", "warn", "low.png is of another wording", "low.png"),
    ]
    many = [small(f"my photo {n}.png", n) for n in range(400)]
    told = grouped([others[0], *many, *others[1:]])
    assert [one.message for one in told] == [
        others[0].message,
        many[0].message + " (and 399 more of D004: " + ", ".join(f"my photo {n}.png" for n in range(1, 9))
        + " and 391 more; --json tells each)",
        others[1].message,
        others[2].message,
    ]  # fmt: skip


def test_few_of_a_kind_are_told_one_by_one() -> None:
    few = [small(f"{n}.png", 9) for n in range(3)]
    assert grouped(few) == few


def test_findings_about_a_whole_folder_are_never_put_together() -> None:
    several = [finding("D010", "info", "1 of 4 images have no caption") for _ in range(5)]
    assert grouped(several) == several
