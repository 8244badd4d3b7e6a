"""`priors`: which priors there are, and what each is for."""

from __future__ import annotations

import json

import pytest
from small_prior import small_prior
from whole_cases import small_coarse

import medidiff.cli as cli
from medidiff.io.files.names import safe_label
from medidiff.prior import BUNDLED, Prior, list_priors
from medidiff.prior.coarse import WHOLE, CoarseCard
from tests.cli_cases import document, refused


@pytest.fixture
def folder(tmp_path):
    """A folder with one prior that can be used."""
    small_prior().save(tmp_path / "own")
    return tmp_path / "own"


def test_every_bundled_prior_is_listed_with_what_its_card_says(capsys):
    told = {each["prior"]: each for each in document(["priors"], capsys)["priors"]}
    fine = {path.stem for path in BUNDLED.glob("*.safetensors")}
    assert set(told) == fine | {path.stem for path in WHOLE.glob("*.json")}
    for name in fine:
        each = told[name]
        card, prior = json.loads((BUNDLED / f"{name}.json").read_text(encoding="utf-8")), Prior.load(name)
        told_of = ("modality", "contrasts", "summary", "intended_use", "limits", "licence", "noise", "weights_sha256")
        assert {key: each[key] for key in told_of} == {key: card[key] for key in told_of}
        assert each["weights"] == sum(weight.numel() for weight in prior.denoiser.state_dict().values())
        assert each["size_bytes"] == (BUNDLED / f"{name}.safetensors").stat().st_size
        assert (each["bundled"], each["problem"]) == (True, "")


def test_a_coarse_prior_is_listed_with_what_may_be_asked(folder, capsys):
    small_coarse().save(folder)
    told = {each["prior"]: each for each in document(["priors", "--folder", str(folder)], capsys)["priors"]}[
        "tiny-coarse.json"
    ]
    assert (told["ages"], told["sexes"], told["heads"], told["problem"]) == ([20.0, 60.0], ["F", "M"], 3, "")
    assert cli.main(["priors", "--folder", str(folder)]) == 0
    assert "T1w, 20 to 60 years, F or M" in capsys.readouterr().out
    weights = folder / "tiny-coarse.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    told = {each["prior"]: each for each in document(["priors", "--folder", str(folder)], capsys)["priors"]}[
        "tiny-coarse.json"
    ]
    assert "E-WEIGHTS" in told["problem"]


def test_the_text_says_name_use_range_and_limits(capsys):
    assert cli.main(["priors"]) == 0
    shown = capsys.readouterr().out
    for prior in list_priors():
        assert prior.card is not None
        for part in (prior.file.stem, prior.card.licence, prior.card.intended_use, *prior.card.limits, "can be used"):
            assert part in shown
        if isinstance(prior.card, CoarseCard):
            assert ", ".join(prior.card.vocabulary.contrasts) in shown
            row = next(line for line in shown.splitlines() if line.startswith(f"{prior.file.stem} "))
            assert row.rstrip().endswith("draws heads, restores nothing")
        else:
            assert f"{100 * prior.card.noise[0]:g} to {100 * prior.card.noise[1]:g} %" in shown


def test_public_data_is_named_where_a_card_hides_its_folder_and_other_folders_stay_hidden(folder, capsys):
    private = "{subject}/a.nii.gz (not public)"
    card = json.loads((folder / "tiny.json").read_text(encoding="utf-8"))
    hidden = safe_label("Doe^Jane 1970")
    card["sources"] = [f"{hidden}/{private}", f"{safe_label('ms-open')}/mni-x/{private}"]
    (folder / "tiny.json").write_text(json.dumps(card), encoding="utf-8")
    told = {each["prior"]: each["sources"] for each in document(["priors", "--folder", folder], capsys)["priors"]}
    assert told["tiny.json"] == [f"{hidden}/{private}", f"ms-open/mni-x/{private}"]
    assert told["fine-t1"][2] == "ms-open/mni/{subject}/T1.nii.gz (CC-BY, Lesjak et al. 2018)"
    for words in (["priors"], ["prior", "show", "fine-t1"]):
        assert cli.main(words) == 0
        shown = capsys.readouterr().out
        assert "ms-open/mni/{subject}/FLAIR.nii.gz" in shown
        assert "file-" not in shown


def test_the_noise_of_a_ct_prior_is_a_share_of_its_span(tmp_path, capsys):
    small_prior("CT").save(tmp_path)
    told = document(["priors", "--folder", tmp_path], capsys)["priors"]
    fine = [each for each in told if "noise" in each]
    assert len(fine) == len(told) - len(list(WHOLE.glob("*.json")))
    shares, modalities = ([each[name] for each in fine] for name in ("noise_is_a_share_of", "modality"))
    named = {"CT": "2048 HU", "MR": "the tissue maximum"}
    assert shares == [named[modality] for modality in modalities]
    assert set(modalities) == named.keys()


def test_a_folders_priors_follow_the_bundled_ones(folder, capsys):
    bundled = list_priors()
    (own,) = document(["priors", "--folder", folder], capsys)["priors"][len(bundled) :]
    assert (own["prior"], own["bundled"], own["problem"]) == ("tiny.json", False, "")
    assert len(list_priors(folder)) == len(bundled) + 1
    assert Prior.load(own["file"]).card.name == "tiny"


def test_a_prior_that_cannot_be_used_is_listed_with_its_problem(folder, capsys):
    for name in ("cut", "cardless", "odd"):
        for ending in (".json", ".safetensors"):
            (folder / f"{name}{ending}").write_bytes((folder / f"tiny{ending}").read_bytes())
    weights = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(weights[:-1])
    (folder / "cardless.json").unlink()
    (folder / "odd.json").write_text("{}", encoding="utf-8")
    listed = list_priors(folder)
    found = {each.file.stem: each for each in listed if not each.bundled}
    assert len(found) == sum(not each.bundled for each in listed)
    for name, code in {"cut": "E-WEIGHTS", "cardless": "E-PRIOR", "odd": "E-CARD"}.items():
        assert found[name].problem.startswith(code)
        assert found[name].weights == 0
    assert found["tiny"].problem == ""
    assert found["tiny"].weights > 0
    assert cli.main(["priors", "--folder", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: line.split()[-1] for line in lines[: len(listed) + 1]}
    assert (states["cut.json"], states["cardless.json"], states["tiny.json"]) == ("E-WEIGHTS", "E-PRIOR", "used")
    assert sum("problem" in line for line in lines) == 3


def test_a_folder_without_priors_or_none_is_refused(tmp_path, capsys):
    assert "E-PRIOR" in refused(["priors", "--folder", str(tmp_path)], capsys, code=6)
    assert "E-PRIOR" in refused(["priors", "--folder", str(tmp_path / "absent")], capsys, code=6)


def test_a_cards_text_cannot_break_a_line(folder, capsys):
    card = json.loads((folder / "tiny.json").read_text(encoding="utf-8"))
    card["limits"] = ["\x1b[31mred\nFORGED"]
    (folder / "tiny.json").write_text(json.dumps(card), encoding="utf-8")
    assert cli.main(["priors", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\nFORGED" not in shown


def test_nothing_is_written(folder, capsys):
    before = sorted(folder.rglob("*"))
    assert cli.main(["priors", "--folder", str(folder), "--json"]) == 0
    assert sorted(folder.rglob("*")) == before
