"""Why the kernel says no: checks and trials, one small file a family; each returns findings, none prints.

    finding.py    what a check found, as data
    check.py      a check, and what checks share
    catalogue.py  all of them, in the order in which they run
    examine.py    runs them
    summary.py    what works, in sentences

A cause is told once: a check that failed says what it `blocks`, and what needs that is "could not tell, because of
CT-…", not failed. To add a check: a function in its family's file, a line in that file's CHECKS, a row in
docs/troubleshooting.md, and a fault in tests/kernel/test_doctor_*.py that it alone names.
"""

from chadthrottle.doctor.examine import examine
from chadthrottle.doctor.finding import Finding, Group, Outcome, Report, Status

__all__ = ["Finding", "Group", "Outcome", "Report", "Status", "examine"]
