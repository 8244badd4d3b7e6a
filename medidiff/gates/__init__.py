"""The copy gate: is an invented scan one of the training scans in disguise?

Beside `synthesis` and `export`; the command line joins them::

    index = build_index(training_volumes, held_out=others)      # once, ships beside the prior
    index.save(Path("coarse-t1.index.safetensors"))

    index = Index.load(path)                                    # E-INDEX when it is broken
    require_index(index, override="")                           # E-NOINDEX when there is none and no reason why not
    gate = CopyGate(index)                                      # or CopyGate(index, training_volumes): voxels as well
    verdicts = []
    for case in cases:
        verdict = gate.check(case.image)                        # about a second on one core
        verdicts.append(verdict)                                # verdict.to_mapping() is JSON
        if verdict.passed:
            ...                                                 # export it; everything else is dropped
    report = GateReport.of(gate, verdicts, override="")
    report.require()                                            # E-COPIES: the set must not leave
    report.to_mapping()                                         # for the data set's record

What it sees is a brain-extracted T1w scan of a head's size, in any grid and orientation; anything else "cannot be
judged" and has not passed. `docs/gates.md` has the figures and what it cannot see. No name ever enters an index or a
message: training scans have numbers.
"""

from medidiff.gates.embedding import Embedding
from medidiff.gates.gate import CopyGate, Verdict
from medidiff.gates.index import MEASURES, Index, build_index, hash_of
from medidiff.gates.report import GateReport, require_index

__all__ = [
    "MEASURES",
    "CopyGate",
    "Embedding",
    "GateReport",
    "Index",
    "Verdict",
    "build_index",
    "hash_of",
    "require_index",
]
