"""Measure the memory that rows take on their way from a CSV file to batches, and how fast pairs are tokenized.

Each measurement runs in a process of its own and is written at once; the same command goes on where it stopped.
The rows are cut out of the built-in articles: 10 to 40 words and a number, so that all are distinct, with two labels.
Only memory of the process's own counts (RssAnon): pages of a file that is mapped can be dropped at any time. Linux only.
"""
import argparse
import csv
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from default_job import write
from speed import begin, carry_out, not_done, read_articles, stop

HERE = Path(__file__).resolve().parent
MODEL, BATCH_SIZE, MAX_LENGTH = "minilm", 16, 128
STATUS = Path("/proc/self/status")
INTERVAL = 0.02     # seconds between two looks at the memory
WHOLE_PASS = 100_000  # rows up to which every batch is padded; beyond, every 50th
BATCH_OF_ROWS = 1000  # rows in one call of the tokenizer, as in Dataset.map


def memory(field: str) -> int:
    "Bytes that Linux reports for this process: RssAnon now, or VmHWM at the highest so far."
    return 1024 * int(re.search(rf"^{field}:\s+(\d+)", STATUS.read_text(), re.M)[1])


class Stage:
    "Takes the time of a block and looks at the memory while it runs."
    def __init__(self,
        stages: list[dict[str, Any]], # Where the result goes
        name: str,                    # Of the stage
    ):
        self.stages, self.name, self.over = stages, name, threading.Event()

    def watch(self) -> None:
        while not self.over.wait(INTERVAL): self.peak = max(self.peak, memory("RssAnon"))

    def __enter__(self) -> None:
        self.peak, self.clock = memory("RssAnon"), time.perf_counter()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        self.thread.join()
        after = memory("RssAnon")
        self.stages.append(dict(stage=self.name, peak_bytes=max(self.peak, after), after_bytes=after, seconds=round(time.perf_counter() - self.clock, 2)))


def made_up(rows: int, seed: int) -> Iterator[str]:
    "So many texts of 10 to 40 words and a number each, no two the same."
    draw, articles = random.Random(seed), [words for text in read_articles() if len(words := text.split()) > 40]
    for row in range(rows):
        words, count = draw.choice(articles), draw.randint(10, 40)
        start = draw.randrange(len(words) - count)
        yield " ".join([*words[start:start + count], str(row)])


def write_rows(path: Path, rows: int) -> None:
    "A CSV file of made-up texts with two labels."
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for row, text in enumerate(made_up(rows, seed=0)): table.writerow([text, ("even", "odd")[row % 2]])


def pass_over(sampler: Any, every: int, counts: dict[str, int], seen: Any) -> Iterator[list[int]]:
    "All batches of an epoch, of which only some are handed on."
    for number, batch in enumerate(sampler):
        counts["batches"] += 1
        counts["rows_in_batches"] += len(batch)
        seen[batch] += 1
        if number % every == 0: yield batch


def count_rows(job: dict[str, Any], path: Path) -> dict[str, Any]:
    "In the child: from a CSV file to padded batches, stage by stage."
    import numpy as np
    from torch.utils.data import DataLoader
    from hf_finetune.collator import LengthGroupedBatchSampler, load_collator
    from hf_finetune.data import load_data
    from hf_finetune.tokenizer import load_tokenizer, tokenize_data
    stages, counts, tokenizer = [], dict(batches=0, rows_in_batches=0, padded_batches=0, tokens=0, real_tokens=0), load_tokenizer(MODEL)
    with Stage(stages, "imports"): tokenizer("One text, so that everything is in place.")
    with Stage(stages, "load_data"): data = load_data(str(path))
    with Stage(stages, "tokenize_data"): rows = tokenize_data(data, tokenizer, MAX_LENGTH)["train"]
    with Stage(stages, "batches"):
        sampler, seen = LengthGroupedBatchSampler(rows.with_format("numpy")["length"][:], BATCH_SIZE, seed=0), np.zeros(len(rows), np.int8)
        for batch in DataLoader(rows, batch_sampler=pass_over(sampler, job["every"], counts, seen), collate_fn=load_collator(tokenizer)):
            counts["padded_batches"] += 1
            counts["tokens"] += batch["input_ids"].numel()
            counts["real_tokens"] += int(batch["attention_mask"].sum())
    return dict(csv_bytes=path.stat().st_size, train_rows=len(rows), stages=stages, max_rss_bytes=memory("VmHWM"), each_row_once=bool((seen == 1).all()), **counts)


def tokenize_pairs(job: dict[str, Any]) -> dict[str, Any]:
    "In the child: tokenize_data against bare calls of the tokenizer, by turns; each repeat has rows of its own, so that no cache helps."
    from datasets import Dataset
    from hf_finetune.tokenizer import load_tokenizer, tokenize_data
    tokenizer, seconds = load_tokenizer(MODEL), dict(bare=[], tokenize_data=[])

    def bare(first: list[str], second: list[str]) -> None:
        for start in range(0, len(first), BATCH_OF_ROWS):
            end = start + BATCH_OF_ROWS
            tokenizer(first[start:end], second[start:end], truncation="longest_first", max_length=MAX_LENGTH)

    def taken(action: Callable[[], Any]) -> float:
        clock = time.perf_counter()
        action()
        return round(time.perf_counter() - clock, 4)

    for repeat in range(job["repeats"] + 1):
        texts = list(made_up(2 * job["pairs"], seed=repeat + 1))
        pairs = Dataset.from_dict(dict(text=texts[::2], text_pair=texts[1::2]))
        actions = dict(bare=lambda: bare(texts[::2], texts[1::2]), tokenize_data=lambda: tokenize_data(pairs, tokenizer, MAX_LENGTH))
        for name in sorted(actions, reverse=repeat % 2 == 1):
            found = taken(actions[name])
            if repeat: seconds[name].append(found)  # the first one warms up
    return dict(seconds=seconds)


def work(job: dict[str, Any], settings: dict[str, Any], path: str, started: float, folder: str) -> dict[str, Any]:
    "In the child: carry out one job."
    return tokenize_pairs(job) if job["kind"] == "pairs" else count_rows(job, Path(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="sizes to measure (10000 100000 1000000)")
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs to tokenize in each repeat (20000)")
    parser.add_argument("--repeats", type=int, default=5, help="of tokenizing, by turns with bare calls (5)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scale.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not STATUS.is_file(): stop(f"scale.py reads the memory from {STATUS}, which only Linux has")
    if asked.child: return write(asked.output, work(**json.loads(asked.child)))

    words = [word for word in sys.argv[1:] if word not in ("--output", str(asked.output))]
    settings = dict(model=MODEL, batch_size=BATCH_SIZE, max_length=MAX_LENGTH)
    result = begin(asked.output, " ".join(["python", "nbs/evidence/scale.py", *words]), settings)
    jobs = [dict(kind="rows", rows=rows, every=1 if rows <= WHOLE_PASS else 50) for rows in asked.rows]
    jobs.append(dict(kind="pairs", pairs=asked.pairs, repeats=asked.repeats))
    for job in not_done(result, jobs):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.csv"
            if job["kind"] == "rows": write_rows(path, job["rows"])
            carry_out(result, [job], asked.output, __file__, settings=settings, path=str(path))


if __name__ == "__main__": main()
