"""Measure how long MiniLM trains on pairs of sentences: three recipes of the plain library against `finetune`.

Each measurement runs in a process of its own, on the processor, and is written at once; the same command goes on where it stopped.
The folder given as --data holds train.csv, validation.csv and test.csv with the columns sentence1, sentence2 and label (0 or 1), as MRPC has them.

fixed      run_classification.py as it stands: both sentences joined by a space, every row padded to 128 tokens, float32, batches of 8
course     the recipe of the Hugging Face course: real pairs, each batch padded to its longest row, float32, batches of 8
rebalance  the same with train_sampling_strategy="batch_rebalance"
equal      finetune doing the same work: rows, epochs, learning rate, rows per step, schedule, no weight decay
defaults   finetune with nothing chosen
roofline   how fast the machine multiplies matrices and copies memory at best
profile    where the time of a step of equal goes, and profile_course where that of course does
"""
import argparse
import contextlib
import csv
import datetime
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from transformers import TrainerCallback

from default_job import busy, commit, machine, used_by_children, write

HERE = Path(__file__).resolve().parent
MODEL, LEARNING_RATE, BATCH_SIZE, MAX_LENGTH = "minilm", 5e-5, 8, 128
REFERENCES, OURS, SINGLE = ("fixed", "course", "rebalance"), ("equal", "defaults"), ("roofline", "profile", "profile_course")
SPLITS = ("train", "validation", "test")
PACKAGES = ("hf_finetune", "torch", "transformers", "accelerate", "datasets", "tokenizers")
SHAPES = ((512, 384, 1536), (4096, 384, 1536), (1024, 1024, 1024))  # rows, inputs and outputs of a product
REPEATS = 20                                                        # of each product; the fastest counts
PROFILED = 25                                                       # steps, of which the first fifth is left out
WHOLE = {  # calls that count with everything inside them
    "gradient of the embeddings": ("aten::embedding_dense_backward", "_LookUp"),
    "optimizer": ("Optimizer.step", "Optimizer.zero_grad"),
    "clipping of the gradient": ("aten::_foreach_norm", "aten::_foreach_mul_")}
