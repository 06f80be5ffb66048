"""Measure what `FinetuneTrainer` and `finetune` cost: the same training with and without them, each time in a process of its own, on the processor.

MiniLM on the built-in articles, dropout off, so that every step computes the same; the same rows in the same order, precision, evaluation and saving.
Every measurement is written at once; the same command goes on where it stopped.

plain     the Trainer of transformers
trainer   FinetuneTrainer with the same arguments
script    the plain library from rows to predictions: tokenize, train, load the best checkpoint again, evaluate, predict
finetune  one call of finetune with the same arguments
turns     plain and trainer by turns in one process, a few steps each, always the same ones: the difference that a busy machine cannot hide
profile   where the time of finetune goes, by function
"""
import argparse
import contextlib
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from default_job import write
from gpu import Clock
from speed import begin, carry_out, not_done, stop

HERE = Path(__file__).resolve().parent
MODEL, DATA, MAX_LENGTH = "minilm", "bbc-news", 128
KINDS = ("plain", "trainer", "script", "finetune")
TURNS, TURN_STEPS, WARM_STEPS = 12, 8, 2  # of turns; the first steps of each are not counted
LEAST_S = 0.01  # functions that take less are left out of the profile


class Steps(Clock):
    "Notes each step by itself, what the processor works, and which rows came in which order."
    def __init__(self):
        super().__init__("cpu")
        self.steps, self.order, self.worked, self.finished = [], hashlib.sha256(), dict.fromkeys(self.spent, 0.0), False

    def lap(self, what: str) -> float:
        now = time.process_time()
        self.worked[what] += now - self.worked_until
        self.worked_until = now
        return super().lap(what)

    def count(self, model: Any, args: tuple, inputs: dict[str, Any]) -> None:
        super().count(model, args, inputs)
        if model.training: self.order.update(inputs["input_ids"].numpy().tobytes())

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)
        self.worked_until = time.process_time()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_epoch_begin(*args, **kwargs)
        self.step_ended = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_step_end(*args, **kwargs)
        now = time.perf_counter()
        self.steps.append(round(now - self.step_ended, 5))
        self.step_ended = now

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        if self.finished: return  # what comes after training counts as a whole
        self.lap("evaluation")
        self.evaluations.append(dict(step=state.global_step, loss=metrics["eval_loss"], accuracy=metrics["eval_accuracy"]))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_end(*args, **kwargs)
        self.finished = True

    def found(self) -> dict[str, Any]:
        "Everything noted, for the result file."
        noted = super().found()
        kept = ("precision", "attention", "evaluations", "training_s", "evaluation_s", "saving_s", "other_s", "from_first_to_last_s")
        return dict({name: noted[name] for name in kept}, worked_s={what: round(seconds, 4) for what, seconds in self.worked.items()},
                    tokens=sum(epoch["tokens"] for epoch in noted["epochs"]), order=self.order.hexdigest()[:16], step_s=self.steps)


class Bench:
    "What all kinds are given."
    def __init__(self, settings: dict[str, Any], seed: int, folder: str):
        import torch
        from hf_finetune.data import load_data
        from hf_finetune.device import pick_precision, precision_arguments
        from hf_finetune.tokenizer import load_tokenizer
        self.seed, self.folder, self.length, loaded = seed, folder, settings["max_length"], load_data(DATA)
        self.data = type(loaded)({split: rows.select(range(min(settings["rows"] or len(rows), len(rows)))) for split, rows in loaded.items()})
        self.tokenizer, device = load_tokenizer(MODEL), torch.device("cpu")
        # As finetune chooses by itself, or would without being told
        self.arguments = dict(
            max_steps=settings["max_steps"], per_device_train_batch_size=16, per_device_eval_batch_size=64, eval_accumulation_steps=16, learning_rate=1e-4, warmup_steps=0.1,
            weight_decay=0.01, train_sampling_strategy="random", logging_steps=10, seed=seed, disable_tqdm=True, report_to="none",
            **precision_arguments(device, pick_precision(device, "bert")[0]))

    def build(self) -> Any:
        "The pretrained encoder with a new head, without dropout."
        import torch
        from transformers import AutoModelForSequenceClassification, set_seed
        from hf_finetune.columns import label_names
        from hf_finetune.tokenizer import find_pretrained
        set_seed(self.seed)
        names = dict(enumerate(label_names(self.data)))
        model = AutoModelForSequenceClassification.from_pretrained(
            find_pretrained(MODEL), num_labels=len(names), id2label=names, label2id={name: i for i, name in names.items()}, dtype=torch.float32,
            problem_type="single_label_classification", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        return model

    def tokenized(self) -> Any:
        "The rows as a script tokenizes them."
        tokenizer, length = self.tokenizer, self.length
        return self.data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=length), batched=True)

    def plain(self, rows: Any, callback: Steps, **more: Any) -> Any:
        "A Trainer of transformers."
        from sklearn.metrics import accuracy_score, f1_score
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
        def compute_metrics(output: Any) -> dict[str, float]:
            predictions = output.predictions.argmax(-1)
            return dict(accuracy=accuracy_score(output.label_ids, predictions), f1=f1_score(output.label_ids, predictions, average="macro"))
        arguments = TrainingArguments(self.folder, eval_strategy="epoch", save_strategy="epoch", **self.arguments, **more)
        return Trainer(self.build(), arguments, train_dataset=rows["train"], eval_dataset=rows["validation"], processing_class=self.tokenizer,
                       data_collator=DataCollatorWithPadding(self.tokenizer), compute_metrics=compute_metrics, callbacks=[callback])

    def trainer(self, rows: Any, callback: Steps) -> Any:
        "A FinetuneTrainer with the same arguments."
        from transformers import TrainingArguments
        from hf_finetune.trainer import build_trainer
        arguments = TrainingArguments(self.folder, eval_strategy="epoch", save_strategy="epoch", **self.arguments)
        return build_trainer(self.build(), self.tokenizer, arguments, "accuracy", rows, [callback])


