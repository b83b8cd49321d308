"""Export a captioner in Hugging Face's layout.

A decoder that is a model of transformers (vit_gpt2, blip, git) becomes that model. hf_vlm.py
exports a decoder on a vision-language model. Any other decoder is exported with its code.
transformers copies only flat Python files, so the modules of this project that the decoder needs
are written as `captionlab_*.py` with relative imports.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from captionlab.export import hf_model, hf_vlm
from captionlab.export.adapter import whole, write_adapter
from captionlab.export.flat import MAIN, closure, file_of, flat, flat_name, packages
from captionlab.export.hf_decoding import generation
from pipeline.captioner.captioner import Captioner
from pipeline.core.errors import UserError
from pipeline.data.files import write_json
from pipeline.decoders.shared import lora as adapters
from pipeline.decoders.shared.pretrained import Decoder as Published
from pipeline.decoders.shared.tokenizers import PAD, UNKNOWN, Tokenizer
from pipeline.decoders.shared.vision_decoder import Decoder as VisionLanguage
from pipeline.decoding.generation import barred

# model_type -> class of transformers.
NATIVE = {
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
}
OF_CODE = """## Use

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("this/folder", trust_remote_code=True)
print(model.caption("photo.jpg"))
print(model.caption(["photo.jpg", "another.jpg"], beam=1))
```

The code beside the weights is run; it needs {needs}. Captions are those of the project, searched as
`captioner.decode` in config.json says. `model.save_pretrained` and `model.push_to_hub` write the
whole folder. `AutoImageProcessor.from_pretrained("this/folder", trust_remote_code=True)` gives the
`pixel_values` that `model(pixel_values, input_ids)` takes.
"""
OF_NATIVE = """## Use

```python
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, {name}

model = {name}.from_pretrained("this/folder")
tokenizer = AutoTokenizer.from_pretrained("this/folder")
processor = AutoImageProcessor.from_pretrained("this/folder")
pixels = processor([Image.open("photo.jpg").convert("RGB")], return_tensors="pt")
tokens = model.generate(
    **pixels,
    {asked},
)
print(tokenizer.batch_decode(tokens, skip_special_tokens=True))
```

That decodes as the model was scored, by transformers' own search, on pictures that its own image
processor scales. generation_config.json says the same; BLIP's `generate` does not read it.
"""
OF_ADAPTER = """## Use

The folder holds an adapter. It belongs to the weights of `{base}`, which are not in it.

```python
from peft import AutoPeftModel
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedTokenizerFast

