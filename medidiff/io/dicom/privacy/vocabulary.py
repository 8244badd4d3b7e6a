"""Words that may stand in a de-identified header: DICOM's own terms, and makers' names for machines and methods.

Free text cannot be cleaned by looking for names in it; it can be cleaned by letting through nothing but known technical
words. A word that is missing here costs a technical detail, never somebody's privacy.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["known_code", "technical", "word"]

_DICOM = """
    ml g s kg cm cm2 bq mbq kbq propcnts propcps 1cm conc umolmin umolminml stddev
    original derived primary secondary axial localizer other mixed none yes no u l r b unknown reformatted average
    max min minip maxip projection mpr resampled volume monochrome monochrome1 monochrome2 color rgb ybr palette
    full 422 420 partial ict rct identity inverse int float magnitude phase real imaginary complex static dynamic
    gated tomo whole body wholebody image reprojection emission transmission bqml bqcc cnts gml sul suv bw lbm bsa
    ibw cm2ml prcnt cps start admin decy dtim atten scat dcal motn norm nrgy log dead time rand dlyd sing hu us od
    mgml pct ed edw hu_mod um mgcm2 ms hz mm m1 m2 t1 t2 t2star r1 r2 rho pd adc fa dwi swi asl bold perfusion
    diffusion isotropic anisotropic directional bmatrix tensor flow velocity encoded fluid attenuated proton density
    stir tagging angio tof susceptibility weighted inversion recovery spin gradient echo gre se ir gr ep rm sk mtc
    ss trss sp mp osp fs fc sfs pfp per rg cg ppg rb rectilinear spiral radial segmented 2d 3d row col column cw ccw
    cc head neck brain skull face iec first level normal field rf multicoil multi coil surface extremity birdcage
    quadrature body chest abdomen pelvis spine cspine tspine lspine sspine knee foot ankle hand wrist elbow shoulder
    hip heart liver kidney prostate breast lung thorax extremities leg arm hfs hfp ffs ffp hfdr hfdl ffdr ffdl lfp
    lfs rfp rfs recumbent erect supine prone ct mr pt nm cr dx us xa rf mg sc ot seg rtstruct rtdose rtplan rtimage
    reg iso 10918 14495 15444 ir 192 100 6 2022 iso_ir modified removed modality fixed free run ecg trigger
    triggered respiratory retro retrospective prospective breathhold cardiac binary fractional probability occupancy
    automatic semiautomatic manual closed_planar point open_planar dose physical effective gy relative plan beam
    fraction standard smart prep bolus contrast oral iv post pre delayed early late arterial venous portal phs
    helical sequenced stationary constant angle xray cone wedge flat shape linear sigmoid linear_exact rescale slope
    intercept position positions stack temporal plane dimension geometry distortion corrected uncorrected filtered
    edge smooth enhanced processed calculated fused subtracted lossy lossless filter collimator table detector anode
    tube energy mono monoenergetic virtual single dual source low high medium very ultra extra fast turbo long short
    large small medium anterior posterior superior inferior left right head_first slice slices interleaved ascending
    descending parallel grappa sense smash other_coil anatomic functional reference ratio map sum difference std
    deviation mean median t_test z_score addition subtraction organ ptv ctv gtv external avoidance eye planned frame
"""
_MAKERS = """
    siemens healthineers healthcare ge medical systems system philips toshiba canon hitachi corporation fujifilm
    fuji hyperfine research united imaging uih neusoft shimadzu mindray bruker esaote agfa carestream hologic
    samsung neurologica imaging inc gmbh ag co ltd corp llc acme unspecified skyra prisma fit verio aera vida avanto
    triotim trio symphony espree sola lumina magnetom terra biograph mct vision somatom definition sensation force
    flash drive edge emotion spirit scope go as plus x cite naeotom alpha signa discovery optima architect premier
    artist pioneer hd hdx hdxt excite revolution lightspeed brightspeed vct apex frontier maxima achieva ingenia
    intera ambition elition panorama brilliance ict ingenuity iqon vereos gemini tf aquilion one prime genesis
    lightning vantage titan galan elan orian centurian echelon oasis aperto scenaria swoop omega umr uct upmr upet
    xt syngo numaris release hd_ex
