"""Export a captioner as three ONNX graphs, with a caption.py that runs them with onnxruntime alone.

caption.py decodes as the model's row does. After writing, the graphs are run on pictures and must
give the project's captions.
"""

import importlib.util
import inspect
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from captionlab.export import onnx_caption, onnx_search
from captionlab.export.adapter import whole
from captionlab.export.flat import closure, file_of, flat_absolute, flat_name
from pipeline.captioner.captioner import GREEDY, Captioner
from pipeline.core.errors import UserError, brief
from pipeline.data.files import write_json
from pipeline.decoders.shared.contract import Decoder
from pipeline.decoding.generation import Hypothesis
from pipeline.decoding.search import beam_search
from pipeline.encoders.shared.base import RESAMPLING
from pipeline.features.features import Features, parts

# Decoders whose graphs were compared with the project's captions.
WORK = (
    "blip",
    "git",
    "hard_attention",
    "lstm",
    "merge",
    "prefix_lm",
    "soft_attention",
    "transformer",
)
ANY = torch.export.Dim.AUTO
USE = """## Use

Captions with onnxruntime, numpy, pillow and tokenizers, decoded as the model was scored:

```
python caption.py photo.jpg
python caption.py --beam 1 photo.jpg
```

`encoder.onnx`{encoder}; `start.onnx`: features -> state; `step.onnx`: state and words (R,) ->
log-probabilities (R, V) and the next state. `config.json` names sizes, tokens and, under `decode`,
the search; caption.py is the loop, `captionlab_*.py` beside it read and scale pictures and search.
A picture that cannot be read is one line on standard error, with status 2 at the end. Where the
model was scored on samples, another machine's features may differ in their last bit, and draw
others.
"""


def write(captioner: Captioner, folder: Path, readme: str) -> None:
    """Fill an empty folder.

    Raises:
        UserError: torch cannot export the decoder, or its graphs do not give the project's
            captions.
    """
    name = type(captioner.decoder).__module__.rpartition(".")[2]
    captioner = whole(captioner)
    decoder, encoder = captioner.decoder.cpu().eval(), _Encoder(captioner.encoder)
    captioner.device = "cpu"
    seen = encoder.exportable
    pixels = torch.stack([captioner.encoder.transform(picture) for picture in _pictures()])
    f = captioner.as_stored(captioner.encoder.to("cpu")(pixels))
    f = Features(f.grid.clone(), f.pooled.clone())  # tensors from inference mode cannot be exported
    try:
        if seen:
            _graph(
                encoder,
                (pixels,),
                ({0: ANY},),
                ["pixels"],
                ["grid", "pooled"],
                folder / "encoder.onnx",
            )
        _decoder(decoder, f, folder)
    except UserError:
        raise
    except Exception as error:  # torch.export fails in many ways
        why = brief(error.__cause__ or error)
        raise UserError(
            f"{name} cannot be exported to ONNX ({why}): these can: {', '.join(WORK)}"
        ) from None
    special, decode = captioner.tokenizer.special, captioner.decode
    image = (
        {"side": encoder.side, "resize": encoder.resize, "resampling": encoder.resampling}
        if seen
        else None
    )
    dtype = captioner.config["encoder"].get("dtype", "float16")
    about = {
        "decoder": name,
        "dtype": dtype,
        "image": image,
        "start": special.start,
        "end": special.end,
        "reads": parts(decoder.reads),
        "decode": {key: decode[key] for key in GREEDY},
    }
    rows = decoder.step(torch.tensor([special.start]), decoder.start(f.select(torch.tensor([0]))))[
        0
    ].shape[1]
    never = [i for i in (special.pad, special.start, special.unknown) if i < rows]
    write_json(folder / "config.json", {**about, "never": never})
    captioner.tokenizer.save(folder / "tokenizer.json")
    _write_loop(folder)
    what = (
        ": pixels (B, 3, S, S), 0-255 -> features"
        if seen
        else " is not there: features are the input"
    )
    (folder / "README.md").write_text(f"{readme}\n{USE.format(encoder=what)}", encoding="utf-8")
    search = (decode["beam"], decode["max_tokens"], decode["length_penalty"])
    ours = [found[0] for found in beam_search(decoder, f, special, *search)]
    _compare(folder, ours, pixels if seen else None, f, name)


def _write_loop(folder: Path) -> None:
    """Write caption.py, its search, and the project's modules that read and scale pictures."""
    loop, search = (Path(str(m.__file__)).read_text("utf-8") for m in (onnx_caption, onnx_search))
    loop = loop.replace(f"from {onnx_search.__name__} import", "from captionlab_search import")
    texts = {f"{flat_name(name)}.py": file_of(name).read_text("utf-8") for name in closure(loop)}
    for name, text in {"caption.py": loop, "captionlab_search.py": search, **texts}.items():
        (folder / name).write_text(flat_absolute(text), encoding="utf-8")


