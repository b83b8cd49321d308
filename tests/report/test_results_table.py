import pandas as pd

from pipeline.experiment.params import Decoding
from pipeline.report.formats import csv_text, markdown
from pipeline.report.paper_tables import paper_sheets, read_papers
from pipeline.report.results_table import collapsed, everything
from pipeline.results.decoding import decoding_text
from pipeline.results.result import Result, setting
from pipeline.results.scores import ScoreTable
from tests.score_tables import scores as table_of

TEST = {
    "bleu_1": 0.7,
    "bleu_4": 0.25,
    "cider": 0.81,
    "loss": 2.5,
    "perplexity": 12.1825,
    "top5": 0.66,
}
VAL = {**TEST, "bleu_4": 0.26}
PAPERS = {
    "protocols": {"raw": "scored on raw strings", "unknown": "not stated"},
    "tables": {
        "nic": {
            "title": "A paper",
            "dataset": "flickr8k",
            "scale": 100,
            "rows": [
                {"system": "small", "bleu_4": 27.2, "protocol": "raw", "status": "read"},
                {
                    "system": "large",
                    "bleu_4": 31.256,
                    "loss": 2.62,
                    "protocol": "unknown",
                    "status": "derived",
                    "rule": "3 * 10.419",
                },
            ],
        }
    },
}


def corpus(name="scenes", images=2, references=5):
    rows = [("test", f"t{i}") for i in range(images)] + [("val", f"v{i}") for i in range(3)]
    texts = {image: ["a dog"] * references for _, image in rows}
    return setting(name, "official", pd.DataFrame(rows, columns=["split", "image_id"]), texts)


def result(
    name="lstm", decoding="beam 3, length penalty 0.7, at most 30 tokens", scores=None, **more
):
    scores = scores or {"test": TEST, "val": VAL}
    table = scores if isinstance(scores, ScoreTable) else table_of(scores)
    return Result(name, more.pop("setting", corpus()), decoding, table, **more)


def baseline(**more):
    scores = {s: {"bleu_1": 0.4, "bleu_4": 0.05, "cider": 0.02} for s in ("test", "val")}
    return result("most-frequent--scenes", "", scores, **more)


def test_references_per_image_are_counted_and_may_differ():
    rows = pd.DataFrame({"split": ["test"] * 3 + ["train"], "image_id": ["a", "a", "b", "c"]})
    references = {"a": ["1", "2", "3"], "b": ["1", "2"]}
    assert (
        setting("c", "karpathy", rows, references).about("test")
        == "corpus c, split 'karpathy': 2 test images, 2-3 references each"
    )


def decoding(**more):
    drawn = {"samples": 0, "temperature": 1.0, "top_k": 0, "seed": 1, "also": []}
    return Decoding(
        **{"beam": 1, "max_tokens": 20, "length_penalty": 0.7, "alternatives": 1, **drawn, **more}
    )


def test_greedy_decoding_has_no_length_penalty():
    assert decoding_text(decoding()) == "greedy, at most 20 tokens"


def test_samples_are_told_with_all_that_they_depend_on():
    text = "temperature 0.8 among {}, seed 4, at most 20 tokens"
    one, five = (
        decoding(samples=1, temperature=0.8, seed=4),
        decoding(samples=5, temperature=0.8, seed=4, top_k=50, beam=3),
    )
    assert decoding_text(one) == f"one sample, {text.format('all words')}"
    assert decoding_text(five) == f"best of 5 samples, {text.format('the 50 likeliest words')}"


DECODING = "captions: beam 3, length penalty 0.7, at most 30 tokens."


def test_the_table_of_everything_prints_test_then_validation_with_the_baseline_and_its_protocol():
    lines = markdown(everything([result(), baseline()], ["cider"])).splitlines()
    assert lines[:14] == [
        "# Results",
        "",
        "## scenes, test",
        "",
        f"corpus scenes, split 'official': 2 test images, 5 references each; {DECODING}",
        "",
        "| variant               | bleu_1 | bleu_4 |  cider |   loss |   top5 |",
        "| --------------------- | -----: | -----: | -----: | -----: | -----: |",
        "| lstm                  | 0.7000 | 0.2500 | 0.8100 | 2.5000 | 0.6600 |",
        "| most frequent caption | 0.4000 | 0.0500 | 0.0200 |    n/a |    n/a |",
        "",
        "## scenes, validation",
        "",
        f"corpus scenes, split 'official': 3 validation images, 5 references each; {DECODING}",
    ]


def test_a_metric_that_could_not_run_keeps_its_column_and_says_why():
    about = {"unavailable": {"spice": "its models are not installed"}}
    text = markdown(everything([result(about=about)], ["spice"]))
    assert "| lstm    | 0.7000 | 0.2500 | 0.8100 |   n/a | 2.5000 | 0.6600 |" in text
    assert "- spice: n/a, its models are not installed" in text


