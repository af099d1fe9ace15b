"""`lorafleet votes`: files checked and merged, kept on their submission, ranked, and put into words."""

import json

import pytest

from lorafleet.tracking.submissions import SubmissionRecords
from lorafleet_serve.sheet.poll import stored
from lorafleet_serve.sheet.ranking import Compared, rank
from lorafleet_serve.sheet.verdict import remarks, sentence
from lorafleet_serve.sheet.votes import Contestant


def vote(number, left, right, winner, **more):
    sides = {side: {"adapter": name} for side, name in (("left", left), ("right", right))}
    return {"id": f"vote-{number:08d}", **sides, "winner": winner, "prompt": "a dog", "seed": 3, **more}


def beats(winner, loser, times, start=0):
    """`times` votes for one adapter, on either side in turn."""
    return [
        vote(start + i, winner, loser, "left") if i % 2 else vote(start + i, loser, winner, "right")
        for i in range(times)
    ]


@pytest.fixture
def election(reviewed):
    """A submission of its own with three versions of one name; by NAME@VERSION the runs that they are of."""
    name = f"dog-{len(reviewed.parents)}"
    parent = reviewed.submit(name, f"{name}-{len(reviewed.parents):012x}")
    start = 100 * len(reviewed.parents)
    versions = [reviewed.train(parent, name, rank, start + rank) for rank in (1, 2, 3)]
    return parent, {f"{one.name}@{one.version}": one.run_id for one in versions}


@pytest.fixture
def exported(tmp_path, election):
    """exported("a.json", votes) writes a file as the page exports it."""
    parent, adapters = election

    def write(name, votes, **changes):
        document = {
            "format": "lorafleet/votes/v1", "sheet": "dogs", "submissions": [parent], "adapters": adapters,
            "votes": votes,
        }  # fmt: skip
        (tmp_path / name).write_text(json.dumps(document | changes))
        return name

    return write


