"""`dvc exp run -S` on the committed params.yaml, as docs/howto/change-training.md describes it."""

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides

from pipeline.experiment.params import load_params
from tests.workspace import ROOT


def beam_after(folder: Path, override: str) -> int:
    """Return the beam of `merge` in a copy of params.yaml that DVC has changed."""
    file = Path(shutil.copy(ROOT / "params.yaml", folder))
    apply_overrides(str(file), [override])
    return load_params(file).decoding("merge").beam


def test_a_row_without_its_own_beam_gets_one_with_a_plus_alone(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert params["variants"]["merge"]["decode"] == {}
    with pytest.raises(InvalidArgumentError, match="set-param"):
        beam_after(tmp_path, "variants.merge.decode.beam=5")
    assert beam_after(tmp_path, "+variants.merge.decode.beam=5") == 5
    assert beam_after(tmp_path, "++variants.merge.decode.beam=6") == 6
    assert beam_after(tmp_path, "decode.beam=7") == 7
    text = (ROOT / "docs/howto/change-training.md").read_text()
    assert "dvc exp run -S '+variants.merge.decode.beam=5'" in text
