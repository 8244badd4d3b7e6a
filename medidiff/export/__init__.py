"""Synthetic data sets that may leave: written case by case, described, marked, and checked.

::

    about = About(title="Invented brains", count=200, seed=7, licence="CC-BY-4.0", method="...", priors=(...,))
    writer = open_data_set("out", "bids", about)        # begins, or goes on with what was begun
    for number in range(about.count):
        if not writer.has(number):                      # what a killed run wrote is not drawn again
            writer.add(draw(number))                    # a `medidiff.case.Case`
    writer.close(report)                                # of the gates, a mapping; they hold where "refusal" is ""

The same cases give the same bytes, in whatever order they come and however often the run was killed: no time, host,
user or path stands in a data set. No more than one case is held at a time. Every file is whole or absent, and every
file carries the synthetic mark. `close` refuses gates that do not hold or were not run (``E-UNGATED``) unless
``override="why"``, or the report's own ``"override"``, says why the data set leaves; it then tells that. Cases may have
any numbers: one that a gate dropped is simply never added. `verify_data_set` checks a data set of any format;
``open_stored(folder).cases(numbers)`` gives the cases of one back, exactly.
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