model = AutoPeftModel.from_pretrained("this/folder")
tokenizer = PreTrainedTokenizerFast.from_pretrained("this/folder")
processor = AutoImageProcessor.from_pretrained("this/folder")
pixels = processor([Image.open("photo.jpg").convert("RGB")], return_tensors="pt")
tokens = model.generate(
    **pixels,
    {asked},
)
print(tokenizer.batch_decode(tokens, skip_special_tokens=True))
```

That decodes as the model was scored, by transformers' own search, on pictures that its own image
processor scales.
"""


def write(captioner: Captioner, folder: Path, readme: str) -> None:
    """Fill an empty folder.

    Raises:
        UserError: the decoder or its encoder loads parts of itself by name at run time.
    """
    decoder = captioner.decoder
    if isinstance(decoder, VisionLanguage):
        hf_vlm.write(captioner, folder, readme)
        return
    adapted = isinstance(decoder, Published) and decoder.keeps_base and bool(decoder.published)
    if adapted:
        use = _adapter(captioner, folder)
    elif isinstance(decoder, Published):
        use = _native(whole(captioner), folder)
    else:
        use = _with_code(whole(captioner), folder)
    captioner.tokenizer.save(folder / "tokenizer.json")
    if not adapted:  # AutoPeftModel enlarges the base for a tokenizer that has this file
        write_json(folder / "tokenizer_config.json", _about(captioner.tokenizer))
    (folder / "README.md").write_text(f"{readme}\n{use}", encoding="utf-8")


def _about(tokenizer: Tokenizer) -> dict[str, Any]:
    words = {i: word for word, i in tokenizer.words().items()}
    special = tokenizer.special
    named = {"bos_token": words[special.start], "eos_token": words[special.end]}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
    }


def _with_code(captioner: Captioner, folder: Path) -> str:
    from safetensors.torch import save_file

    about = captioner.config
    names = (
        f"pipeline.decoders.{about['decoder']}",
        f"pipeline.encoders.{about['encoder']['name']}",
    )
    text = Path(hf_model.__file__).read_text("utf-8")
    for stands, name in zip(
        ("pipeline.decoders.merge", "pipeline.encoders.timm_model"), names, strict=True
    ):
        text = text.replace(f"from {stands} import", f"from {name} import")
    modules = closure(text)
    if "pipeline.core.registry" in modules:
        raise UserError(
            f"{about['decoder']} cannot be exported to hf: it loads an encoder by name, "
            "which flat files do not allow; "
            "decoders that see what they get can (merge, lstm, soft_attention, "
            "hard_attention, transformer, prefix_lm)"
        )
    (folder / f"{MAIN}.py").write_text(flat(text), encoding="utf-8")
    for module in modules:
        (folder / f"{flat_name(module)}.py").write_text(
            flat(file_of(module).read_text("utf-8")), encoding="utf-8"
        )
    config = _config(captioner)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", _processor_of_code(config))
    parts = {"encoder": captioner.encoder, "decoder": captioner.decoder}
    states = {
        name: part.state_dict() for name, part in parts.items() if isinstance(part, nn.Module)
    }
    weights = {
        f"{name}.{key}": value for name, state in states.items() for key, value in state.items()
    }
    save_file(
        {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()},
        folder / "model.safetensors",
    )
    return OF_CODE.format(
        needs=", ".join(sorted(packages([text, *(file_of(m).read_text("utf-8") for m in modules)])))
    )


def _config(captioner: Captioner) -> dict[str, Any]:
    """Return the content of config.json.

    The encoder's weights are in the folder, so a timm model is built without weights. Any other
    encoder is built as its arguments say.
    """
    encoder = captioner.config["encoder"]
    if encoder["name"] == "timm_model":
        encoder = {**encoder, "args": {**encoder["args"], "weights": "random"}}
    auto = {"AutoConfig": f"{MAIN}.CaptionlabConfig", "AutoModel": f"{MAIN}.CaptionlabModel"}
    about = {
        "model_type": "captionlab",
        "architectures": ["CaptionlabModel"],
        "auto_map": auto,
        "dtype": "float32",
    }
    return {
        **about,
        "captioner": {**captioner.config, "encoder": encoder, "decode": captioner.decode},
    }


def _processor_of_code(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of preprocessor_config.json for a model with its code.

    Args:
        config: content of its config.json.
    """
    kind = "CaptionlabImageProcessor"
    return {
        "image_processor_type": kind,
        "auto_map": {"AutoImageProcessor": f"{MAIN}.{kind}"},
        "encoder": config["captioner"]["encoder"]["args"],
    }


def _native(captioner: Captioner, folder: Path) -> str:
    """Write transformers' own model, and return its instructions."""
    body = _body(captioner)
    told = _generation(captioner)
    body.generation_config.update(**told)
    body.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _processor(captioner))
    return OF_NATIVE.format(name=type(body).__name__, asked=_asked(told))


def _adapter(captioner: Captioner, folder: Path) -> str:
    """Write the adapters for transformers' own model, and return their instructions."""
    decoder: Any = captioner.decoder
    revision = captioner.config["args"].get("revision", "")
    write_adapter(_body(captioner), decoder.adapter, decoder.published, revision, folder)
    write_json(folder / "preprocessor_config.json", _processor(captioner))
    return OF_ADAPTER.format(base=decoder.published, asked=_asked(_generation(captioner)))


def _body(captioner: Captioner) -> Any:
    """Return transformers' own model.

    The decoder's weights go back to where `adopt` took them from, adapters too.
    """
    import transformers

    decoder: Any = captioner.decoder
    config = captioner.config["sizes"]["known"]["config"]
    cls = getattr(transformers, NATIVE[config["model_type"]])
    body = cls(cls.config_class.from_dict(config))
    if decoder.adapter is not None:
        adapters.insert(body, deepcopy(decoder.adapter))
    ours = nn.Module()
    decoder.adopt(ours, body)
    weights = decoder.state_dict().items()
    ours.load_state_dict({name: weight for name, weight in weights if name != "base"})
    return body


def _asked(told: dict[str, Any]) -> str:
    return ",\n    ".join(f"{key}={value}" for key, value in told.items())


def _generation(captioner: Captioner) -> dict[str, Any]:
    """Return `decode` as arguments of transformers' `generate`."""
    decoder: Any = captioner.decoder
    special = captioner.tokenizer.special
    never = {int(decoder.ids[i]) for i in barred(special, len(decoder.ids))}
    never -= {int(decoder.ids[special.end])}  # GPT-2 has one token for start and end
    return {**generation(captioner.decode), "suppress_tokens": sorted(never)}


def _processor(captioner: Captioner) -> dict[str, Any]:
    encoder: Any = captioner.encoder
    decoder: Any = captioner.decoder
    square = {"height": decoder.side, "width": decoder.side}
    colours = {
        "image_mean": decoder.mean.flatten().tolist(),
        "image_std": decoder.std.flatten().tolist(),
    }
    common = {
        "do_resize": True,
        "resample": int(encoder.resampling),
        "do_rescale": True,
        "do_normalize": True,
        **colours,
    }
    if encoder.resize == "pad":  # it fills with image_mean
        size = {"size": {"shortest_edge": decoder.side}, "do_pad": True, "do_center_crop": False}
        return {"image_processor_type": "LlavaImageProcessor", **size, **common}
    if encoder.resize == "crop":
        size = {
            "size": {"shortest_edge": decoder.side},
            "do_center_crop": True,
            "crop_size": square,
        }
        return {"image_processor_type": "CLIPImageProcessor", **size, **common}
    return {"image_processor_type": "ViTImageProcessor", "size": square, **common}
