"""A published model that cannot be loaded gives one line: what is wrong and what to do."""

from pathlib import Path

from huggingface_hub import constants

from pipeline.core.hub import cure, unusable


def test_a_name_on_the_hub_says_where_its_files_may_lie_and_what_else_can_be_given() -> None:
    error = unusable("args.lm: 'a/b'", "a/b", OSError("no\nroute"), "name a .gguf file")
    assert str(error) == (
        f"args.lm: 'a/b' cannot be used (OSError: no route): put it in the hub's cache "
        f"{constants.HF_HUB_CACHE} (HF_HOME moves it), or name a .gguf file"
    )


def test_a_folder_says_what_it_lacks(tmp_path: Path) -> None:
    for model in (str(tmp_path), f"{tmp_path} + a/b"):
        assert cure(model) == "put there what the model's page on the hub lists"
