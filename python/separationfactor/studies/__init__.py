"""Studies: what the layers do to models, measured over many settings and seeds, each by one command."""

from separationfactor.studies.framework import Results, Study, StudyError, Trial, run, table
from separationfactor.studies.separation import STUDY as SEPARATION

STUDIES = (SEPARATION,)

__all__ = ["SEPARATION", "STUDIES", "Results", "Study", "StudyError", "Trial", "run", "table"]
