"""The stages of the graph: `python -m stages.X NAME`, as dvc.yaml runs them."""

from pipeline.core import paths
from pipeline.core.stage import OUTPUTS, die_with_dvc

die_with_dvc()  # before a stage imports anything slow: dvc may be killed meanwhile
OUTPUTS += [paths.DATA, paths.MODELS, paths.REPORTS]