"""
_METHODS = """
    m p i nd dis2d dis3d dis fm mfsplit sh fil so norm prescan mag ffe tse tfe epi ir_r ir_m se_m ffe_m m_se m_ffe
    m_ir csa mosaic mosaics mpr mnip mip moco tracew trace average_dc colfa fa tensor_b0 eadc pha phs map som som5
    som7 mon seq spi sct vmi w gems fast filt hx snap fsa ph vasc_gems edr_gems fast_gems snp acc_gems tr sat pfp
    fsat wet fatsat water fat inphase outphase in out opposed ideal dixon flex lava mprage spgr fspgr efgre3d fgre
    ssfp fiesta trufi ciss dess vibe haste blade space flair dir mp2rage propeller ssfse fse memp cube bravo vista
    mffe tfl tfl3d fl fl2d fl3d tse2d tse3d spc spcir spcr spc3d tir tir2d epfid ep2d epse ep b0 b1 qfl pc pc3d tfi
    fi fisp h16ns ns ag rr 2d1 3d1 rafo standard bone boneplus lung soft detail chest smooth sharp ultra fc b c d e
    yb qr br hr asir iter fbp wfbp recon deconvolution osem psf tof vphd vpfx vpfxs qcfx uhd trues ordered subsets
    iterations subset iteration measured attenuation ctac scatter randoms delayed model based convolution
    subtraction gaussian allpass butterworth hann bowtie wedge_0 tin aluminum aluminium copper lead molybdenum
    rhodium silver tungsten flat_plate strip butterfly fdg fluorodeoxyglucose f18 ga68 c11 n13 o15 rb82 zr89 cu64
    tc99m iohexol iopamidol gadolinium gadoterate gadobutrol air iodine barium saline
"""
_WORDS = frozenset(f"{_DICOM} {_MAKERS} {_METHODS}".upper().split())
_NUMBERED = re.compile(r"\d{1,3}|[A-Z]{1,2}\d{1,3}[A-Z]?|\d{1,3}[A-Z]{1,2}")  # FC30, B31f, E11, 750W, 1H
_PLACE = re.compile(r"[^A-Z0-9]+")
_SCHEMES = frozenset({"DCM", "SCT", "UCUM", "RADLEX", "FMA", "NCIt", "LN"})


def technical(text: str) -> bool:
    """Whether a value is made of known technical words, short type numbers and nothing else.

    Example:
        >>> technical("SOMATOM Definition AS"), technical("*tfl3d1_16ns"), technical("Jane Doe"), technical("4711007")
        (True, False, False, False)
    """
    upper = text.upper()
    if not text.isascii() or not text.isprintable() or len(text) > 64:
        return False
    parts = [part for part in _PLACE.split(upper) if part]
    if upper.strip(" *#") in _WORDS:
        return True
    words = [part for part in parts if not _NUMBERED.fullmatch(part)]
    return len(parts) - len(words) <= 2 and all(word in _WORDS for word in words)


def known_code(scheme: str, value: str) -> tuple[str, str] | None:
    """The code of a standard terminology as (scheme, its meaning in the Standard), or None when it is in none.

    Args:
        scheme: e.g. ``"SCT"``.
        value: e.g. ``"12738006"``.
    """
    from pydicom.sr._concepts_dict import concepts  # the only list of codes that pydicom has

    if scheme not in _SCHEMES:
        return None
    codes: Any = concepts.get(scheme, {})
    meaning = next((entry[value][0] for entry in codes.values() if value in entry), None)
    return None if meaning is None else (scheme, str(meaning)[:64])


def word(text: str, *, other: str = "") -> str:
    """A value that may be shown, `other` for one that may not; anybody can write a name where a word belongs."""
    return text if technical(text) or not text else other
