"""Train every kind of task with the same call, on data sets as they are published, and list what an earlier split holds too.

Each data set is measured in a process of its own and written at once; the same command goes on where it stopped.
The folder given as --data holds one folder for each data set, with train.csv and, if there are any, validation.csv and test.csv.
"""
import argparse
import contextlib
import csv
import hashlib
import io
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from default_job import write
from speed import SPLITS, begin, carry_out, not_done, stop

HERE = Path(__file__).resolve().parent
MODEL = "minilm"
TOY_ROWS = 90  # of each toy data set


def files_of(folder: Path) -> list[Path]:
    "The splits that a data set is published with."
    return [path for split in SPLITS if (path := folder / f"{split}.csv").is_file()]


def as_published(data: Any, published: list[str]) -> Any:
    "The splits without the cuts that load_data has made."
    from datasets import DatasetDict, concatenate_datasets
    cut = [data[split] for split in SPLITS if split not in published]
    return DatasetDict({split: concatenate_datasets([data[split], *cut]) if split == "train" else data[split] for split in published})


def count_by_sets(published: Any) -> dict[str, int]:
    "For each later split, the rows whose texts train holds too, counted with nothing but sets of strings."
    def keys(rows: Any) -> Iterator[tuple[str, ...]]:
        for row in zip(*(rows[name] for name in ("text", "text_pair") if name in rows.column_names)):
            yield tuple(" ".join(re.findall(r"\w+", text.casefold())) for text in row)
    known = set(keys(published["train"]))
    return {split: sum(key in known for key in keys(rows)) for split, rows in published.items() if split != "train"}


def work(job: dict[str, Any], settings: dict[str, Any], data: str, started: float, folder: str) -> dict[str, Any]:
    "In the child: load, look for leaks, train with nothing chosen, and test."
    from hf_finetune.data import describe_data, find_leaks, label_names, load_data, problem_type
    from hf_finetune.training import finetune
    source, told = Path(data) / job["name"], io.StringIO()
    with contextlib.redirect_stdout(told): loaded = load_data(str(source))
    published = as_published(loaded, [path.stem for path in files_of(source)])
    flaws = describe_data(published).table[["repeated rows", "rows with odd characters"]].sum()
    leaks = find_leaks(published).groupby(["split", "earlier_split"]).size()
    run = finetune(MODEL, loaded, Path(folder) / "run", seed=settings["seed"], **({"max_steps": settings["max_steps"]} if settings["max_steps"] else {}))
    used = run.settings["arguments"]
    return dict(
        told=told.getvalue().splitlines(), task=problem_type(loaded), pair=run.settings["text_pair"], labels=len(label_names(loaded)),
        published={split: len(rows) for split, rows in published.items()}, rows={split: len(rows) for split, rows in loaded.items()},
        repeated=int(flaws.iloc[0]), odd=int(flaws.iloc[1]), in_train_by_sets=count_by_sets(published),
        leaks=[dict(split=split, earlier_split=earlier, rows=int(rows)) for (split, earlier), rows in leaks.items()],
        outputs=run.model.config.num_labels, problem_type=run.model.config.problem_type, metric=run.settings["metric"], max_length=run.settings["max_length"],
        used={name: used[name] for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed")},
        best=dict(epoch=run.best.epoch, validation=run.best.value), test={metric: score.value for metric, score in run.test().items()})


def write_toy(folder: Path) -> None:
    "A small data set of each kind, cut out of the built-in articles."
    from hf_finetune.data import label_names, load_data
    with contextlib.redirect_stdout(io.StringIO()): articles = load_data("bbc-news")
    draw, topics = random.Random(0), label_names(articles)
    rows = [(row["text"].split("\n")[0], topics[row["label"]]) for row in articles["train"].select(range(2 * TOY_ROWS))]
    pairs = list(zip(rows[::2], rows[1::2]))
    toys = {
        "binary": [("text", "label"), *((text, topic if topic == "sports" else "other") for text, topic in rows[:TOY_ROWS])],
        "classes": [("text", "label"), *rows[:TOY_ROWS]],
        "several": [("text", "labels"), *((f"{first} {second}", ", ".join(sorted({one, other}))) for (first, one), (second, other) in pairs)],
        "numbers": [("text", "label"), *((text, f"{len(text) / 10}") for text, topic in rows[:TOY_ROWS])],
        "pairs": [("sentence1", "sentence2", "label"), *((first, second, int(one == other)) for (first, one), (second, other) in draw.sample(pairs, len(pairs)))]}
    for name, table in toys.items():
        (folder / name).mkdir()
        with (folder / name / "train.csv").open("w", newline="") as file: csv.writer(file).writerows(table)


def digest(folder: Path) -> str:
    "16 hexadecimal digits that follow from the content of the splits."
    return hashlib.sha256(b"".join(path.read_bytes() for path in files_of(folder))).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with one folder for each data set")
    parser.add_argument("--toy", action="store_true", help="small sets cut out of the built-in articles instead, to try the script")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the data sets (all)")
    parser.add_argument("--seed", type=int, default=42, help="of training; splits that are cut stay the same (42)")
    parser.add_argument("--max_steps", type=int, help="stop after so many steps, to try the script")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "tasks.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child: return write(asked.output, work(**json.loads(asked.child)))

    if not asked.toy and asked.data is None: stop("tasks.py needs --data FOLDER with one folder for each data set, or --toy")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) if asked.toy else asked.data.resolve()
        if asked.toy: write_toy(data)
        names = [path.name for path in sorted(data.iterdir()) if path.is_dir() and files_of(path)] if data.is_dir() else []
        missing = [name for name in asked.only or () if name not in names]
        if missing or not names: stop(f"{asked.data} has no {' or '.join(missing) or 'data set'}: expected folders with train.csv, and perhaps validation.csv and test.csv")
        words = ["FOLDER" if word == str(asked.data) else word for word in sys.argv[1:] if word not in ("--output", str(asked.output))]
        result = begin(asked.output, " ".join(["python", "nbs/evidence/tasks.py", *words]), dict(model=MODEL, seed=asked.seed, max_steps=asked.max_steps))
        jobs = [dict(kind="task", name=name, digest=digest(data / name)) for name in asked.only or names]
        carry_out(result, not_done(result, jobs), asked.output, __file__, settings=result["settings"], data=str(data))


if __name__ == "__main__": main()
