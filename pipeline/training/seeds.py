"""A variant of params.yaml, trained once per seed and written."""

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

Curves = Callable[[], AbstractContextManager[Live]]
"opens what gets the figures of a training as they grow"


@dataclass(frozen=True)
class Seeds:
    name: str
    "The variant."
    params: Params
    device: str
    corpus: Path
    "captions.parquet of the variant's corpus."
    features: Path
    "Folder of its features."
    checkpoints: Path
    "Folder of what an interrupted training goes on from, one file per seed."
    ranks: Ranks = ALONE
    "The processes that train together, of which this is one."

    def train(self, model: Path, history: Path, further: Path, curves: Curves) -> Progress:
        """Train every seed of `train.seeds`.

        Args:
            model, history: folder and CSV file of the first seed, which is the one that is served.
            further: folder of the other seeds, a folder each, and their list.
            curves: of the first seed.

        Returns:
            What the training of the first seed took.
        """
        first, *others = self.params.training(self.name).seeds
        trained = self._train(first, model, history, curves)
        checkpoints = [trained.checkpoint]
        with whole_folder(further) as part:
            write_json(part / "seeds.json", others)  # DVC warns of an empty folder
            for seed in others:
                print(f"{self.name}: seed {seed}", flush=True)
                folder = part / str(seed)
                checkpoints.append(self._train(seed, folder, folder / "history.csv").checkpoint)
        for checkpoint in checkpoints:  # not sooner: a rerun begins where the last seed stopped
            remove(checkpoint)
        with suppress(OSError):  # mlflow.json may stand there
            self.checkpoints.rmdir()
        return trained.progress

    def follow(self) -> None:
        """Train every seed along with rank 0, which calls `train`, and write nothing."""
        for seed in self.params.training(self.name).seeds:
            self.trainer(seed)[0].run()

    def trainer(self, seed: int) -> tuple[Trainer, dict[str, Any]]:
        """`prepare` of one seed."""
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
        """What training compares are words; a model writes as people do, also where its script has
        no spaces."""
        corpus = self.params.corpora[self.params.variants[self.name].corpus]
        spaced = find_language(corpus.language).spaced
        return tokenizer if spaced else tokenizer.gluing(glue())

    def _train(
        self, seed: int, model: Path, history: Path, curves: Curves | None = None
    ) -> Trainer:
        """One training, written."""
        trainer, about = self.trainer(seed)
        with curves() if curves else nullcontext() as trainer.live:
            table = trainer.run()
        if table.empty:
            print(f"0 epochs: {self.name} is used as published", flush=True)
        save_model(model, trainer.decoder, self._writing(trainer.tokenizer), about)
        with whole_file(history) as part:
            table.to_csv(part, index=False)
        return trainer
