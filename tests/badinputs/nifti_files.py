"""NIfTI: bytes that are too few, too many, packed, damaged, or something else."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from badinputs import build
from badinputs.case import Case
from badinputs.nifti_content import file, image, truth


def _flip(at: int):
    return lambda content: content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def _named(name: str, content: bytes):
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _members(content: bytes, parts: int = 3) -> bytes:
    size = len(content) // parts + 1
    return b"".join(gzip.compress(content[at : at + size]) for at in range(0, len(content), size))


def _bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    body = packer.compress(image()) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # the same bytes wherever it stands
    return body + block * 200 + packer.flush()


def _dicom(folder: Path) -> Path:
    build.write(folder, build.slices(build.Plan())[:1])
    return (folder / "S000.dcm").rename(folder / "scan.nii")


def _half(folder: Path) -> Path:
    content = bytearray(image())
    content[344:348] = b"ni1\0"
    (folder / "scan.hdr").write_bytes(content[:348])
    return folder / "scan.hdr"


NOISE = np.random.default_rng(5).integers(0, 256, 4000, dtype=np.uint8).tobytes()
GOOD = image()
HUGE = {"dim": [3, 32000, 32000, 32000, 1, 1, 1, 1]}

CASES = (
    Case("plain, cut", file(change=lambda c: c[:-100]), (), "E-TRUNC", says=("scan.nii",)),
    Case("plain, cut by one byte", file(change=lambda c: c[:-1]), (), "E-TRUNC"),
    Case("plain, cut in the header", file(change=lambda c: c[:200]), (), "E-TRUNC"),
    Case("gzip, cut", file("scan.nii.gz", change=lambda c: c[:-300]), (), "E-TRUNC", says=("scan.nii.gz",)),
    Case("gzip, cut in its checksum", file("scan.nii.gz", change=lambda c: c[:-4]), (), "E-TRUNC"),
    Case("gzip, bit flip in the voxels", file("scan.nii.gz", change=_flip(500)), (), "E-CRC|E-TRUNC"),
    Case("gzip, bit flip in the checksum", file("scan.nii.gz", change=_flip(-6)), (), "E-CRC"),
    Case("gzip of several members", _named("scan.nii.gz", _members(GOOD)), (truth(),)),
    Case("gzip named plain", _named("scan.nii", gzip.compress(GOOD)), (truth(),)),
    Case("plain named gzip", _named("scan.nii.gz", GOOD), (truth(),)),
    Case("gzip bomb", _named("scan.nii.gz", _bomb()), (), "E-BOMB"),
    Case("bytes behind the voxels", file(change=lambda c: c + bytes(37)), (truth(),)),
    Case("bytes behind the voxels, gzip", _named("scan.nii.gz", gzip.compress(GOOD + bytes(37))), (truth(),)),
    Case("bytes behind the gzip stream", file("scan.nii.gz", change=lambda c: c + bytes(40)), (truth(),)),
    Case(
        "text behind the gzip stream", file("scan.nii.gz", change=lambda c: c + b"hello, this is no gzip"), (truth(),)
    ),
    Case("header larger than the data", file(edit={"dim": [3, 80, 90, 70, 1, 1, 1, 1]}), (), "E-TRUNC"),
    Case("32000 cubed on a small gzip", file("scan.nii.gz", edit=HUGE), (), "E-SIZE"),
    Case("32000 cubed, plain", file(edit=HUGE), (), "E-SIZE|E-TRUNC"),
    Case(
        "600 cubed on a small gzip",
        file("scan.nii.gz", edit={"dim": [3, 600, 600, 600, 1, 1, 1, 1]}),
        (),
        "E-SIZE|E-TRUNC",
    ),
    Case("bad magic", file(edit={"magic": b"xyz"}), (), "E-FORMAT"),
    Case("random bytes", _named("scan.nii", NOISE), (), "E-FORMAT"),
    Case("random bytes, gzip", _named("scan.nii.gz", gzip.compress(NOISE)), (), "E-FORMAT"),
    Case("empty", _named("scan.nii", b""), (), "E-EMPTY"),
    Case("empty gzip", _named("scan.nii.gz", gzip.compress(b"")), (), "E-EMPTY|E-TRUNC|E-FORMAT"),
    Case("half of a pair", _half, (), "E-PAIR", says=("scan.hdr",)),
    Case("DICOM named .nii", _dicom, (), "E-2D|E-FORMAT"),
    Case("voxels inside the header", file(edit={"vox_offset": 60}), (), "E-HEADER", says=("vox_offset",)),
    Case("voxels at a NaN", file(edit={"vox_offset": np.nan}), (), "E-HEADER"),
    Case("extension", file(extension=b"SECRET comment " * 20), (truth(),)),
    Case("wrong header length", file(change=lambda c: b"\x5d\x01\0\0" + c[4:]), (truth(),)),
    Case("odd name", file("ä [b] (c) 'd'.nii.gz"), (truth(),)),
    Case("cut and huge", file(edit=HUGE, change=lambda c: c[:352]), (), "E-SIZE|E-TRUNC"),
)
