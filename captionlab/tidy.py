"""The scores of a workspace as one tidy table, for notebooks and further statistics."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import paths
from pipeline.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.results.result import Result

COLUMNS = ["variant", "corpus", "split", "protocol", "seed", "metric", "value", "low", "high", "sd"]


def results(workspace: str | os.PathLike[str] = ".") -> "pd.DataFrame":
    """Return every score of a workspace, one row each.

    Args:
        workspace: folder of the workspace, which has params.yaml.

    Returns:
        The columns are variant, corpus, split, protocol, seed, metric, value, low, high and sd.
        variant is `most-frequent--CORPUS` for the baseline of a corpus. seed is '' for the row's
        own model, a number for a further training, or `mean` over all trainings. low and high
        bound the 95 % interval over images; they are NaN if there is none. sd is the standard
        deviation over trainings for a mean, else NaN.

    Raises:
        UserError: the folder is no workspace, or nothing in it has been scored.

    Example:
        >>> from captionlab import results
        >>> table = results()
        >>> test = table.query("split == 'test' and metric == 'cider' and protocol == 'standard'")
        >>> test[["variant", "value", "low", "high"]]
                  variant  value    low   high
        0  soft-attention  0.912  0.880  0.944
        1           merge  0.807  0.771  0.843
    """
    import pandas as pd

    rows = [
        {"variant": row.name, "corpus": row.setting.corpus, **line}
        for row in _rows(workspace_of(workspace))
        if row.scores
        for line in row.scores.records()
    ]
    if not rows:
        raise UserError(f"{workspace} has no scores yet: run dvc repro there")
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype(dict.fromkeys(["value", "low", "high", "sd"], float))


def workspace_of(folder: str | os.PathLike[str]) -> Path:
    """Return the folder itself.

    Raises:
        UserError: it is no workspace.
    """
    if not (Path(folder) / "params.yaml").is_file():
        where = "this folder" if os.fspath(folder) == "." else os.fspath(folder)
        raise UserError(
            f"{where} is not a workspace (it has no params.yaml): go to the one that "
            "dvc repro ran in"
        )
    return Path(folder)


def _rows(folder: Path) -> "list[Result]":
    """Return every variant and baseline, the best first."""
    from pipeline.experiment.params import load_params
    from pipeline.results.result import Setting, results_of

    params = load_params(folder / "params.yaml")
    # tables for people describe what a corpus offers; this table does not
    settings = {
        name: Setting(name, one.split, {}, {}, one.language) for name, one in params.corpora.items()
    }
    return results_of(params, settings, folder / paths.SCORES)