def test_two_decodings_of_one_corpus_stand_in_two_tables_each_with_the_baseline():
    sheet = everything(
        [result(), result("lstm-greedy", "greedy, at most 30 tokens"), baseline()], ["bleu"]
    )
    assert [
        (t.title, [names[0] for names, _ in t.rows]) for t in sheet.tables if t.split == "test"
    ] == [
        (
            "scenes, beam 3, length penalty 0.7, at most 30 tokens, test",
            ["lstm", "most frequent caption"],
        ),
        ("scenes, greedy, at most 30 tokens, test", ["lstm-greedy", "most frequent caption"]),
    ]


def test_a_variant_without_scores_was_not_run():
    lstm = Result("lstm", corpus(), "greedy, at most 30 tokens", None)
    assert "| lstm                  | not run | not run | not run |" in markdown(
        everything([lstm, baseline()], ["cider"])
    )


def test_the_csv_has_a_line_per_variant_with_test_and_validation_in_columns_of_their_own():
    assert csv_text(
        everything([result(scores={"test": {"bleu_4": 0.25}, "val": {"bleu_4": 1 / 3}})], ["cider"])
    ) == (
        "corpus,decoding,variant,seeds,commit,test bleu_4,test cider,val bleu_4,val cider\n"
        'scenes,"beam 3, length penalty 0.7, at most 30 tokens",lstm,n/a,n/a,0.25,'
        "n/a,0.333333,n/a\n"
    )


VARIED = {"distinct_1": 0.034, "vocabulary": 365.0, "collapse": 0.5, "novel": 0.25}


def test_what_is_no_comparison_of_n_grams_stands_in_a_second_table_with_a_warning_of_collapse():
    scores = {"test": {**TEST, **VARIED, "gender_images": 0.0}, "val": VAL}
    sheet = everything([result(scores=scores), baseline()], ["diversity", "gender"])
    assert [table.title for table in sheet.tables] == [
        "scenes, test",
        "scenes, validation",
        "scenes, test, beyond n-grams",
        "scenes, validation, beyond n-grams",
        "scenes, test, gender",
        "scenes, validation, gender",
    ]
    lines = markdown(sheet).splitlines()
    start = lines.index("## scenes, test, beyond n-grams")
    assert lines[start + 2 : start + 10] == [
        f"corpus scenes, split 'official': 2 test images, 5 references each; {DECODING}",
        "",
        "| variant               | distinct_1 | vocabulary |  novel | collapse |",
        "| --------------------- | ---------: | ---------: | -----: | -------: |",
        "| lstm                  |     0.0340 |        365 | 0.2500 |   0.5000 |",
        "| most frequent caption |        n/a |        n/a |    n/a |      n/a |",
        "",
        "## scenes, validation, beyond n-grams",
    ]
    assert (
        "| lstm                  |             0 |          n/a |                n/a |"
        in "\n".join(lines)
    )
    assert any(line.startswith("distinct_1, distinct_2: ") for line in sheet.legend)
    assert any(line.startswith("gender_images: ") for line in sheet.legend)


def test_figures_of_all_tables_of_a_system_stand_in_one_line_of_the_csv():
    scores = {
        "test": {"bleu_4": 0.25, "vocabulary": 365.0, "gender_error": 0.1},
        "val": {"bleu_4": 0.5},
    }
    head, line = csv_text(everything([result(scores=scores)], ["bleu_4"])).splitlines()
    assert head == (
        "corpus,decoding,variant,seeds,commit,test bleu_4,test vocabulary,test "
        "gender_error,val bleu_4,val vocabulary,"
        "val gender_error"
    )
    assert line.endswith(",lstm,n/a,n/a,0.25,365.0,0.1,0.5,n/a,n/a")


def collapse(share, images, **more):
    scores = {"test": {"collapse": share}, "val": {}}
    return collapsed(result(scores=scores, setting=corpus(images=images), **more), "test")


def test_a_table_warns_where_more_than_one_image_in_twenty_has_the_same_caption():
    assert collapse(0.1, 40) == ["lstm gives the same caption for 4 of 40 images"]
    assert collapse(0.05, 40) == []
    assert collapse(0.25, 4) == []  # no caption is repeated
    assert collapse(1.0, 40, decoding="") == []  # the baseline
    text = markdown(everything([result(scores={"test": {"collapse": 1.0}, "val": {}})], []))
    assert (
        "|   1.0000 |\n\nWarning: lstm gives the same caption for 2 of 2 images.\n\n## "
        "scenes, validation" in text
    )


