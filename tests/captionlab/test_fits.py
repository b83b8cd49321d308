"""A model or search that does not fit into memory is refused before it starts. One that fits is
never refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from captionlab.plan import plan
from pipeline.captioning.footprint import Footprint, of_captioning, of_decoder
from pipeline.core import capacity, registry
from pipeline.decoders.shared.last_layer import LARGE
from pipeline.decoders.shared.tokenizers import Special
from pipeline.decoding import search
from pipeline.experiment.params import Decoding, load_params
from pipeline.features.features import Features
from pipeline.training.footprint import LOGITS, of_training, step_key
from tests.captioner.test_captioner import BEAM, random_decoder, small_args, small_sizes
from tests.workspace import ROOT

MEMORY = 10**9


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes a changed params.yaml, on a machine with `MEMORY` bytes free."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONLAB_DEVICE", "cpu")
    monkeypatch.setattr(capacity, "free_memory", lambda device: MEMORY)

    def write(**changes: dict[str, Any]) -> None:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, values in changes.items():
            params[section] |= values
        Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    return write


def test_what_fits_is_planned_as_before(quickstart: Any, captionlab: Any) -> None:
    quickstart()
    status, out, err = captionlab("plan")
    assert (status, err) == (0, "")
    assert out.startswith("params.yaml: 3 variants")


def test_a_beam_that_memory_cannot_hold_is_one_line_with_the_largest_that_fits(
    quickstart: Any, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickstart(decode={"beam": 999})
    status, out, err = captionlab("plan")
    assert (status, err.count("\n")) == (2, 1)
    assert out.startswith("params.yaml: 3 variants")  # The plan itself is still printed.
    params = load_params(Path("params.yaml"))
    row = next(row for row in plan(params, Path("none")).rows if row.name == "soft-attention")
    footprint, words = row.model.footprint, row.model.words
    assert footprint
    fitting = [
        width
        for width in range(1, 1000)
        if of_captioning(footprint, words, params.decoding(row.name), width) <= MEMORY
    ]
    assert 1 < len(fitting) < 999
    assert f"captioning {row.name} needs " in err
    assert f"free memory is 1.00 GB: decode.beam {fitting[-1]} would fit" in err
    assert err.endswith("; set CAPTIONLAB_OVERSIZE=1 to try anyway\n")
    monkeypatch.setenv("CAPTIONLAB_OVERSIZE", "1")
    status, _, err = captionlab("plan")
    assert status == 0
    assert err.startswith("warning: captioning ")


def test_a_batch_and_a_model_that_memory_cannot_hold_are_told_apart(
    quickstart: Any, captionlab: Any
) -> None:
    quickstart(train={"batch_images": 10_000})
    err = captionlab("plan")[2]
    assert "training soft-attention needs " in err
    assert "would fit; " in err
    assert "train.batch_images 1 does not fit" not in err
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["variants"]["merge"]["args"]["hidden"] = 60_000
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    err = captionlab("plan")[2]
    assert "train.batch_images 1 does not fit either, take a smaller model" in err


def test_a_full_disk_names_the_largest_feature_set(
    quickstart: Any, captionlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickstart()
    monkeypatch.setattr(capacity, "free_disk", lambda path: 1_000_000)
    status, _, err = captionlab("plan")
    assert (status, err.count("\n")) == (2, 1)
    assert "what is still to be made takes " in err
    assert "has 1.00 MB left: free some space; features.scenes-lite0.dtype int8 halves" in err
    (Path("data/raw/scenes")).mkdir(parents=True)
    (Path("data/features/scenes-lite0")).mkdir(parents=True)
    assert "free some space, or take fewer rows" in captionlab("plan")[2]


def test_training_takes_what_its_formula_says() -> None:
    options = load_params(ROOT / "params.yaml").train
    assert options.optimizer != "sgd"
    sgd = options.model_copy(update={"optimizer": "sgd", "momentum": 0.0})
    pushed = sgd.model_copy(update={"momentum": 0.9})
    sizes = [of_training((100, 10), o, 12.0, 50, 7, 8) for o in (options, sgd, pushed)]
    of_step = 8 * 7 + 8 * 12 * 50 * 2
    assert sizes == [4 * (10 + 100 * n + of_step) for n in (5, 3, 4)]


def test_training_holds_no_more_logits_than_the_last_layer_does_at_once() -> None:
    options = load_params(ROOT / "params.yaml").train
    assert LOGITS == LARGE
    few, many = (of_training((0, 0), options, 100.0, 10_000, 0, n) for n in (1, 10_000))
    assert (few, many) == (4 * 2 * 1_000_000, 4 * 2 * LARGE)
    parted = options.model_copy(update={"micro_batch": 3})
    assert [step_key(o) for o in (options, parted)] == [
        ("train.batch_images", options.batch_images),
        ("train.micro_batch", 3),
    ]


@pytest.mark.parametrize("name", registry.names("decoders"))
@pytest.mark.parametrize("width", [1, 4])
def test_a_search_holds_at_least_the_states_that_its_footprint_says(
    name: str, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts, inside the search, the bytes held while it reorders its states in the last step."""
    args = small_args(name, tmp_path)
    decoder, sizes = random_decoder(name, args), small_sizes(name, args)
    found = of_decoder(name, sizes, args, 9)
    assert found.weights == sum(w.numel() * w.element_size() for w in decoder.parameters())
    held: list[int] = []
    follow = search._follow

    def counted(after: Any, *arguments: Any) -> Any:
        state = follow(after, *arguments)
        own = [v for s in (after, state) for k, v in s.items() if k not in decoder.shared]
        tensors = {v.data_ptr(): v.numel() * v.element_size() for v in own}
        held.append(sum(tensors.values()))
        return state

    monkeypatch.setattr(search, "_follow", counted)
    f = Features(torch.rand(2, 9, sizes.grid), torch.rand(2, sizes.pooled))
    never_ends = Special(pad=0, start=1, end=-1, unknown=3)
    search.beam_search(decoder, f, never_ends, width, 6, 0.0)
    state = found.kept + 2 * (found.changed + 5 * found.growth)
    assert 2 * width * state <= held[-1]
    # The `start` of these depends on tensor values, so the footprint counts only the weights.
    if name not in ("blind", "vlm", "vlm_seq2seq"):
        assert 2 * width * state > 0.9 * held[-1]


def test_captioning_takes_what_its_formula_says() -> None:
    decode = Decoding(**{**BEAM, "also": [], "max_tokens": 8})
    footprint = Footprint(weights=1000, kept=10, changed=20, growth=3)
    row = 10 + 2 * (20 + 7 * 3) + 2 * 4 * 50
    assert of_captioning(footprint, 50, decode, 5) == 1000 + 64 * 5 * row
    drawn = decode.model_copy(update={"samples": 100})
    assert of_captioning(footprint, 50, drawn, 100) == 1000 + 100 * row
    assert of_captioning(footprint, 50, drawn, 7) == 1000 + 64 * row
