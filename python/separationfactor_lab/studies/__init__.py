"""Studies of the effect of the layers on models, over many settings and seeds.

Each study is one command.
"""

from separationfactor_lab.studies.completion import STUDY as COMPLETION
from separationfactor_lab.studies.expressive import STUDY as EXPRESSIVE
from separationfactor_lab.studies.framework import QUICK_NOTE, Results, Study, StudyError, Trial, run, table
from separationfactor_lab.studies.k_sparse import STUDY as K_SPARSE
from separationfactor_lab.studies.separation import STUDY as SEPARATION

STUDIES = (SEPARATION, K_SPARSE, COMPLETION, EXPRESSIVE)

__all__ = [
    "COMPLETION",
    "EXPRESSIVE",
    "K_SPARSE",
    "QUICK_NOTE",
    "SEPARATION",
    "STUDIES",
    "Results",
    "Study",
    "StudyError",
    "Trial",
    "run",
    "table",
]
