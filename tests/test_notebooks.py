"""The notebooks run from top to bottom in a process of their own, without a warning, and show pictures."""

import dataclasses
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pydicom
import pytest

import medidiff as md

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "validation"))
try:
    from notebooks import notebook_of, sources
finally:
    del sys.path[0]

SOURCES = sources()
NAMES = [
    "01_how_diffusion_works",
    "02_denoise_your_scan",
    "03_make_a_synthetic_data_set",
    "04_augment_a_segmenter",
    "05_super_resolve_a_clinical_scan",
    "06_train_a_prior_on_your_scans",
    "07_what_does_the_model_not_know",
]
MOST_CELLS = 15
SAYS = {
    "02_denoise_your_scan": r"Data consistency .* expected: at most .*\n(.*\n)*VERDICT: .*report\.html",
    "03_make_a_synthetic_data_set": r"of their kind\.\nNothing .* of anybody\.\nmay be asked: contrast T1w",
    "04_augment_a_segmenter": r"with less without .*\nseeds of an arm apart ",
    "06_train_a_prior_on_your_scans": r"the bundled fine-t1: [\d,]+ patches",
    "07_what_does_the_model_not_know": (
        r"lesion of 3 mm .* wholly within one slice\n(.*\n)*"
        r"as it is .* no, .*\nwith a lesion .* yes, .*\nwith its unseen part .* no, "
    ),
}
SECONDS_A_CELL = 900  # far above what a cell needs: a limit for what hangs, not a measurement


def executed(source, folder, *, last_again=False, **parameters):
    """The py:percent source as a notebook that ran in `folder`, in a fresh kernel of this Python, in short mode.

    Parameters of the first cell are replaced; `last_again` runs the last code cell a second time.
    """
    path = folder / f"{Path(source).stem}.ipynb"
    notebook = jupytext.read(source)
    first, *_, last = code_cells(notebook)
    for name, value in parameters.items():
        line = f"{name} = {value!r}".replace("\\", r"\\")
        first.source, count = re.subn(rf"^{name}(?:: \S+)? = .*$", line, first.source, flags=re.M)
        assert count == 1, name
    notebook.cells += [nbformat.v4.new_code_cell(last.source)] if last_again else []
    jupytext.write(notebook, path)
    settings = {
        "MEDIDIFF_SHORT": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),  # no kernel of the user's own, nothing written to the home folder
        "IPYTHONDIR": str(folder / "ipython"),
    }
    jupyter_execute = [sys.executable, "-c", "from nbclient.cli import main; main()"]
    options = ["--inplace", "--allow-errors", f"--timeout={SECONDS_A_CELL}", f"--startup_timeout={SECONDS_A_CELL}"]
    subprocess.run([*jupyter_execute, *options, str(path)], env=os.environ | settings, check=True, capture_output=True)
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook, kind):
    return [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == kind]


def pictures(notebook):
    """As images, or in a piece of HTML, as volumes show themselves."""
    shown = outputs(notebook, "display_data") + outputs(notebook, "execute_result")
    plain = [output.data["image/png"] for output in shown if "image/png" in output.data]
    rich = [output.data["text/html"] for output in shown if 'src="data:image/png' in output.data.get("text/html", "")]
    return plain + rich


def faults(notebook):
    """What is wrong with an executed notebook, as a list of sentences; empty when nothing is."""
    found = [f"{error.ename}: {error.evalue}" for error in outputs(notebook, "error")]
    found += [f"written to stderr: {out.text}" for out in outputs(notebook, "stream") if out.name == "stderr"]
    found += ["a cell did not run" for cell in code_cells(notebook) if cell.execution_count is None]
    return found if pictures(notebook) else [*found, "no picture"]


def is_short(notebook):
    return 0 < len(notebook.cells) <= MOST_CELLS


