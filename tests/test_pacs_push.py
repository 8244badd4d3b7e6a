"""Pushing to archives that are full, refuse, keep nothing or know it already; series that change while pulled."""

from __future__ import annotations

from collections.abc import Iterator

import pydicom
import pytest
from pynetdicom import evt

from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.pacs import Wanted, open_archive, pull_series, pull_study, push_folder
from medidiff.pacs.answers import Refused
from medidiff.pacs.instances import describe
from tests import pacs_cases
from tests.pacs_cases import (
    HASTY,
    Shelf,
    failing,
    refused,
    scp,
    study_of,
    visible,
)

# pynetdicom leaves the socket of a connection that failed to be collected
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")

files, place = pacs_cases.files, pacs_cases.place


# --- pushing --------------------------------------------------------------------------------------------------------


def _keeps(kept: list, files, status: int = 0x0000):
    """An archive that keeps what is stored and tells of it."""
    from tests.pacs_cases import answers

    def store(event: evt.Event) -> int:
        if status == 0x0000:
            kept.append(event.dataset)
        return status

    def find(event: evt.Event) -> Iterator:
        yield from ((0xFF00, answer) for answer in answers(kept, event.identifier))

    return {evt.EVT_C_STORE: store, evt.EVT_C_FIND: find}


def test_a_folder_pushed_twice_is_stored_once(files):
    kept: list = []
    with scp(handlers=_keeps(kept, files)) as node, open_archive(node) as archive:
        first = push_folder(archive, files[0].parent, patience=HASTY)
        second = push_folder(archive, files[0].parent, patience=HASTY)
    assert (first.sent, first.present) == (5, 0)
    assert (second.sent, second.present) == (0, 5)
    assert len(kept) == 5


@pytest.mark.parametrize(
    ("status", "code"),
    [(0xA700, "E-PACS-FULL"), (0xC000, "E-PACS-STORE"), (0xA900, "E-PACS-STORE"), (0x0124, "E-PACS-LOGIN")],
)
def test_an_archive_that_does_not_take(status, code, files):
    with scp(handlers=_keeps([], files, status)) as node, open_archive(node) as archive:
        refused(code, OutputError, lambda: push_folder(archive, files[0].parent, patience=HASTY))


def test_duplicates_and_remarks_are_no_faults(files):
    kept: list = []
    for status in (0x0111, 0xB000, 0xB006, 0xB007):
        ways = _keeps(kept, files)

        def store(event: evt.Event, status: int = status) -> int:
            kept.append(event.dataset)
            return status

        with scp(handlers=ways | {evt.EVT_C_STORE: store}) as node, open_archive(node) as archive:
            assert push_folder(archive, files[0].parent, patience=HASTY).sent == 5
        kept.clear()


def test_an_archive_that_says_yes_and_keeps_nothing(files):
    ways = _keeps([], files) | {evt.EVT_C_STORE: lambda event: 0x0000}
    with scp(handlers=ways) as node, open_archive(node) as archive:
        refused("E-PACS-UNCONFIRMED", OutputError, lambda: push_folder(archive, files[0].parent, patience=HASTY))


def test_an_archive_that_does_not_know_the_kind(files):
    def only_ct(ae) -> None:
        for context in list(ae.supported_contexts):
            if context.abstract_syntax == "1.2.840.10008.5.1.4.1.1.4":
                ae.remove_supported_context(context.abstract_syntax)

    with scp(handlers=_keeps([], files), configure=only_ct) as node, open_archive(node) as archive:
        refused("E-PACS-UNSUPPORTED", OutputError, lambda: push_folder(archive, files[0].parent, patience=HASTY))


def test_a_push_that_is_cut_goes_on(files):
    shelf, cuts = Shelf(), [0]

    def cut(method: str) -> None:
        if method == "stored":
            cuts[0] += 1
            if cuts[0] % 2 == 0:
                raise InputError("E-PACS-ABORT", "x")

    shelf.trouble = cut
    done = push_folder(shelf, files[0].parent, patience=HASTY)
    assert done.sent == 5
    assert len(shelf.held) == 5


