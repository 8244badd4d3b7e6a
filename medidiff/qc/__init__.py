"""Quality reports of restored scans: a page for each case and one for a whole cohort, each a single HTML file.

`case_report` measures a result against the scan that it was made from and shows both; `cohort_page` lists cases, and is
sorted and filtered where it is read. `medidiff.report` makes pictures (PNG) of results for papers and documents; these
pages are for a person who goes through results. Both cut, window and turn slices by `medidiff.views`.
"""

from medidiff.qc.case import CaseReport, case_report
from medidiff.qc.checks import Check
from medidiff.qc.cohort import Case, cohort_page
from medidiff.qc.page import write_page
from medidiff.qc.runs import cases_of

__all__ = ["Case", "CaseReport", "Check", "case_report", "cases_of", "cohort_page", "write_page"]
