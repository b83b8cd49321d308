"""Export a captioner on a vision-language model in a form that peft or transformers loads itself.

An adapter becomes a folder of peft, which names the base model but holds none of its weights. A
model that was trained completely, or used as published, becomes a folder of transformers with its
processor.
"""

from pathlib import Path
from typing import Any

from captionlab.export.adapter import whole, write_adapter
from captionlab.export.hf_decoding import generation
from pipeline.captioner.captioner import Captioner
from pipeline.decoders.shared import four_bits
from pipeline.decoders.shared import vision_prompts as prompts
from pipeline.decoders.shared.vision_decoder import Decoder
from pipeline.decoders.vlm_seq2seq import Decoder as WithEncoder

OF_ADAPTER = """## Use

```python
from peft import AutoPeftModel
from transformers import AutoProcessor

model = AutoPeftModel.from_pretrained("this/folder")
processor = AutoProcessor.from_pretrained("this/folder")
```
"""
# `dtype` is that of the row, whatever the base's files say.
OF_PACKED_ADAPTER = """## Use

The adapter was trained on a base whose weights take 4 bits. bitsandbytes packs them as it loads the
base. Without `quantization_config`, the base takes more memory, and captions differ somewhat. So
they do on a CPU with AVX-512 and bfloat16, where bitsandbytes computes in bfloat16.

```python
from peft import AutoPeftModel
from transformers import AutoProcessor, BitsAndBytesConfig

model = AutoPeftModel.from_pretrained(
    "this/folder",
    dtype="{dtype}",
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype="{dtype}",
        llm_int8_skip_modules={skipped},
    ),
)
processor = AutoProcessor.from_pretrained("this/folder")
```
"""
OF_UNPACKED = """
The row's weights took 4 bits each (NF4). Here they are written out in {dtype}, with the adapter
added if there was one, so the folder is larger and needs no bitsandbytes.
"""
OF_MODEL = """## Use

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("this/folder")
processor = AutoProcessor.from_pretrained("this/folder")
```
"""
ASK = """
```python
from PIL import Image

picture = Image.open("photo.jpg").convert("RGB")
inputs = processor(text=[{text!r}], images=[[picture]], return_tensors="pt")
tokens = model.generate(**inputs, {decoding})
print(processor.batch_decode({written}, skip_special_tokens=True))
```

The text is the prompt as the model's chat template writes it. That searches as the row was scored,
by transformers' own search. The project's pictures were {side} x {side} pixels, with
`resize: {resize}`.
"""


def write(captioner: Captioner, folder: Path, readme: str) -> None:
    """Fill an empty folder."""
    decoder = captioner.decoder
    assert isinstance(decoder, Decoder)
    adapted = decoder.tune == "adapter" and bool(decoder.published)
    written = 'tokens[:, inputs["input_ids"].shape[1]:]'
    told = generation(captioner.decode)
    if isinstance(decoder, WithEncoder):
        written, told = "tokens", {**told, "no_repeat_ngram_size": 0}  # Florence-2's own is 3
    if adapted:
        source = decoder.source
        write_adapter(decoder.body, decoder.adapter, source.model, source.revision, folder)
    else:
        all_weights: Any = whole(captioner).decoder
        if isinstance(decoder, WithEncoder):
            _say_how_to_begin(all_weights.body, decoder.opening[0].tolist())
        all_weights.body.save_pretrained(folder)
    processor = prompts.processor(decoder.source, decoder.body, decoder.words)
    encoder: Any = captioner.encoder
    scaled = {"side": encoder.size, "resize": encoder.resize}
    use = _use(decoder, adapted)
    if isinstance(processor, prompts.WordsProcessor):
        processor.image_processor.save_pretrained(folder)
        captioner.tokenizer.save(folder / "tokenizer.json")
    else:
        processor.save_pretrained(folder)
        text = prompts.asked(processor, decoder.prompt)
        decoding = ", ".join(f"{key}={value!r}" for key, value in told.items())
        use += ASK.format(text=text, decoding=decoding, written=written, **scaled)
    (folder / "README.md").write_text(f"{readme}\n{use}", encoding="utf-8")


def _use(decoder: Decoder, adapted: bool) -> str:
    """Return how the exported folder is loaded."""
    packed, dtype = four_bits.is_used(decoder), str(decoder.body.dtype).removeprefix("torch.")
    if not adapted:
        return OF_MODEL + (OF_UNPACKED.format(dtype=dtype) if packed else "")
    if not packed:
        return OF_ADAPTER
    skipped = four_bits.whole_parts(decoder.body)
    return OF_PACKED_ADAPTER.format(dtype=dtype, skipped=skipped)


def _say_how_to_begin(body: Any, opening: list[int]) -> None:
    """Let the model's own `generate` begin a caption as the decoder does."""
    first, *forced = opening
    # The second is for BLIP-2, which generates with what its language model's config says.
    for config in (body.generation_config, body.config.get_text_config()):
        config.decoder_start_token_id = first
    body.generation_config.forced_bos_token_id = forced[0] if forced else None
