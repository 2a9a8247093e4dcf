"""From a folder of DICOM files to a cohort: scan, geometry, choice of series, volumes, planes, store.

``ingest`` makes the cohort of a study at a site and reports on every file; ``open_cohort`` opens it.
"""

from client.ingest.build import ingest
from client.ingest.cohort import Cohort, open_cohort
from client.ingest.report import IngestReport

__all__ = ["Cohort", "IngestReport", "ingest", "open_cohort"]
