"""Train a variant of params.yaml once per seed, and write the results."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.files import remove, whole_file, whole_folder, write_json
from pipeline.decoders.shared.model_folder import save_model
from pipeline.decoders.shared.tokenizers import Tokenizer
from pipeline.experiment.params import Params
from pipeline.languages.languages import find_language
from pipeline.languages.text import glue
from pipeline.training.checkpoint import Progress
from pipeline.training.ranks import ALONE, Ranks
from pipeline.training.setup import prepare
from pipeline.training.trainer import Live, Trainer

# Opens the receiver of a training's live figures.
Curves = Callable[[], AbstractContextManager[Live]]


@dataclass(frozen=True)
class Seeds:
    name: str
    "Name of the variant."
    params: Params
    device: str
    corpus: Path
    "Path of captions.parquet of the variant's corpus."
    features: Path
    "Folder of the variant's features."
    checkpoints: Path
    "Folder of the checkpoints from which an interrupted training resumes, one file per seed."
    ranks: Ranks = ALONE
    "The processes that train together; this process is one of them."

    def train(self, model: Path, history: Path, further: Path, curves: Curves) -> Progress:
        """Train every seed of `train.seeds`.

        Args:
            model, history: model folder and history CSV file of the first seed, whose model is
                served.
            further: folder for the other seeds, with a folder for each and a list of them.
            curves: opens the live curves of the first seed.

        Returns:
            the progress of the first seed's training, with its duration.
        """
        first, *others = self.params.training(self.name).seeds
        trained = self._train(first, model, history, curves)
        checkpoints = [trained.checkpoint]
        with whole_folder(further) as part:
            write_json(part / "seeds.json", others)  # DVC warns about an empty folder
            for seed in others:
                print(f"{self.name}: seed {seed}", flush=True)
                folder = part / str(seed)
                checkpoints.append(self._train(seed, folder, folder / "history.csv").checkpoint)
        for checkpoint in checkpoints:  # only now: a rerun resumes at the last unfinished seed
            remove(checkpoint)
        with suppress(OSError):  # it may hold mlflow.json
            self.checkpoints.rmdir()
        return trained.progress

    def follow(self) -> None:
        """Train every seed along with rank 0, which calls `train`. Write nothing."""
        for seed in self.params.training(self.name).seeds:
            self.trainer(seed)[0].run()

    def trainer(self, seed: int) -> tuple[Trainer, dict[str, Any]]:
        """Call `prepare` for one seed."""
        is_first = seed == self.params.training(self.name).seeds[0]
        return prepare(
            self.name,
            self.params,
            seed,
            self.device,
            corpus=self.corpus,
            features=self.features,
            checkpoint=self.checkpoints / ("checkpoint.pt" if is_first else f"seed-{seed}.pt"),
            ranks=self.ranks,
        )

    def _writing(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer with which the saved model writes captions.

        Training compares captions word by word. In a script without spaces, the saved tokenizer
        joins the words, as people write them.
        """
        corpus = self.params.corpora[self.params.variants[self.name].corpus]
        spaced = find_language(corpus.language).spaced
        return tokenizer if spaced else tokenizer.gluing(glue())

    def _train(
        self, seed: int, model: Path, history: Path, curves: Curves | None = None
    ) -> Trainer:
        """Train one seed, and write its model and history."""
        trainer, about = self.trainer(seed)
        with curves() if curves else nullcontext() as trainer.live:
            table = trainer.run()
        if table.empty:
            print(f"0 epochs: {self.name} is used as published", flush=True)
        save_model(model, trainer.decoder, self._writing(trainer.tokenizer), about)
        with whole_file(history) as part:
            table.to_csv(part, index=False)
        return trainer
