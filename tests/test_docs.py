"""Every code block of the README and the documentation does what it says, or is marked and at least could be run."""

import shutil

import pytest

from tests.doc_blocks import PAGES, REASONS, ROOT, Block, blocks_of, check, commands, furnish, inside, misplaced, run

BLOCKS = {page: blocks_of(page.read_text(), str(page.relative_to(ROOT))) for page in PAGES}
RUN = {page: [block for block in blocks if not block.reason] for page, blocks in BLOCKS.items()}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    return furnish(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def folder(furnished, tmp_path):
    """A folder with the scans that the pages name, for one page."""
    return shutil.copytree(furnished, tmp_path / "here", symlinks=True)


@pytest.mark.parametrize(
    "page", [page for page, blocks in RUN.items() if blocks], ids=lambda p: str(p.relative_to(ROOT))
)
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")  # MONAI's LoadImage, on a machine without it
def test_the_blocks_of_a_page_run_from_top_to_bottom(page, folder):
    names = {}
    with inside(folder):
        for block in RUN[page]:
            assert not run(block, names)


def test_blocks_that_are_not_run_could_be():
    faults = [fault for blocks in BLOCKS.values() for block in blocks if block.reason for fault in check(block)]
    assert not faults


def test_every_block_says_its_language_and_every_mark_a_reason_that_counts():
    faults = [f"{page.name}: {fault}" for page in PAGES for fault in misplaced(page.read_text())]
    assert not faults


def test_most_blocks_run_and_each_reason_is_of_use():
    marked = [block.reason for blocks in BLOCKS.values() for block in blocks if block.reason]
    ours = sum(block.language in ("python", "sh") for blocks in BLOCKS.values() for block in blocks)
    assert len(marked) <= 0.6 * ours, "too many blocks are only checked"
    assert set(marked) == set(REASONS)


# --- what the tests above would miss if they were blind -------------------------------------------------------------


def broken(language, text, reason=""):
    return Block("page.md", 1, language, text, reason)


@pytest.mark.parametrize(
    ("language", "text", "told"),
    [
        ("python", "import medidiff as md\nmd.denoise(md.read('no-such.nii.gz'))", "E-"),
        ("python", "import medidiff as md\nmd.denoise_all", "no attribute"),
        ("python", "1 +", "SyntaxError"),
        ("sh", "medidiff info no-such-folder", "exit code 4"),
        ("sh", "medidiff denoise t1.nii.gz clean.nii.gz --no-such-option", "exit code 2"),
        ("sh", "medidiff info study && (", "syntax error"),
        ("sh", "rm -rf /no-such-folder", "mark the block"),
    ],
)
def test_a_broken_block_fails(folder, capsys, language, text, told):
    with inside(folder):
        faults = run(broken(language, text), {})
    assert len(faults) == 1
    assert told in faults[0]


@pytest.mark.parametrize(
    "text",
    [
        "medidiff denoise a b --no-such-option",
        "medidiff frobnicate a",
        "medidiff synthesize brains --count many",
        "sbatch pipelines/slurm/train.sbatch RECIPE OUT --no-such-option",
        "sbatch no-such.sbatch",
        "torchrun --nproc-per-node 2 -m medidiff train RECIPE -o OUT --no-such-option",
        "python validation/denoising.py --no-such-option",
        "python validation/no_such.py",
        "python pipelines/train.py RECIPE OUT --no-such-option",
        "python -m no_such_module",
        "medidiff-bids study out nobody",
        "frobnicate",
        "medidiff info study; (",
        "true && medidiff denoise",
    ],
)
def test_a_block_that_could_not_run_fails(text):
    assert check(broken("sh", text, "needs a PACS"))


@pytest.mark.parametrize(
    "text",
    ["import no_such_module", "from medidiff.restore import no_such_name", "1 +", "import medidiff as md\nmd.no_such"],
)
def test_python_that_could_not_run_fails(text):
    assert check(broken("python", text, "takes minutes or hours"))


@pytest.mark.parametrize(
    "text",
    [
        "```\nmedidiff info\n```\n",
        "```console\n$ medidiff info\n```\n",
        "<!-- not run: too lazy -->\n```sh\nmedidiff info\n```\n",
        "<!-- not run: needs a PACS -->\n\n```sh\nmedidiff info\n```\n",
        "- one\n  ```sh\n  medidiff info\n  ```\n",
        "```sh\nmedidiff info\n",
    ],
)
def test_a_block_without_language_or_with_an_odd_mark_is_found(text):
    assert misplaced(text)
    assert not misplaced("text\n\n<!-- not run: needs a PACS -->\n```sh\nmedidiff info\n```\n\n```text\na\n```\n")


def test_commands_are_told_apart_as_the_shell_does():
    text = "a 'b c' # not this\n\nd e=1 && f|g ; h\\\n i\n# nor this\n"
    assert list(commands(text)) == [["a", "b c"], ["d", "e=1"], ["f"], ["g"], ["h", "i"]]
