"""Search the same space with the same number of trials in three ways, and score what each hands back on rows that no trial has seen.

MiniLM on texts with one class each, on the processor. Each search runs in a process of its own and is written at once; the same command goes on where it stopped.
With --at_once, so many run side by side, each on cores of its own.
The folder given as --data holds train.csv and perhaps test.csv with the columns text and label, as TREC has them.

ours    search, everything left alone
whole   search with pruner="none": every trial is trained to its end
plain   Trainer.hyperparameter_search with Optuna, as its documentation shows it: dynamic padding, an evaluation after each epoch, told to maximize,
        without checkpoints; what it hands back is trained again, since that is a dictionary
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

HERE = Path(__file__).resolve().parent
KINDS = ("ours", "whole", "plain")
MODEL, MAX_LENGTH = "minilm", 64


def read(data: str, rows: int | None) -> Any:
    "The splits, of train the first rows only if so many are asked for."
    from hf_finetune.data import load_data
    splits = load_data(data)
    return splits if rows is None else type(splits)({split: part.select(range(min(len(part), rows))) for split, part in splits.items()})


def trials_of(study: Any, began: float) -> list[dict[str, Any]]:
    "What each trial tried and found, and when it ended, in seconds since the search began."
    return [dict(values=trial.params, score=trial.value, state=trial.state.name.lower(), ended_s=round(trial.datetime_complete.timestamp() - began, 2),
                 seconds=round((trial.datetime_complete - trial.datetime_start).total_seconds(), 2)) for trial in study.trials]


def search_ours(data: str, rows: int | None, n_trials: int, seed: int, pruner: str) -> dict[str, Any]:
    "In the child: the library's search, with a clock around each training."
    from hf_finetune.search import search
    from hf_finetune.space import default_space
    from hf_finetune.study import best_of
    from hf_finetune.trainer import FinetuneTrainer
    splits, spent = read(data, rows), []
    train = FinetuneTrainer.train
    def timed(self: Any, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try: return train(self, *arguments, **options)
        finally: spent.append(time.perf_counter() - start)
    FinetuneTrainer.train = timed
    with tempfile.TemporaryDirectory() as place:
        began = time.time()
        result = search(MODEL, splits, default_space(MODEL, splits), n_trials, output_dir=f"{place}/study", pruner=pruner, seed=seed, max_length=MAX_LENGTH, use_cpu=True, disable_tqdm=True)
        wall, trials = time.time() - began, trials_of(result.study, began)
        for trial, seconds, noted in zip(trials, spent, result.study.trials):
            trial["steps"], trial["planned_steps"] = noted.user_attrs["steps"]
            trial["overhead_s"] = round(trial["seconds"] - seconds, 3)
        tested = result.best.test()["accuracy"]
        return dict(wall_s=round(wall, 2), best=best_of(result.study).number, trials=trials, test_accuracy=tested.value, test_low=tested.low, test_high=tested.high,
                    rows={split: len(part) for split, part in splits.items()})


def search_plain(data: str, rows: int | None, n_trials: int, seed: int) -> dict[str, Any]:
    "In the child: the Trainer's search, then a training with what it found."
    import numpy as np
    import optuna
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments
    from hf_finetune.device import pick_device, pick_precision
    from hf_finetune.space import default_space, read_space, suggest
    from hf_finetune.tokenizer import find_pretrained
    splits, place = read(data, rows), find_pretrained(MODEL)
    tokenizer, labels = AutoTokenizer.from_pretrained(place), splits["train"].features["label"].names
    tokens = splits.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH), batched=True).select_columns(["input_ids", "attention_mask", "label"])
    space = read_space(default_space(MODEL, splits))
    half = pick_precision(pick_device()[0])[0] == "bf16"
    def trainer_in(folder: str, **values: Any) -> Trainer:
        args = TrainingArguments(folder, eval_strategy="epoch", save_strategy="no", per_device_eval_batch_size=64, bf16=half, use_cpu=True, disable_tqdm=True, report_to="none", seed=seed, **values)
        trainer = Trainer(model_init=lambda trial=None: AutoModelForSequenceClassification.from_pretrained(place, num_labels=len(labels)), args=args, train_dataset=tokens["train"],
                          eval_dataset=tokens["validation"], data_collator=DataCollatorWithPadding(tokenizer), compute_metrics=lambda found: dict(accuracy=float((found.predictions.argmax(1) == found.label_ids).mean())))
        trainer.remove_callback(PrinterCallback)
        return trainer
    with tempfile.TemporaryDirectory() as folder:
        began, storage = time.time(), f"sqlite:///{folder}/study.db"
        best = trainer_in(f"{folder}/trials").hyperparameter_search(lambda trial: suggest(trial, space), direction="maximize", backend="optuna", n_trials=n_trials, study_name="plain", storage=storage,
                                                                    sampler=optuna.samplers.TPESampler(seed=seed))
        wall, trials = time.time() - began, trials_of(optuna.load_study(study_name="plain", storage=storage), began)
        winner = trainer_in(f"{folder}/winner", **best.hyperparameters)
        winner.train()
        again = time.time() - began - wall
        found = winner.predict(tokens["test"])
    return dict(wall_s=round(wall, 2), best=int(best.run_id), trials=trials, test_accuracy=float(np.mean(found.predictions.argmax(1) == found.label_ids)), trained_again_s=round(again, 2),
                rows={split: len(part) for split, part in splits.items()})


def work(kind: str, data: str, rows: int | None, n_trials: int, seed: int, cores: list[int]) -> dict[str, Any]:
    "One search, in the child."
    if hasattr(os, "sched_setaffinity"): os.sched_setaffinity(0, cores)
    if kind == "plain": return search_plain(data, rows, n_trials, seed)
    return search_ours(data, rows, n_trials, seed, "none" if kind == "whole" else "median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.csv (text, label), and perhaps test.csv")
    parser.add_argument("--toy", action="store_true", help="the built-in articles instead, to try the script")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the searches (0 1 2 3 4)")
    parser.add_argument("--n_trials", type=int, default=20, help="of each search (20)")
    parser.add_argument("--rows", type=int, help="use only so many rows of each split")
    parser.add_argument("--at_once", type=int, default=1, help="searches side by side; the cores are dealt out among them (1)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=f"some of {', '.join(KINDS)} (all)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "search.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        import optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        asked.output.write_text(json.dumps(work(**json.loads(asked.child))))
        return
    from speed import begin, not_done, stop, write
    if not asked.toy and asked.data is None: stop("search.py needs --data FOLDER with train.csv (text, label), or --toy")
    if not asked.toy and not (asked.data / "train.csv").is_file(): stop(f"{asked.data} lacks train.csv: give a folder that holds it")
    if not 1 <= asked.at_once <= os.cpu_count(): stop(f"--at_once must be from 1 to {os.cpu_count()}, the cores there are, found {asked.at_once}")
    if asked.n_trials < 1: stop(f"--n_trials must be at least 1, found {asked.n_trials}")
    data = "bbc-news" if asked.toy else str(asked.data.resolve())
    name = data if asked.toy else asked.data.resolve().name
    words = [name if word == str(asked.data) else word for word in sys.argv[1:] if word not in ("--output", str(asked.output))]
    result = begin(asked.output, " ".join(["python", "nbs/evidence/search.py", *words]), dict(model=MODEL, data=name, rows=asked.rows, n_trials=asked.n_trials, max_length=MAX_LENGTH))
    import importlib.metadata
    result["versions"]["optuna"] = importlib.metadata.version("optuna")
    write(asked.output, result)
    lock, free = Lock(), [list(range(first, os.cpu_count(), asked.at_once)) for first in range(asked.at_once)]
    def measure(job: dict[str, Any]) -> None:
        with lock: own = free.pop()
        with tempfile.TemporaryDirectory() as place:
            answer, load = Path(place) / "answer.json", [round(value, 2) for value in os.getloadavg()]
            child = [sys.executable, __file__, "--output", str(answer), "--child", json.dumps(dict(**job, data=data, rows=asked.rows, n_trials=asked.n_trials, cores=own))]
            quiet = {**os.environ, "OMP_NUM_THREADS": str(len(own)), "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
            subprocess.run(child, env=quiet, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            found = json.loads(answer.read_text())
        with lock:
            free.append(own)
            result["measurements"].append({**job, **found, "cores": len(own), "load_before": load})
            write(asked.output, result)
            print(f"{job['kind']} {job['seed']}: {found['wall_s']} s, validation {found['trials'][found['best']]['score']:.4f}, test {found['test_accuracy']:.4f}", flush=True)
    with ThreadPoolExecutor(asked.at_once) as lanes: list(lanes.map(measure, not_done(result, [dict(kind=kind, seed=seed) for seed in asked.seeds for kind in asked.only])))


if __name__ == "__main__": main()