def script(bench: Bench, callback: Steps) -> None:
    "What finetune does, written with the plain library; the gradients of the embeddings kept as finetune keeps them."
    from hf_finetune.steps import keep_embedding_gradients
    trainer = bench.plain(bench.tokenized(), callback, load_best_model_at_end=True, metric_for_best_model="accuracy", save_total_limit=2)
    with keep_embedding_gradients(trainer.model): trainer.train()
    scores, predictions = trainer.evaluate(), trainer.predict(trainer.eval_dataset)
    (Path(bench.folder) / "metrics.json").write_text(json.dumps(dict(validation=scores, rows=len(predictions.predictions))))


def finetuned(bench: Bench, callback: Steps) -> None:
    "One call with the same arguments."
    from hf_finetune.training import finetune
    def minilm() -> Any: return bench.build()
    finetune(minilm, bench.data, bench.folder, max_length=bench.length, callbacks=[callback], **bench.arguments)


def turns(bench: Bench, rows: Any, number: int) -> dict[str, list[float]]:
    "Seconds of the counted steps of each turn."
    from transformers.trainer_utils import IntervalStrategy
    found: dict[str, list[float]] = dict(plain=[], trainer=[])
    for turn in range(number):
        for kind in (("plain", "trainer"), ("trainer", "plain"))[turn % 2]:
            steps = Steps()
            trainer = getattr(bench, kind)(rows, steps)
            trainer.args.max_steps, trainer.args.eval_strategy, trainer.args.save_strategy = TURN_STEPS, IntervalStrategy.NO, IntervalStrategy.NO
            trainer.train()
            found[kind].append(round(sum(steps.steps[WARM_STEPS:]), 5))
    return found


def profile(action: Callable[[], None]) -> dict[str, float]:
    "Seconds of each function of the library, with everything that it calls."
    import cProfile
    import pstats
    from hf_finetune import __file__ as package
    profiler = cProfile.Profile()
    profiler.runcall(action)
    home, seconds = Path(package).parent, {}
    for (file, line, name), (calls, all_calls, own, cumulative, callers) in pstats.Stats(profiler).stats.items():
        if Path(file).parent == home and cumulative >= LEAST_S and not name.startswith("<"):
            function = f"{Path(file).stem}.{name}"
            seconds[function] = round(seconds.get(function, 0.0) + cumulative, 4)
    return dict(sorted(seconds.items(), key=lambda entry: -entry[1]))


def work(job: dict[str, Any], settings: dict[str, Any], started: float, folder: str) -> dict[str, Any]:
    "In the child: carry out one job."
    bench, steps, kind = Bench(settings, job["seed"], str(Path(folder) / "run")), Steps(), job["kind"]
    if kind == "profile":
        with contextlib.redirect_stdout(None): return dict(seconds=profile(lambda: finetuned(bench, steps)))
    if kind in ("plain", "trainer", "turns"):
        rows = bench.tokenized().rename_column("label", "labels")
        rows = rows.map(lambda part: dict(length=[len(ids) for ids in part["input_ids"]]), batched=True)
        if kind == "turns":
            with contextlib.redirect_stdout(None): return dict(turn_s=turns(bench, rows, 2 if settings["rows"] else TURNS))
        action = {"plain": bench.plain, "trainer": bench.trainer}[kind](rows, steps).train
    else: action = lambda: {"script": script, "finetune": finetuned}[kind](bench, steps)
    worked, clock = time.process_time(), time.perf_counter()
    action()
    ended, worked = time.perf_counter(), time.process_time() - worked
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return dict(whole_s=round(ended - clock, 4), whole_worked_s=round(worked, 4), before_s=round(steps.began - clock, 4), after_s=round(ended - steps.last, 4),
                **steps.found(), peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def list_jobs(kinds: list[str], seeds: list[int]) -> list[dict[str, Any]]:
    "The kinds by turns; every other seed goes through them backwards."
    turns = [dict(kind=kind, seed=seed) for i, seed in enumerate(seeds) for kind in ([*kinds][::-1] if i % 2 else kinds) if kind != "profile"]
    return turns + [dict(kind="profile", seed=seeds[0]) for kind in kinds if kind == "profile"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = (*KINDS, "turns", "profile")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (0 1 2)")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, metavar="KIND", help=f"some of {', '.join(kinds)} (all)")
    parser.add_argument("--max_steps", type=int, default=40, help="steps of a training; one evaluation and one checkpoint follow (40)")
    parser.add_argument("--max_length", type=int, default=MAX_LENGTH, help=f"tokens at which rows are cut ({MAX_LENGTH})")
    parser.add_argument("--rows", type=int, help="use only so many rows of each split, to try the script")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cost.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child: return write(asked.output, work(**json.loads(asked.child)))

    if asked.max_steps < 2: stop(f"--max_steps must be at least 2, found {asked.max_steps}")
    settings = dict(model=MODEL, data=DATA, rows=asked.rows, max_steps=asked.max_steps, max_length=asked.max_length)
    words = [f"nbs/evidence/results/{asked.output.name}" if word == str(asked.output) else word for word in sys.argv[1:]]
    result = begin(asked.output, " ".join(["python", "nbs/evidence/cost.py", *words]), settings)
    jobs = list_jobs([kind for kind in kinds if kind in asked.only], asked.seeds)
    carry_out(result, not_done(result, jobs), asked.output, __file__, settings=settings)


if __name__ == "__main__": main()