def test_the_bias_table_shows_our_gender_error_beside_the_papers_and_what_it_leaves_open():
    figures = {
        "bleu_4": 0.2,
        "gender_error": 0.125,
        "gender_error_named": 0.25,
        "gender_neutral": 0.5,
        "gender_ratio": 0.75,
    }
    scores = {"test": {**figures, "gender_ratio_refs": 0.5}, "val": {}}
    (sheet,) = paper_sheets(read_papers(), [result(scores=scores, paper=("bias", "model-2"))])
    table = sheet.tables[0].for_people()
    assert [column.header for column in table.columns] == [
        "gender_error (gender words: PTB, 5 refs, beam 3)",
        "paper gender_error (unknown protocol)",
        "gender_error_named (gender words: PTB, 5 refs, beam 3)",
        "gender_neutral (gender words: PTB, 5 refs, beam 3)",
        "gender_ratio (gender words: PTB, 5 refs, beam 3)",
        "gender_ratio_refs (gender words: PTB, 5 refs, beam 3)",
    ]
    assert table.texts() == [
        (["model-1", "not run"], ["-", "0.430", "-", "-", "-", "-"]),
        (["model-2", "lstm"], ["0.1250", "0.370", "0.2500", "0.5000", "0.7500", "0.5000"]),
        (["model-3 (CLIP prefix)", "not run"], ["-", "0.030", "-", "-", "-", "-"]),
    ]
    words = (
        "generated captions, PTB tokenizer on captions and references, the words of "
        "pipeline/metrics/gender_words.yaml"
    )
    assert (
        "(gender words: PTB, 5 refs, beam 3) ours: beam 3, length penalty 0.7, at most 30 "
        f"tokens; {words}." in sheet.legend
    )
    assert not any("pycocoevalcap" in line for line in sheet.legend)


def test_ours_stands_beside_the_paper_and_no_two_protocols_share_a_column():
    (sheet,) = paper_sheets(PAPERS, [result(paper=("nic", "large"), notes="another encoder")])
    table = sheet.tables[0].for_people()
    assert [c.header for c in table.columns] == [
        "bleu_4 (standard: PTB, 5 refs, beam 3)",
        "paper bleu_4 (raw protocol)",
        "paper bleu_4 (unknown protocol)",
        "loss (teacher-forced)",
        "paper loss (unknown protocol)",
    ]
    assert table.texts() == [
        (["small", "not run"], ["-", "0.272", "-", "-", "-"]),
        (["large", "lstm"], ["0.2500", "-", "0.3126", "2.5000", "2.62"]),
    ]
    assert sheet.notes == ["lstm: another encoder", "large (paper): derived, 3 * 10.419"]
    assert "(raw protocol) the paper's: scored on raw strings." in sheet.legend


def test_variants_of_two_decodings_or_corpora_have_columns_of_their_own_beside_a_paper():
    ours = [
        result("beam", paper=("nic", "large")),
        result("greedy", "greedy, at most 30 tokens", paper=("nic", "large")),
        result("other", setting=corpus("lower"), paper=("nic", "small")),
    ]
    (sheet,) = paper_sheets(PAPERS, ours)
    table = sheet.tables[0]
    bleu = [i for i, c in enumerate(table.columns) if c.metric == "bleu_4" and not c.paper]
    assert [table.columns[i].protocol for i in bleu] == [
        "standard: corpus scenes, PTB, 5 refs, beam 3, length penalty 0.7, at most 30 tokens",
        "standard: PTB, 5 refs, greedy",
        "standard: corpus lower, PTB, 5 refs, beam 3, length penalty 0.7, at most 30 tokens",
    ]
    assert [[names[1], *(cells[i] for i in bleu)] for names, cells in table.texts()] == [
        ["other", "-", "-", "0.2500"],
        ["beam", "0.2500", "-", "-"],
        ["greedy", "-", "0.2500", "-"],
    ]


def test_a_paper_without_figures_shows_all_of_ours():
    papers = {
        **PAPERS,
        "tables": {
            "nic": {"title": "A paper", "rows": [{"system": "large", "protocol": "unknown"}]}
        },
    }
    scores = {"test": {**TEST, **VARIED, "gender_error": 0.5}, "val": VAL}
    (sheet,) = paper_sheets(papers, [result(scores=scores, paper=("nic", "large"))])
    metrics = ["bleu_1", "bleu_4", "cider", "loss", "perplexity", "top5", "seeds", "commit"]
    assert [c.metric for c in sheet.tables[0].columns] == metrics


def test_every_row_of_the_papers_file_can_be_shown():
    papers = read_papers()
    for name, table in papers["tables"].items():
        rows = [(row["system"], row.get("split", "test")) for row in table["rows"]]
        assert len(set(rows)) == len(rows), name
        (sheet,) = paper_sheets(papers, [result(paper=(name, table["rows"][0]["system"]))])
        scores = [
            v
            for t in sheet.tables
            if "system" in t.keys
            for _, vs in t.rows
            for c, v in zip(t.columns, vs, strict=True)
            if c.paper and v != "-"
        ]
        printed = [k for row in table["rows"] for k, v in row.items() if isinstance(v, int | float)]
        assert len(scores) == len(printed), name
        markdown(sheet)


def test_the_context_of_the_convnext_table_is_printed_on_the_scale_0_to_1():
    (sheet,) = paper_sheets(read_papers(), [result(paper=("convnext_coco", "deit"))])
    said = (
        "Published captioners, COCO 2014 (unknown protocol): clipcap-mlp bleu_4 0.3215, meteor "
        "0.271, cider 1.0835"
    )
    assert said in sheet.notes