@pytest.mark.parametrize("how", ["refused", "lost"])
def test_a_series_that_the_archive_does_not_take_keeps_no_other_from_being_sent(how, tmp_path):
    files = study_of(tmp_path / "in", series=3, slices=2)
    first = {describe(file, name="x").uid for file in files[:2]}

    class Choosy(Shelf):
        def store(self, instances):
            super().store([each for each in instances if each.uid not in first])
            unwanted = [each for each in instances if each.uid in first]
            return [Refused(each.uid, "0xC000") for each in unwanted] if how == "refused" else []

    shelf = Choosy()
    for _ in range(2):
        with pytest.raises(OutputError, match="1 of 3 series were not taken whole") as caught:
            push_folder(shelf, tmp_path / "in", patience=HASTY)
        assert caught.value.code == {"refused": "E-PACS-STORE", "lost": "E-PACS-UNCONFIRMED"}[how]
        assert len(shelf.held) == 4


@pytest.mark.parametrize("code", ["E-PACS-FULL", "E-PACS-LOGIN"])
def test_an_archive_that_takes_nothing_is_not_asked_for_each_series(code, tmp_path):
    study_of(tmp_path / "in", series=3, slices=1)
    shelf = Shelf()

    def trouble(method: str) -> None:
        if method == "store":
            raise InputError(code, "x")

    shelf.trouble = trouble
    refused(code, OutputError, lambda: push_folder(shelf, tmp_path / "in", patience=HASTY))
    assert shelf.asked.count("store") == 1


def test_damaged_files_stop_a_push_before_it_begins(files, tmp_path):
    for number, file in enumerate(files):
        content = file.read_bytes()
        (tmp_path / f"{number}.dcm").write_bytes(content[:-9] if number == 4 else content)
    shelf = Shelf()
    refused("E-TRUNC", InputError, lambda: push_folder(shelf, tmp_path, patience=HASTY))
    assert shelf.asked == []


def test_what_cannot_be_pushed(files, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    refused("E-NOIMAGES", InputError, lambda: push_folder(Shelf(), tmp_path, patience=HASTY))
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(files[0].read_bytes())
    refused("E-DUPUID", InputError, lambda: push_folder(Shelf(), tmp_path, patience=HASTY))


def test_invented_scans_stay_out_of_archives_unless_asked_for(files, tmp_path):
    ds = pydicom.dcmread(files[0])
    ds.add_new(0x0008001C, "CS", "YES")
    ds.save_as(tmp_path / "a.dcm")
    shelf = Shelf()
    refused("E-SYNTHETIC", SettingsError, lambda: push_folder(shelf, tmp_path, patience=HASTY))
    assert push_folder(shelf, tmp_path, patience=HASTY, synthetic=True).sent == 1


# --- a tree that changes --------------------------------------------------------------------------------------------


def test_a_series_that_grows_meanwhile_comes_whole(files, place, tmp_path):
    shelf = Shelf(files[:3])

    def grow(method: str) -> None:
        if method == "sent" and len(shelf.held) < 5:
            shelf.add(files[len(shelf.held)])

    shelf.trouble = grow
    assert pull_series(shelf, *place, tmp_path, patience=HASTY).instances == 5


def test_instances_that_the_archive_does_not_have_are_not_mixed_with_its_own(files, place, tmp_path):
    pull_series(Shelf(files), *place, tmp_path, patience=HASTY)
    refused("E-EXISTS", OutputError, lambda: pull_series(Shelf(files[:4]), *place, tmp_path, patience=HASTY))


def test_a_series_without_instances(place, tmp_path):
    refused("E-PACS-NONE", InputError, lambda: pull_series(Shelf(), *place, tmp_path, patience=HASTY))


def test_one_series_that_fails_does_not_keep_the_others(tmp_path):
    files = study_of(tmp_path / "in", series=3, slices=2)
    shelf = Shelf(files)
    study = describe(files[0], name="x").study
    shelf.lost = {describe(files[2], name="x").uid}
    pulled = pull_study(shelf, study, tmp_path / "out", wanted=Wanted(study=study), patience=HASTY)
    assert not pulled.complete
    assert len(pulled.series) == 2
    assert [error.code for error in pulled.refused] == ["E-PACS-WARNING"]
    assert len(visible(tmp_path / "out")) == 4


def test_a_full_disk_ends_a_pull(files, place, tmp_path, monkeypatch):
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    refused("E-DISK", OutputError, lambda: pull_series(Shelf(files), *place, tmp_path, patience=HASTY))
    assert visible(tmp_path) == []


def test_faults_that_pass_do_not_reach_the_user(files, place, tmp_path):
    shelf = Shelf(files, failing("E-PACS-BUSY", times=2, method="instances"))
    assert pull_series(shelf, *place, tmp_path, patience=HASTY).instances == 5