SINGLY = {  # calls that count by themselves
    "random numbers of dropout": ("aten::bernoulli_", "aten::random_"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn", "mkldnn", "aten::_scaled_dot_product_flash"),
    "casts and copies": ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous"),
    "softmax, GELU and norms": ("aten::_softmax", "aten::gelu", "aten::native_layer_norm", "aten::tanh")}


class Watch(TrainerCallback):
    "Notes what each epoch takes, what each evaluation finds, and how many tokens the model is given; the same for all kinds."
    def __init__(self,
        started: float, # time.time() just before the process began
    ):
        self.started, self.epochs, self.evaluations, self.spent = started, [], [], dict(training=0.0, evaluation=0.0, saving=0.0)

    def lap(self, what: str) -> float:
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.spent[what] += seconds
        return seconds

    def count(self, model: Any, args: tuple, inputs: dict[str, Any]) -> None:
        if not model.training: return
        self.epochs[-1]["tokens"] += inputs["input_ids"].numel()
        self.epochs[-1]["real_tokens"] += int(inputs["attention_mask"].sum())

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
        self.arguments, self.device = args, model.device.type
        model.register_forward_pre_hook(self.count, with_kwargs=True)
        self.before_s, self.last = time.time() - self.started, time.perf_counter()
        self.began = self.last

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.lap("saving")  # of the epoch before
        self.epochs.append(dict(train_s=0.0, steps=0, tokens=0, real_tokens=0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epochs[-1]["train_s"] += self.lap("training")
        self.epochs[-1]["steps"] += 1

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: self.lap("saving")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: self.lap("saving")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.lap("evaluation")
        self.evaluations.append(dict(
            epoch=round(state.epoch, 4), step=state.global_step, accuracy=metrics["eval_accuracy"], f1=metrics["eval_f1"],
            training_s=round(self.spent["training"], 2), since_training_began_s=round(self.last - self.began, 2),
            since_start_s=round(self.before_s + self.last - self.began, 2)))

    def found(self) -> dict[str, Any]:
        "Everything noted, for the result file."
        args = self.arguments
        return dict(
            device=self.device, weights=sorted(self.weights), precision="bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
            used=dict(learning_rate=args.learning_rate, num_train_epochs=args.num_train_epochs, per_device_train_batch_size=args.per_device_train_batch_size,
                      train_sampling_strategy=str(args.train_sampling_strategy), warmup_steps=args.warmup_steps, weight_decay=args.weight_decay),
            epochs=[{**epoch, "train_s": round(epoch["train_s"], 3)} for epoch in self.epochs], evaluations=self.evaluations,
            train_s=round(self.spent["training"], 2), evaluation_s=round(self.spent["evaluation"], 2), saving_s=round(self.spent["saving"], 2),
            before_training_s=round(self.before_s, 2))


def reference(job: dict[str, Any], settings: dict[str, Any], data: str, folder: str, callback: TrainerCallback) -> None:
    "Train as users of the plain library do."
    import numpy as np
    from datasets import load_dataset
    from sklearn.metrics import accuracy_score, f1_score
    from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments,
                              default_data_collator, set_seed)
    from hf_finetune.tokenizer import find_pretrained  # the folder of the weights, and nothing else

    set_seed(job["seed"])
    fixed, source = job["kind"] == "fixed", find_pretrained(MODEL)
    raw = load_dataset("csv", data_files={split: str(Path(data) / f"{split}.csv") for split in SPLITS})
    if settings["rows"]: raw = type(raw)({split: rows.select(range(min(settings["rows"], len(rows)))) for split, rows in raw.items()})
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)

    def pad_all(rows: dict[str, list]) -> Any:
        joined = [f"{first} {second}" for first, second in zip(rows["sentence1"], rows["sentence2"])]
        return tokenizer(joined, padding="max_length", max_length=MAX_LENGTH, truncation=True)

    def cut_only(rows: dict[str, list]) -> Any: return tokenizer(rows["sentence1"], rows["sentence2"], truncation=True)

    def compute_metrics(output: Any) -> dict[str, float]:
        predictions = np.argmax(output.predictions, axis=-1)
        return dict(accuracy=accuracy_score(output.label_ids, predictions), f1=f1_score(output.label_ids, predictions))

    tokenized = raw.map(pad_all if fixed else cut_only, batched=True)
    options = dict(train_sampling_strategy="batch_rebalance") if job["kind"] == "rebalance" else {}
    if settings["max_steps"]: options["max_steps"] = settings["max_steps"]
    arguments = TrainingArguments(folder, eval_strategy="epoch", num_train_epochs=job["arguments"]["num_train_epochs"], seed=job["seed"],
                                  learning_rate=LEARNING_RATE, per_device_train_batch_size=BATCH_SIZE,
                                  use_cpu=True, report_to="none", disable_tqdm=True, **options)
    Trainer(model, arguments, train_dataset=tokenized["train"], eval_dataset=tokenized["validation"], processing_class=tokenizer,
            data_collator=default_data_collator if fixed else DataCollatorWithPadding(tokenizer),
            compute_metrics=compute_metrics, callbacks=[callback]).train()


def ours(job: dict[str, Any], settings: dict[str, Any], data: str, folder: str, callback: TrainerCallback) -> None:
    "Train with the library, as its users do."
    from hf_finetune.data import load_data
    from hf_finetune.training import finetune
    rows, arguments = load_data(data), dict(job["arguments"])
    if settings["rows"]: rows = type(rows)({split: part.select(range(min(settings["rows"], len(part)))) for split, part in rows.items()})
    if settings["max_steps"]: arguments["max_steps"] = settings["max_steps"]
    finetune(MODEL, rows, folder, seed=job["seed"], use_cpu=True, callbacks=[callback], **arguments)


class Profiler(TrainerCallback):
    "Profiles the steps of a training, the first fifth left out."
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: self.first = max(1, state.max_steps // 5)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from torch.profiler import ProfilerActivity, profile
        if state.global_step != self.first: return
        self.profile, self.began = profile(activities=[ProfilerActivity.CPU]), time.perf_counter()
        self.profile.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != state.max_steps: return
        self.seconds, self.steps = time.perf_counter() - self.began, state.max_steps - self.first
        self.profile.__exit__(None, None, None)


def names_upwards(event: Any) -> Iterator[str]:
    "The name of a profiled call, of its caller, and so on."
    while event is not None:
        yield event.name
        event = event.cpu_parent


def group_of(event: Any) -> str:
    "What a profiled call belongs to."
    def among(groups: dict[str, tuple[str, ...]], name: str) -> str | None: return next((group for group, starts in groups.items() if name.startswith(starts)), None)
    names = list(names_upwards(event))
    return next(filter(None, (among(WHOLE, name) for name in names)), None) or among(SINGLY, names[0]) or "other"


def profile_steps(job: dict[str, Any], settings: dict[str, Any], data: str, folder: str) -> dict[str, Any]:
    "Seconds of the calls of a step, by what they are for."
    profiler = Profiler()
    train = reference if job["kind"] == "profile_course" else ours
    train(job, {**settings, "max_steps": settings["max_steps"] or PROFILED}, data, folder, profiler)
    seconds = {}
    for event in profiler.profile.events():
        group = group_of(event)
        seconds[group] = seconds.get(group, 0.0) + event.self_cpu_time_total / 1e6
    groups = {group: round(seconds.get(group, 0.0), 4) for group in (*WHOLE, *SINGLY, "other")}
    return dict(steps=profiler.steps, wall_of_steps_s=round(profiler.seconds, 3), seconds=groups)


def fastest(action: Any) -> list[float]:
    "Seconds of each repeat, after three that are left out."
    for _ in range(3): action()
    times = []
    for _ in range(REPEATS):
        clock = time.perf_counter()
        action()
        times.append(round(time.perf_counter() - clock, 7))
    return times


def roofline() -> dict[str, Any]:
    "What the machine does at best, and what a token and a step ask for."
    import torch
    from torch.nn.functional import linear
    from transformers import AutoConfig
    from hf_finetune.tokenizer import find_pretrained
    products = []
    for precision, dtype in dict(bf16=torch.bfloat16, fp32=torch.float32).items():
        for rows, inputs, outputs in SHAPES:
            left, right = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
            times = fastest(lambda: linear(left, right))
            products.append(dict(precision=precision, shape=[rows, inputs, outputs], seconds=times, flop_per_s=round(2 * rows * inputs * outputs / min(times))))
    config = AutoConfig.from_pretrained(find_pretrained(MODEL))
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    matrices = layers * (4 * width * width + 2 * width * inner)
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * width
    numbers = torch.empty(embeddings + matrices)
    target = torch.empty_like(numbers)
    copies = fastest(lambda: target.copy_(numbers))
    return dict(threads=torch.get_num_threads(), products=products, copy=dict(seconds=copies, bytes_per_s=round(2 * numbers.nbytes / min(copies))),
                weights_in_matrices=matrices, weights_in_embeddings=embeddings,
                flop_per_token=3 * 2 * matrices,                       # forward once, backward twice; a multiplication and an addition each
                bytes_per_step=7 * 4 * (matrices + embeddings))        # AdamW reads four numbers for each weight and writes three


def work(job: dict[str, Any], settings: dict[str, Any], data: str, started: float, folder: str) -> dict[str, Any]:
    "In the child: carry out one job."
    kind, run = job["kind"], str(Path(folder) / "run")
    if kind == "roofline": return roofline()
    if kind.startswith("profile"): return profile_steps(job, settings, data, run)
    watch = Watch(started)
    (reference if kind in REFERENCES else ours)(job, settings, data, run, watch)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return {**watch.found(), "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def measure(script: str, job: dict[str, Any], **order: Any) -> dict[str, Any]:
    "Run one job of a script in a fresh process with caches of its own; its seconds count from before Python starts until after it ends."
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    environment |= dict(TQDM_DISABLE="1", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    load, date = os.getloadavg(), datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory() as folder:
        answer, environment["HF_HOME"] = Path(folder) / "answer.json", str(Path(folder) / "cache")
        environment.pop("HF_DATASETS_CACHE", None)
        before, child, started, clock = busy(), used_by_children(), time.time(), time.perf_counter()
        told = json.dumps(dict(job=job, started=started, folder=folder, **order))
        ended = subprocess.run([sys.executable, script, "--child", told, "--output", str(answer)], env=environment, capture_output=True, text=True)
        if ended.returncode: stop(f"{json.dumps(job)} failed ({(ended.stderr.strip() or 'killed').splitlines()[-1]}): the measurements before it are kept")
        seconds, own, after = time.perf_counter() - clock, used_by_children() - child, busy()
        found = json.loads(answer.read_text())
    return {**job, "date": date, "commit": commit(), **found, "wall_s": round(seconds, 2), "cpu_s": round(own, 2),
            "other_cpu_s": None if before is None else round(max(0.0, after - before - own), 2), "load_before": [round(value, 2) for value in load]}


def stop(message: str) -> NoReturn:
    "Say in one line what is wrong, and end with 2."
    print(message, file=sys.stderr)
    raise SystemExit(2)


def begin(output: Path, command: str, settings: dict[str, Any]) -> dict[str, Any]:
    "The result so far, or a new one; refused if the file holds something else."
    result = json.loads(output.read_text()) if output.is_file() else {}
    if result.get("settings", settings) != settings:
        stop(f"{output} holds measurements of {result['settings']}, asked were {settings}: give another --output")
    return dict(command=command, commit=commit(), date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"), settings=settings, machine=machine(),
                versions={"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
                measurements=result.get("measurements", []))


def not_done(result: dict[str, Any], jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    "The jobs that the result lacks."
    return [job for job in jobs if not any(all(done.get(name) == value for name, value in job.items()) for done in result["measurements"])]


def carry_out(result: dict[str, Any], jobs: list[dict[str, Any]], output: Path, script: str, **order: Any) -> None:
    "Measure one job after the other, and write each down at once."
    write(output, result)
    for job in jobs:
        result["measurements"].append(measure(script, job, **order))
        write(output, result)
        print(f"{' '.join(str(value) for value in job.values() if not isinstance(value, dict))}: {result['measurements'][-1]['wall_s']} s", flush=True)


def list_jobs(kinds: list[str], seeds: list[int], epochs: int, fixed_epochs: int, rebalance_epochs: int) -> list[dict[str, Any]]:
    "One job each for the roofline and the profiles, then one for each kind and seed, the kinds by turns."
    same_work = dict(num_train_epochs=epochs, learning_rate=LEARNING_RATE, per_device_train_batch_size=BATCH_SIZE, max_length=MAX_LENGTH,
                     lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0)
    arguments = dict(fixed=dict(num_train_epochs=fixed_epochs), course=dict(num_train_epochs=epochs), rebalance=dict(num_train_epochs=rebalance_epochs),
                     equal=same_work, defaults={}, roofline={}, profile=same_work, profile_course=dict(num_train_epochs=1))
    turns = [dict(kind=kind, seed=seed, arguments=arguments[kind]) for seed in seeds for kind in kinds if kind not in SINGLE]
    return [dict(kind=kind, seed=seeds[0], arguments=arguments[kind]) for kind in kinds if kind in SINGLE] + turns


def read_articles() -> list[str]:
    "The texts of the built-in articles."
    from hf_finetune.data import load_data
    with contextlib.redirect_stdout(io.StringIO()): parts = load_data("bbc-news")
    return [text for part in parts.values() for text in part["text"]]


def write_toy(folder: Path, rows: int = 200) -> str:
    "Write pairs cut out of the built-in articles; of half of them both sentences come from one article."
    draw = random.Random(0)
    articles = [found for text in read_articles()[:500] if len(found := re.findall(r"[A-Z][^.!?\n]{40,160}[.!?]", text)) > 3]
    for split in SPLITS:
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["sentence1", "sentence2", "label"])
            for row in range(rows):
                first, other = draw.sample(articles, 2)
                pair = draw.sample(first, 2) if row % 2 else [draw.choice(first), draw.choice(other)]
                table.writerow([*pair, row % 2])
    return str(folder)


def digest(folder: Path) -> str:
    "16 hexadecimal digits that follow from the content of the splits."
    return hashlib.sha256(b"".join((folder / f"{split}.csv").read_bytes() for split in SPLITS)).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = (*REFERENCES, *OURS, *SINGLE)
    parser.add_argument("--data", type=Path, help="folder with train.csv, validation.csv and test.csv: sentence1, sentence2, label")
    parser.add_argument("--toy", action="store_true", help="pairs cut out of the built-in articles instead, to try the script")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (0 1 2)")
    parser.add_argument("--epochs", type=int, default=3, help="of all kinds but defaults, which chooses itself (3)")
    parser.add_argument("--fixed_epochs", type=int, help="of the kind fixed, of which hardly more than the time of an epoch matters (as --epochs)")
    parser.add_argument("--rebalance_epochs", type=int, help="of the kind rebalance, likewise (as --epochs)")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, metavar="KIND", help=f"some of {', '.join(kinds)} (all)")
    parser.add_argument("--rows", type=int, help="use only so many rows of each split, to try the script")
    parser.add_argument("--max_steps", type=int, help="stop after so many steps, to try the script; at least 2")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "speed.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child: return write(asked.output, work(**json.loads(asked.child)))

    if not asked.toy and asked.data is None: stop("speed.py needs --data FOLDER with train.csv, validation.csv and test.csv (sentence1, sentence2, label), or --toy")
    if asked.max_steps is not None and asked.max_steps < 2: stop(f"--max_steps must be at least 2, found {asked.max_steps}")
    missing = [] if asked.toy else [split for split in SPLITS if not (asked.data / f"{split}.csv").is_file()]
    if missing: stop(f"{asked.data} lacks {', '.join(f'{split}.csv' for split in missing)}: give a folder with train.csv, validation.csv and test.csv")
    with tempfile.TemporaryDirectory() as folder:
        data = write_toy(Path(folder)) if asked.toy else str(asked.data.resolve())
        name = "toy" if asked.toy else asked.data.resolve().name
        settings = dict(model=MODEL, data=name, digest=digest(Path(data)), rows=asked.rows, max_steps=asked.max_steps)
        words = [name if word == str(asked.data) else word for word in sys.argv[1:] if word not in ("--output", str(asked.output))]
        result = begin(asked.output, " ".join(["python", "nbs/evidence/speed.py", *words]), settings)
        jobs = list_jobs([kind for kind in kinds if kind in asked.only], asked.seeds, asked.epochs, asked.fixed_epochs or asked.epochs, asked.rebalance_epochs or asked.epochs)
        carry_out(result, not_done(result, jobs), asked.output, __file__, settings=settings, data=data)


if __name__ == "__main__": main()