@pytest.fixture
def counted(lorafleet, capsys):
    def count(*words):
        assert lorafleet("votes", *words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return count


def test_a_winner_comes_with_the_command_that_promotes_it(election, exported, lorafleet, capsys, reviewed):
    first, second, third = election[1]
    file = exported("a.json", beats(second, first, 12) + beats(first, third, 12, 50) + beats(second, third, 12, 80))
    assert lorafleet("votes", file) == 0
    said = capsys.readouterr()
    assert f"To make it champion: lorafleet adapters promote {second}" in said.out
    assert [line.split()[1] for line in said.out.splitlines()[1:4]] == [second, first, third]
    assert "36 new votes" in said.err
    name, _, number = second.partition("@")
    reviewed.tracking.promote(name, int(number))
    assert lorafleet("votes", file) == 0
    assert "It is champion already" in capsys.readouterr().out


def test_importing_twice_changes_nothing_and_a_longer_export_adds_what_is_new(election, exported, counted, reviewed):
    first, second, _ = election[1]
    records = SubmissionRecords(reviewed.tracking.uri)
    once = counted(exported("a.json", beats(second, first, 4)))
    assert (once["added"], once["votes"]) == (4, 4)
    files = records.kept(election[0], "votes")
    again = counted("a.json")
    assert (again["added"], again["votes"], again["rankings"]) == (0, 4, once["rankings"])
    assert records.kept(election[0], "votes") == files
    more = counted(exported("b.json", beats(second, first, 7)), "a.json")
    assert (more["added"], more["votes"]) == (3, 7)
    assert len(stored(records, election[0])) == 7
    assert counted(once["submissions"][0])["rankings"] == more["rankings"], "the submission alone says the same"


def test_votes_stay_when_the_submission_grows(election, exported, counted, reviewed):
    first, second, third = election[1]
    counted(exported("a.json", beats(second, first, 6)))
    new = reviewed.train(election[0], first.partition("@")[0], 8, 9000 + len(reviewed.parents))
    grown = counted(exported("b.json", beats(third, second, 6, 50)))
    assert grown["votes"] == 12
    assert [one["name"] for one in grown["rankings"][0]["standings"]] == [third, second, first]
    assert f"no votes yet on {new.name}@{new.version}" in grown["remarks"]


def test_a_deleted_version_s_votes_are_kept_and_not_counted(election, exported, counted, reviewed):
    first, second, third = election[1]
    counted(exported("a.json", beats(second, first, 6) + beats(second, third, 3, 50)))
    name, _, number = third.partition("@")
    reviewed.tracking.client.delete_model_version(name, number)
    after = counted(name)
    assert after["votes"] == 6
    assert f"votes on {third} are not counted: no such version is registered any more" in after["remarks"]


@pytest.mark.parametrize(("change", "code", "says"), [
    (lambda runs: {"votes": [vote(1, "ghost@4", "rex@1", "left")]}, 3, "has votes on ghost@4, not registered here"),
    (lambda runs: {"adapters": dict.fromkeys(runs, "f" * 32)}, 3, "here another adapter has that name and version"),
    (lambda runs: {"submissions": ["f" * 32]}, 3, "does not know run"),
    (lambda runs: {"format": "something"}, 2, "is no file of votes"),
    (lambda runs: {"votes": [vote(1, *[next(iter(runs))] * 2, "left")]}, 2, "is compared with itself"),
    (lambda runs: {"votes": [vote(1, *[*runs][:2], "left"), vote(1, *[*runs][:2], "right")]}, 2,
     "vote-00000001 comes with two different answers"),
    (lambda runs: {"votes": [vote(1, *[*runs][:2], "middle")]}, 2, "middle"),
], ids=["unknown", "other", "run", "format", "itself", "twice", "answer"])  # fmt: skip
def test_a_file_that_cannot_be_right_is_refused_and_adds_nothing(
    election, exported, lorafleet, reviewed, capsys, change, code, says
):
    first, second, _ = election[1]
    file = exported("a.json", **({"votes": beats(second, first, 2)} | change(election[1])))
    assert lorafleet("votes", file) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not SubmissionRecords(reviewed.tracking.uri).kept(election[0], "votes")


def test_what_is_no_file_and_no_submission_is_said(lorafleet, tmp_path, capsys):
    assert lorafleet("votes", "nothing.json") == 3
    assert "neither a file nor a submission" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("{")
    assert lorafleet("votes", "x.json") == 2
    assert "is no JSON" in capsys.readouterr().err


def test_no_votes_and_few_votes_are_said(election, exported, lorafleet, capsys):
    assert lorafleet("votes", exported("a.json", [])) == 0
    assert "there are no votes yet" in capsys.readouterr().err
    first, second, _ = election[1]
    assert lorafleet("votes", exported("b.json", beats(second, first, 3))) == 0
    said = capsys.readouterr().out
    assert f"{second} leads {first}" in said
    assert "3 more votes are needed" in said
    assert "that may be chance" in said


def test_votes_on_adapters_of_no_submission_are_counted_and_not_kept(election, exported, counted):
    first, second, _ = election[1]
    alone = counted(exported("a.json", beats(second, first, 8), submissions=[]))
    assert alone["rankings"][0]["winner"] == second
    assert "keep the file" in alone["remarks"][0]


def outcome(*votes):
    names = {name: Contestant(adapter=name.split()[0], settings=" ".join(name.split()[1:]))
             for a, b, _, _ in votes for name in (a, b)}  # fmt: skip
    compared = [Compared(a, b, answer) for a, b, answer, times in votes for _ in range(times)]
    rankings = rank(compared)
    return [sentence(ranking, names, ()) for ranking in rankings], remarks(rankings, names, names)


def test_what_is_said_of_settings_ties_and_separate_groups():
    (said,), _ = outcome(("rex@1 scale 0.7", "rex@1 scale 1", "a", 20))
    assert said.endswith("Use rex@1 with scale 0.7.")
    (said,), _ = outcome(("rex@1", "rex@2", "equal", 9))
    assert said == "rex@1 and rex@2 are even so far; more votes are needed to tell them apart."
    (said,), _ = outcome(("rex@1", "rex@2", "a", 500), ("rex@1", "rex@2", "b", 498))
    assert "thousands of votes" in said
    _, noted = outcome(("rex@1", "rex@2", "a", 3), ("rex@3", "rex@4", "b", 3))
    (line,) = noted
    assert line.startswith("no chain of votes leads from rex@1, rex@2 to rex@4, rex@3, so they are ranked apart")
    _, noted = outcome(("rex@1", "rex@2", "a", 3), ("tom@1", "tom@2", "b", 3))
    assert noted == [], "two subjects were not meant to be compared"
