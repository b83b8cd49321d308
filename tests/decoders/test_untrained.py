"""With 0 epochs, a published model is used as it is, and the graph keeps its shape.

ClipCap's published weights are read by their own names.
"""

import io
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.core.errors import UserError
from pipeline.decoders.shared.contract import Sizes
from pipeline.decoders.shared.model_folder import build_decoder, load_model, read_vocabulary
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.decoding.search import greedy
from pipeline.experiment.params import Training
from pipeline.features.features import Features
from pipeline.report.charts import score_table
from pipeline.report.learning_curves import panels, read_curves, write_figures
from pipeline.results.scores import ScoreTable
from pipeline.tracking.live import Live
from pipeline.training.trainer import COLUMNS, Trainer
from tests.decoders.test_properties import close
from tests.experiment.test_experiments import tiny_published
from tests.tiny_lm import tiny_lm
from tests.training.test_trainer import OPTIONS, trainer
from tests.workspace import ROOT, tiny_params, write_params

TEXTS = ["a red dog runs.", "two cats sit on a mat.", "Mr. Smith"]
DP, WIDTH = 9, 16


# ---- training without a step ----


def test_no_epochs_take_no_step_and_leave_a_history_that_is_a_header(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    t.decoder.published = "somewhere"
    t = Trainer(*_parts(t), Training(**{**OPTIONS, "epochs": 0}), 5, tmp_path / "c.pt", "k")
    before = {name: value.clone() for name, value in t.decoder.state_dict().items()}
    history = t.run()
    assert history.empty
    assert all(torch.equal(before[name], value) for name, value in t.decoder.state_dict().items())
    assert not (tmp_path / "c.pt").exists()


def test_the_header_is_that_of_a_training_without_regularisers(tmp_path: Path) -> None:
    assert list(trainer(tmp_path, "merge", epochs=1).run().columns) == COLUMNS


def test_self_critical_training_may_follow_no_epochs(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    t.decoder.published = "somewhere"
    options = Training(**{**OPTIONS, "epochs": 0, "self_critical_epochs": 2})
    history = Trainer(*_parts(t), options, 5, tmp_path / "c.pt", "k", t.reward).run()
    assert history.epoch.tolist() == [1, 2]
    assert history.train_reward.notna().all()


def test_without_a_published_model_no_epochs_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"^train\.epochs is 0, which uses a published model without training, but this "
        r"decoder loads none: set train\.epochs to 1 or more, [^\n]*$",
    ):
        trainer(tmp_path, epochs=0)
    with pytest.raises(UserError, match=r"^train\.epochs is 0"):
        trainer(tmp_path / "vit", "vit_gpt2", epochs=0)  # its weights are random


def _parts(t: Trainer) -> tuple[Any, ...]:
    return t.decoder, t.tokenizer, t.train_batches, t.validation


def test_an_empty_history_has_no_curve_and_the_others_keep_theirs(tmp_path: Path) -> None:
    pd.DataFrame(columns=COLUMNS).to_csv(tmp_path / "published.csv", index=False)
    row = {**dict.fromkeys(COLUMNS, 0.5), "epoch": 1, "step": 3, "best": 1}
    pd.DataFrame([row]).to_csv(tmp_path / "trained.csv", index=False)
    curves = read_curves({name: tmp_path / f"{name}.csv" for name in ("published", "trained")})
    assert list(curves) == ["trained"]
    write_figures(tmp_path / "figures", curves, score_table([]))
    write_figures(tmp_path / "none", {}, score_table([]))
    assert (
        (tmp_path / "figures/learning_curves.csv")
        .read_text()
        .splitlines()[1]
        .startswith("trained,1,3,0.5")
    )
    assert len(panels(curves)) == 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, str]]:
    """A workspace where every stage but `track` has run on a published captioner.

    Yields:
        the workspace, the captioner's folder, and what `train` printed.
    """
    base = tmp_path_factory.mktemp("untrained")
    folder, said = tiny_published("git", base / "git"), io.StringIO()
    params = tiny_params()
    pictures = {
        "dataset": "scenes",
        "encoder": "pixels",
        "dtype": "float16",
        "keep": "grid",
        "args": {"image_size": 3},
    }
    row = {
        "corpus": "scenes",
        "features": "pictures",
        "decoder": "git",
        "args": {"model": str(folder)},
    }
    row |= {
        "train": {"epochs": 0},
        "decode": {"max_tokens": 12, "beam": 1, "alternatives": 1},
        "protocols": [],
    }
    params["scoring"]["metrics"] = ["bleu"]
    params |= {"features": {"pictures": pictures}, "variants": {"as-it-is": row}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setattr("pipeline.tracking.live.start_live", lambda *_: Live(None))
        write_params(base, params)
        shutil.copy(ROOT / "dvc.yaml", base)
        for stage, name in (
            ("download", "scenes"),
            ("clean", "scenes"),
            ("references", "scenes"),
            ("extract", "pictures"),
        ):
            import_module(f"stages.{stage}").main(name)
        with redirect_stdout(said):
            import_module("stages.train").main("as-it-is")
        for stage, name in (("caption", "as-it-is"), ("score", "as-it-is")):
            import_module(f"stages.{stage}").main(name)
        import_module("stages.compare").main()
        yield base, folder, said.getvalue()


def test_the_train_stage_writes_the_published_weights_and_a_header(
    finished: tuple[Path, Path, str],
) -> None:
    workspace, folder, said = finished
    decoder, tokenizer, config = load_model(workspace / "models/as-it-is")
    theirs = build_decoder("git", Sizes(**config["sizes"]), {"model": str(folder)})
    theirs.load_pretrained(tokenizer)
    assert all(
        torch.equal(value, decoder.state_dict()[name])
        for name, value in theirs.state_dict().items()
    )
    assert (workspace / "data/history/as-it-is.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert said == "0 epochs: as-it-is is used as published\n"
    left = (workspace / "checkpoints/as-it-is").iterdir()
    assert [path.name for path in left] == ["cost.json"]


def test_it_is_captioned_scored_and_compared_like_any_variant(
    finished: tuple[Path, Path, str],
) -> None:
    workspace, _, _ = finished
    table = pd.read_csv(workspace / "data/report/tables/all.csv")
    loss = ScoreTable.read(workspace / "data/scores/as-it-is/scores.csv").value("test", "loss")
    assert loss is not None
    assert loss > 0
    assert "as-it-is" in table.to_string()
    assert (workspace / "data/report/figures/learning_curves.csv").read_text() == "variant\n"
    assert "as-it-is" in (workspace / "data/report/index.html").read_text()


# ---- ClipCap's published weights ----


class PublishedAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        queries = self.to_queries(x).reshape(b, n, self.heads, c // self.heads)
        keys_values = self.to_keys_values(x).reshape(b, n, 2, self.heads, c // self.heads)
        keys, values = keys_values[:, :, 0], keys_values[:, :, 1]
        weights = (
            torch.einsum("bnhd,bmhd->bnmh", queries, keys).mul((c // self.heads) ** -0.5).softmax(2)
        )
        return self.project(torch.einsum("bnmh,bmhd->bnhd", weights, values).reshape(b, n, c))


class PublishedFeed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).relu())


class PublishedLayer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), PublishedAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), PublishedFeed(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PublishedLayers(nn.Module):
    def __init__(self, width: int, heads: int, count: int):
        super().__init__()
        self.layers = nn.ModuleList([PublishedLayer(width, heads) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class PublishedTransformer(nn.Module):
    """Transforms the image, as `length` tokens, together with learned constants.

    The output is taken at the places of the constants.
    """

    def __init__(self, pooled: int, width: int, prefix: int, length: int, layers: int, heads: int):
        super().__init__()
        self.length = length
        self.transformer = PublishedLayers(width, heads, layers)
        self.linear = nn.Linear(pooled, length * width)
        self.prefix_const = nn.Parameter(torch.randn(prefix, width))

    def forward(self, x: Tensor) -> Tensor:
        image = self.linear(x).view(len(x), self.length, -1)
        constants = self.prefix_const.unsqueeze(0).expand(len(x), -1, -1)
        return self.transformer(torch.cat((image, constants), 1))[:, self.length :]


class PublishedMlp(nn.Module):
    def __init__(self, pooled: int, width: int, prefix: int):
        super().__init__()
        self.width = width
        self.model = nn.Sequential(
            nn.Linear(pooled, prefix * width // 2),
            nn.Tanh(),
            nn.Linear(prefix * width // 2, prefix * width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).view(len(x), -1, self.width)


class PublishedClipCap(nn.Module):
    """Has the names and shapes of the published weights.

    `gpt` is a GPT2LMHeadModel, `clip_project` the mapping.
    """

    def __init__(self, lm: Any, mapping: str):
        super().__init__()
        self.gpt = lm
        self.clip_project = (
            PublishedMlp(DP, WIDTH, 3)
            if mapping == "mlp"
            else PublishedTransformer(DP, WIDTH, 3, 2, layers=2, heads=4)
        )

    def forward(self, pooled: Tensor, ids: Tensor) -> Tensor:
        """Return the logits after the prefix and after each of `ids` (B, T): (B, T + 1, V)."""
        words = self.gpt.transformer.wte(ids)
        return self.gpt(inputs_embeds=torch.cat([self.clip_project(pooled), words], 1)).logits[
            :, 2:
        ]

    def weights(self) -> dict[str, Tensor]:
        """Return the weights as transformers saved them in 2021, including GPT-2's masks."""
        masks = {}
        for n in range(len(self.gpt.transformer.h)):
            masks[f"gpt.transformer.h.{n}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
            masks[f"gpt.transformer.h.{n}.attn.masked_bias"] = torch.tensor(-1e4)
        return {**self.state_dict(), **masks}


ARGS: dict[str, dict[str, Any]] = {
    "mlp": {"prefix": 3, "mapping": "mlp", "normalise": False},
    "transformer": {
        "prefix": 3, "mapping": "transformer", "clip_length": 2, "mapping_layers": 2, "mapping_heads": 4, "normalise": False,
    },
}  # fmt: skip


def clipcap(folder: Path, mapping: str) -> tuple[PublishedClipCap, dict[str, Any]]:
    """Return the published module with random weights, and arguments to read these weights."""
    folder.mkdir(exist_ok=True)
    lm = tiny_lm(folder / "lm", "gpt2", TEXTS)
    torch.manual_seed(3)
    theirs = PublishedClipCap(
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(lm)), mapping
    ).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            weight.copy_(torch.randn_like(weight) * (0.1 if name.endswith("bias") else 0.8))
    torch.save(theirs.weights(), folder / "weights.pt")
    return theirs, {**ARGS[mapping], "lm": str(lm), "checkpoint": str(folder / "weights.pt")}


def opened(args: dict[str, Any]) -> tuple[Any, Tokenizer]:
    tokenizer, known = read_vocabulary("prefix_lm", TEXTS, 1, args, "args")
    decoder = build_decoder("prefix_lm", Sizes(5, DP, len(tokenizer), known), args)
    decoder.load_pretrained(tokenizer)
    return decoder.eval(), tokenizer


def features(n: int = 6) -> Features:
    g = torch.Generator().manual_seed(3)
    return Features(torch.randn(n, 2, 5, generator=g), 10 * torch.randn(n, DP, generator=g))


@pytest.mark.parametrize("mapping", ["mlp", "transformer"])
@torch.no_grad()
def test_logits_equal_those_of_the_published_module_with_the_same_weights(
    tmp_path: Path, mapping: str
) -> None:
    theirs, args = clipcap(tmp_path, mapping)
    decoder, tokenizer = opened(args)
    ids = torch.tensor([tokenizer.encode(["two cats sit on a mat"])[0]] * 6)
    expected = theirs(features().pooled, ids[:, 1:-1])
    assert expected.std() > 0.5
    close(decoder(features(), ids[:, :-1]), expected, 1e-4)
    assert decoder.published == args["checkpoint"]


@torch.no_grad()
def test_captions_end_with_the_first_full_stop_as_the_published_loop_ends_them(
    tmp_path: Path,
) -> None:
    theirs, args = clipcap(tmp_path, "mlp")
    stop = read_vocabulary("prefix_lm", TEXTS, 1, args, "args")[0].inner.token_to_id(".")
    theirs.gpt.transformer.wte.weight[stop] *= 3  # otherwise it is rarely chosen among 300 tokens
    torch.save(theirs.weights(), args["checkpoint"])
    decoder, tokenizer = opened(args)
    f = features(40)
    assert tokenizer.special.end == stop
    found = greedy(decoder, f, tokenizer.special, 12)
    ended = 0
    for image, h in enumerate(found):
        ids: list[int] = []
        while len(ids) < 12 and stop not in ids:
            logits = theirs(f.pooled[image : image + 1], torch.tensor([ids], dtype=torch.long))
            ids.append(int(logits[0, -1].argmax()))
        assert list(h.tokens) == ids
        ended += ids[-1] == stop
    assert 0 < ended < 40


def test_a_caption_without_its_full_stop_is_ended_by_one(tmp_path: Path) -> None:
    _, args = clipcap(tmp_path, "mlp")
    _, tokenizer = opened(args)
    stop = tokenizer.inner.token_to_id(".")
    ids = tokenizer.encode(["a red dog runs"])[0]
    assert ids[-1] == stop
    assert ids.count(stop) == 1
    assert tokenizer.decode(ids) == "a red dog runs"


def drop(name: str) -> Any:
    return lambda weights: weights.pop(name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            drop("clip_project.model.2.bias"),
            "lacks weights of this model (first: mapping.output.bias): compare its prefix, ",
        ),
        (
            drop("gpt.transformer.h.1.mlp.c_fc.weight"),
            "lacks weights of this model (first: body.h.1.mlp.c_fc.weight)",
        ),
        (
            lambda w: w.update(more=torch.zeros(1)),
            "holds weights that this model lacks (first: more)",
        ),
        (
            lambda w: w.update({"gpt.lm_head.weight": torch.zeros(300, 16)}),
            "that this model lacks (first: head.weight)",
        ),
        (
            lambda w: w.update({"clip_project.model.0.weight": torch.zeros(24, 5)}),
            "mapping.hidden.weight of {path} is [24, 5], not [24, 9]: compare ",
        ),
        (
            lambda w: w.update(epoch=3),
            "holds no state dict: save model.state_dict() with torch.save",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    theirs, args = clipcap(tmp_path, "mlp")
    weights = theirs.weights()
    damage(weights)
    torch.save(weights, args["checkpoint"])
    with pytest.raises(UserError) as error:
        opened(args)
    assert message.format(path=args["checkpoint"]) in str(error.value)
    assert str(error.value).startswith("args.checkpoint: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mapping", "changes", "message"),
    [
        (
            "transformer",
            {"mapping": "mlp"},
            "holds weights that this model lacks (first: mapping.constants)",
        ),
        (
            "transformer",
            {"mapping_layers": 1},
            "holds weights that this model lacks (first: mapping.layers.1.attended.bias)",
        ),
        (
            "transformer",
            {"mapping_layers": 3},
            "lacks weights of this model (first: mapping.layers.2.attended.bias)",
        ),
        ("transformer", {"prefix": 4}, "is [3, 16], not [4, 16]: compare its prefix, "),
        (
            "mlp",
            {"new_tokenizer": 300},
            "its weights know the language model's own tokens: leave new_tokenizer at 0",
        ),
        (
            "mlp",
            {"checkpoint": "/no/such.pt"},
            "there is no file /no/such.pt: put the published weights there",
        ),
    ],
)
def test_arguments_that_do_not_fit_the_weights_are_one_line(
    tmp_path: Path, mapping: str, changes: dict[str, Any], message: str
) -> None:
    _, args = clipcap(tmp_path, mapping)
    with pytest.raises(UserError) as error:
        opened({**args, **changes})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_state_dict_is_one_line_and_runs_nothing(tmp_path: Path) -> None:
    _, args = clipcap(tmp_path, "mlp")
    torch.save(PublishedMlp(DP, WIDTH, 3), args["checkpoint"])  # a pickled module
    with pytest.raises(
        UserError,
        match=r"^args\.checkpoint: .* cannot be read \(.*\): expected a state dict of torch$",
    ):
        opened(args)