class _Encoder(nn.Module):
    """An encoder as a module that may be exported.

    It has a graph if it resizes as `square` does and is a fixed network. Otherwise its features are
    the input of the export.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        names: dict[Any, str] = {
            resampling: name.upper() for name, resampling in RESAMPLING.items()
        }
        self.side, self.resize = getattr(encoder, "size", 0), getattr(encoder, "resize", "")
        self.resampling = names.get(getattr(encoder, "resampling", None))
        self.exportable = bool(self.side and self.resize and self.resampling) and not getattr(
            encoder, "branches", 0
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        f = inspect.unwrap(type(self.encoder).forward)(
            self.encoder, pixels
        )  # torch.export does not support inference_mode
        return f.grid, f.pooled


class _Start(nn.Module):
    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, grid: Tensor, pooled: Tensor) -> list[Tensor]:
        return list(self.decoder.start(Features(grid, pooled)).values())


class _Step(nn.Module):
    """One step of the decoder.

    `changing` names the parts of the state that a step computes again. The other parts belong to
    the image and do not change.
    """

    def __init__(self, decoder: Decoder, names: list[str], changing: list[str]):
        super().__init__()
        self.decoder, self.names, self.changing = decoder, names, changing

    def forward(self, tokens: Tensor, state: list[Tensor]) -> list[Tensor]:
        logits, new = self.decoder.step(tokens, dict(zip(self.names, state, strict=True)))
        return [logits.log_softmax(-1), *(new[name] for name in self.changing)]


@torch.no_grad()
def _decoder(decoder: Decoder, f: Features, folder: Path) -> None:
    first = decoder.start(f)
    state, words = first, torch.full((len(f),), 4)
    for _ in range(2):  # torch.export takes a length of 0 or 1 for a constant
        before, state = state, decoder.step(words, state)[1]
    changing = [name for name in first if state[name] is not before[name]]
    names = [f"state_{name}" for name in first]
    _graph(
        _Start(decoder),
        (f.grid, f.pooled),
        ({0: ANY}, {0: ANY}),
        ["grid", "pooled"],
        names,
        folder / "start.onnx",
    )
    outputs = ["log_probs", *(f"next_{name}" for name in changing)]
    example = (words, [state[name] for name in first])
    shapes = ({0: ANY}, [_changing_sizes(first[name], state[name]) for name in first])
    _graph(
        _Step(decoder, list(first), changing),
        example,
        shapes,
        ["tokens", *names],
        outputs,
        folder / "step.onnx",
    )


def _changing_sizes(first: Tensor, later: Tensor) -> dict[int, Any]:
    """Return the axes that change: the batch, and the axis along which a memory of words grows."""
    return {
        axis: ANY
        for axis in range(later.ndim)
        if axis == 0 or later.shape[axis] != first.shape[axis]
    }


def _graph(
    model: nn.Module, args: Any, shapes: Any, inputs: list[str], outputs: list[str], file: Path
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            model.eval(),
            args,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert made is not None
    made.save(str(file))


def _pictures() -> list[Image.Image]:
    """Return coarse noise, which gives pictures that differ."""
    cells = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(cell).resize((96, 80), Image.Resampling.NEAREST) for cell in cells]


def _compare(
    folder: Path, ours: list[Hypothesis], pixels: Tensor | None, f: Features, name: str
) -> None:
    exported = _exported_captioner(folder)
    features = {"grid": f.grid.numpy(), "pooled": f.pooled.numpy()}
    if pixels is not None:
        features = exported.run("encoder", {"pixels": pixels.numpy()})
    said = [hypothesis.tokens for hypothesis in ours]
    for count in (len(said), 2):  # a graph may have made the number of pictures constant
        some = {key: values[:count] for key, values in features.items()}
        if _said(exported, some) != said[:count]:
            raise UserError(
                f"{name} cannot be exported to ONNX (its graphs say something else): these "
                f"can: {', '.join(WORK)}"
            )


def _said(exported: Any, features: dict[str, Any]) -> list[tuple[int, ...]]:
    """Return the tokens of each picture's best hypothesis; [] if the graphs cannot be run."""
    try:
        return [found[0].tokens for found in exported.hypotheses(**features, samples=0)]
    except Exception:  # onnxruntime's own exceptions have no narrower base
        return []


def _exported_captioner(folder: Path) -> Any:
    """Return the captioner of the folder's caption.py. Its modules do not stay imported."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("exported_caption", folder / "caption.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Captioner(folder)
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.startswith("captionlab_"):
                del sys.modules[name]
