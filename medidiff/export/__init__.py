"""Synthetic data sets that may leave: written case by case, described, marked, and checked.

::

    about = About(title="Invented brains", count=200, seed=7, licence="CC-BY-4.0", method="...", priors=(...,))
    writer = open_data_set("out", "bids", about)        # begins, or goes on with what was begun
    for number in range(about.count):
        if not writer.has(number):                      # what a killed run wrote is not drawn again
            writer.add(draw(number))                    # a `medidiff.case.Case`
    writer.close(report)                                # the gates' report: a mapping with "passed": true

The same cases give the same bytes, in whatever order they come and however often the run was killed: no time, host,
user or path stands in a data set. No more than one case is held at a time. Every file is whole or absent, and every
file carries the synthetic mark. `close` refuses a report that does not say passed (``E-UNGATED``) unless
``without_gates=True``, which the data set then tells. Cases may have any numbers: one that a gate dropped is simply
never added. `verify_data_set` checks a data set of any format; `stored_cases` gives back the cases of one, exactly.
"""

from medidiff.export.about import About
from medidiff.export.formats import FORMATS
from medidiff.export.stored import DataSet, open_stored
from medidiff.export.verify import Problem, Verification, verify_data_set
from medidiff.export.writer import DataSetWriter, open_data_set

__all__ = [
    "FORMATS",
    "About",
    "DataSet",
    "DataSetWriter",
    "Problem",
    "Verification",
    "open_data_set",
    "open_stored",
    "verify_data_set",
]
