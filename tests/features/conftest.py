"""Makes shards so small that forty pictures fill three."""

import pytest

from pipeline.sources.shared import shards


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PICTURES", 16)