def unlike_its_source(text, source):
    """What keeps a notebook from being its source, and nothing but that; empty when it is."""
    notebook = nbformat.reads(text, as_version=4)
    found = [f"an output in cell {n}" for n, cell in enumerate(code_cells(notebook)) if cell.outputs]
    found += [f"a count in cell {n}" for n, cell in enumerate(code_cells(notebook)) if cell.execution_count is not None]
    return found or ([] if text == notebook_of(source) else ["run: python validation/notebooks.py make"])


def test_there_are_all_notebooks():
    assert [source.stem for source in SOURCES] == NAMES


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_notebook_is_its_source_and_holds_no_output(source):
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert unlike_its_source(text, source) == []
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code_cells(notebook)[0].outputs = [nbformat.v4.new_output("stream", text="a name")]
    assert unlike_its_source(nbformat.writes(notebook), source) == ["an output in cell 0"]
    assert unlike_its_source(text.replace("SHORT", "BRIEF"), source) == ["run: python validation/notebooks.py make"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_it_runs_and_shows_pictures(source, tmp_path):
    notebook = executed(source, tmp_path)
    assert faults(notebook) == []
    assert len(pictures(notebook)) >= 4
    assert re.search(SAYS.get(source.stem, ""), said(notebook))


CLINICAL = SOURCES[NAMES.index("05_super_resolve_a_clinical_scan")]


def said(notebook):
    return "".join(output.text for output in outputs(notebook, "stream"))


@pytest.fixture
def study(tmp_path):
    """A study of two series, of which the second is mirrored from front to back in its voxels' values."""
    folder = md.example_study(tmp_path / "a study")
    for path in sorted((folder / "T1w").iterdir()):
        image = pydicom.dcmread(path)
        for name in ("SeriesInstanceUID", "SOPInstanceUID"):
            image[name].value = image[name].value[:-6] + "9" + image[name].value[-5:]
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesNumber = 2
        image.PixelData = np.ascontiguousarray(image.pixel_array[::-1]).tobytes()
        (folder / "again").mkdir(exist_ok=True)
        image.save_as(folder / "again" / path.name)
    return folder


def test_a_clinical_study_of_several_series_gets_the_result_once_the_user_has_looked(tmp_path, study):
    notebook = executed(CLINICAL, tmp_path, last_again=True, STUDY=str(study), SERIES=2, LOOKED=True)
    assert faults(notebook) == []
    assert "scan 2: MR" in said(notebook)
    assert said(notebook).count("WRITTEN") == 2
    written = sorted((tmp_path / "out" / "clinical").glob("series-*"))  # a second run takes a folder of its own
    assert [folder.name for folder in written] == ["series-1", "series-2"]
    joined = pydicom.dcmread(next(written[0].glob("*.dcm")), stop_before_pixels=True)
    series = {name: pydicom.dcmread(next((study / name).iterdir())) for name in ("T1w", "again")}
    assert joined.StudyInstanceUID == series["again"].StudyInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in joined.SourceImageSequence}
    source = {path: pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in study.rglob("*.dcm")}
    assert referenced <= {uid for path, uid in source.items() if path.parent.name == "again"}


def test_of_several_scans_the_clinical_notebook_says_in_one_line_which_setting_chooses(tmp_path, study):
    first = outputs(executed(CLINICAL, tmp_path, STUDY=str(study)), "error")[0]
    assert len(first.traceback) == 1
    assert re.fullmatch(r"E-MULTISERIES: .* In this notebook --scan N is SERIES = N, .*", first.traceback[0])


def first_error(notebook):
    """What is shown of the error that ends a run; one line."""
    (line,) = outputs(notebook, "error")[0].traceback
    return line


def test_a_scan_that_cannot_be_restored_is_refused_in_one_line_that_names_the_notebooks_setting(tmp_path):
    sample = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
    shifted = sample.with_data(sample.data.astype(np.float32) - sample.data.max())
    (tmp_path / "in").mkdir()
    scan = str(md.write(shifted, tmp_path / "in" / "shifted.nii.gz")[0])
    notebook = executed(SOURCES[NAMES.index("02_denoise_your_scan")], tmp_path, SCAN=scan)
    assert re.fullmatch(r"E-SCALE: .*SCAN, in the first code cell\.", first_error(notebook))
    scan = str(md.write(dataclasses.replace(sample, modality="PT"), tmp_path / "in" / "pet.nii.gz")[0])
    notebook = executed(SOURCES[NAMES.index("02_denoise_your_scan")], tmp_path, SCAN=scan)
    assert re.fullmatch(r"E-MODALITY: .* --prior.* In this notebook .*md\.denoise.*", first_error(notebook))


def test_a_study_that_cannot_be_restored_is_refused_in_one_line_that_names_the_notebooks_setting(tmp_path):
    study = md.example_study(tmp_path / "a study")
    for path in (study / "T1w").iterdir():
        image = pydicom.dcmread(path)
        image.RescaleSlope, image.RescaleIntercept = 1, -10_000
        image.save_as(path)
    assert re.fullmatch(r"E-SCALE: .* SERIES of STUDY, .*", first_error(executed(CLINICAL, tmp_path, STUDY=str(study))))


@pytest.mark.parametrize(("shifted", "code"), [(0, "E-DATA"), (1, "E-SCALE"), (2, "E-SCALE")])
def test_scans_that_cannot_be_trained_or_tested_on_are_refused_in_one_line(shifted, code, tmp_path):
    """Two are too few; of three the second is watched, and the third tests."""
    sample = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
    scans = []
    for number in range(3 if shifted else 2):
        data = sample.data.astype(np.float32) + number - (5000 if number == shifted > 0 else 0)
        scans += map(str, md.write(sample.with_data(data), tmp_path / "in" / f"scan-{number}.nii.gz")[:1])
    notebook = executed(SOURCES[NAMES.index("06_train_a_prior_on_your_scans")], tmp_path, SCANS=scans)
    assert re.fullmatch(rf"{code}: .* In this notebook SCANS .*", first_error(notebook))


def test_missing_slices_are_repaired_by_the_clinical_notebook_where_its_user_says_so(tmp_path):
    study = md.example_study(tmp_path / "a study")
    sorted((study / "T1w").iterdir())[12].unlink()
    first = outputs(executed(CLINICAL, tmp_path, STUDY=str(study)), "error")[0]
    assert re.fullmatch(r"E-GAP: .*--on-gap resample.* a repair an entry of REPAIRS, .*", first.traceback[0])
    again = executed(CLINICAL, tmp_path, STUDY=str(study), REPAIRS={"on_gap": "resample"})
    assert faults(again) == []


def test_as_shipped_the_clinical_notebook_writes_nothing_and_says_what_to_do(tmp_path):
    notebook = executed(CLINICAL, tmp_path)
    assert faults(notebook) == []
    for words in ("DECISION: ", "LOOKED = True in the first code cell", "REHEARSED, nothing was kept: 32 images"):
        assert words in said(notebook)
    left = {path.name for path in (tmp_path / "out" / "clinical").iterdir()}
    assert left == {"study", "added.png", "report.html", "result.png"}


def test_faults_are_noticed(tmp_path):
    source = tmp_path / "broken.py"
    cells = ["1 / 0", "import sys", "print('a warning', file=sys.stderr)", "print(sys.executable)"]
    source.write_text("\n\n".join(f"# %%\n{cell}" for cell in cells) + "\n")
    notebook = executed(source, tmp_path)
    found = faults(notebook)
    assert found == ["ZeroDivisionError: division by zero", "written to stderr: a warning\n", "no picture"]
    assert outputs(notebook, "stream")[-1].text.strip() == sys.executable  # and it was this Python that ran it


def test_a_cell_that_never_ran_is_noticed():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    assert faults(notebook) == ["a cell did not run", "no picture"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_it_has_at_most_fifteen_cells(source):
    notebook = jupytext.read(source)
    assert is_short(notebook)
    notebook.cells += [nbformat.v4.new_markdown_cell("one more")] * MOST_CELLS
    assert not is_short(notebook)
