"""Measure on one CUDA GPU how fast pairs of sentences train: the recipe of the Hugging Face course against the library.

Each job is a process of its own with several trainings by turns, and is written at once; the same command goes on where it stopped.
The folder given as --data holds train.csv, validation.csv and test.csv with the columns sentence1, sentence2 and label (0 or 1), as MRPC has them;
without it, pairs of random words stand in, as long as MRPC's. The encoder is as large as BERT-base and has random weights, which changes no time.

limits    what the card does at best: matrix products and copying memory
recipes   three epochs: the course's recipe, and finetune with the same batches, with nothing chosen, and with larger batches
parts     an epoch of the library's training loop with one thing changed at a time, and of the plain Trainer with batches as large
batches   an epoch of the library's training loop with 8 to 128 rows in a batch
waits     which lines make the processor wait for the card, and how long the card works in a step
compile   torch.compile: seconds to the first step, and of each epoch
quality   the recipes with MiniLM, scored on validation; with --data only
"""
import argparse
import csv
import gc
import importlib.metadata
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from default_job import write
from speed import SPLITS, begin, carry_out, digest, fastest, not_done, stop

HERE = Path(__file__).resolve().parent
MODEL, MAX_LENGTH, LEARNING_RATE, BATCH_SIZE = "minilm", 128, 5e-5, 8  # the last two are the Trainer's defaults
JOBS = ("limits", "recipes", "parts", "batches", "waits", "compile", "quality")
ONCE = ("limits", "waits", "compile")                 # with the first seed only
LENGTHS = dict(mean=53, deviation=13, least=19, most=103)  # tokens of MRPC's training pairs, normally distributed here
SIZES = dict(
    cuda=dict(pairs=dict(train=3668, validation=408, test=64), rows=None, epochs=3, large=64, batches=[8, 16, 32, 64, 128], product=8192, numbers=2**29,
              steps=12, layers=12, width=768, inner=3072, backend="inductor"),
    cpu=dict(pairs=dict(train=64, validation=64, test=64), rows=64, epochs=1, large=16, batches=[8, 16], product=64, numbers=2**12,
             steps=4, layers=2, width=32, inner=64, backend="eager"))
NOMINAL = {  # dense matrix products in 16 bits with sums in 32, in TFLOP/s, by the vendor's data sheets; the first name that fits counts
    "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10G": 70, "A10": 125, "T4": 65, "V100": 125}


class Clock(TrainerCallback):
    "Notes what epochs, evaluations and saves take; the processor waits for the card between them and after the first step, and nowhere else."
    def __init__(self, device: str):
        self.device, self.epochs, self.evaluations, self.first_step_s = device, [], [], None
        self.spent = dict(training=0.0, evaluation=0.0, saving=0.0, other=0.0)

    def lap(self, what: str) -> float:
        wait(self.device)
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.spent[what] += seconds
        return seconds

    def count(self, model: Any, args: tuple, inputs: dict[str, Any]) -> None:
        if not model.training: return
        rows, width = inputs["input_ids"].shape  # the shape is known without asking the card
        self.epochs[-1]["tokens"] += rows * width
        self.epochs[-1]["products"] += rows * width * width

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.arguments, self.config = args, model.config
        # A compiled model would be compiled together with the hook
        self.hook = None if args.torch_compile else model.register_forward_pre_hook(self.count, with_kwargs=True)
        reset_peak(self.device)
        wait(self.device)
        self.last = self.began = time.perf_counter()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.lap("other")
        self.epochs.append(dict(train_s=0.0, steps=0, tokens=0, products=0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epochs[-1]["steps"] += 1
        if self.first_step_s is None or control.should_save: self.epochs[-1]["train_s"] += self.lap("training")
        if self.first_step_s is None: self.first_step_s = self.last - self.began

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: self.epochs[-1]["train_s"] += self.lap("training")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: self.lap("saving")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.lap("evaluation")
        self.evaluations.append(dict(epoch=round(state.epoch, 4), accuracy=metrics["eval_accuracy"], f1=metrics["eval_f1"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.lap("other")
        self.memory = peak_memory(self.device)
        if self.hook: self.hook.remove()

    def found(self) -> dict[str, Any]:
        "Everything noted, for the result file."
        args = self.arguments
        return dict(
            precision="bf16" if args.bf16 else "fp16" if args.fp16 else "tf32" if args.tf32 else "fp32", attention=self.config._attn_implementation,
            used=dict(learning_rate=args.learning_rate, num_train_epochs=args.num_train_epochs, per_device_train_batch_size=args.per_device_train_batch_size,
                      optim=str(getattr(args.optim, "value", args.optim)), train_sampling_strategy=str(args.train_sampling_strategy)),
            epochs=[{**epoch, "train_s": round(epoch["train_s"], 4), "flop": None if self.hook is None else flop(self.config, epoch)} for epoch in self.epochs],
            evaluations=self.evaluations, first_step_s=round(self.first_step_s, 4), **{f"{what}_s": round(seconds, 4) for what, seconds in self.spent.items()},
            from_first_to_last_s=round(self.last - self.began, 4), **self.memory)


def flop(config: Any, epoch: dict[str, Any]) -> int:
    "Operations of the matrix products of an epoch: forwards once, backwards twice; a multiplication and an addition each."
    layers, width, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    return 6 * layers * (4 * width * width + 2 * width * inner) * epoch["tokens"] + 12 * layers * width * epoch["products"]


def wait(device: str) -> None:
    "Wait until the card has done what it was asked."
    import torch
    if device == "cuda": torch.cuda.synchronize()


def reset_peak(device: str) -> None:
    "Count the most memory from here."
    import torch
    if device == "cuda": torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> dict[str, int | None]:
    "The most memory of the card that tensors took, and that torch held for them."
    import torch
    if device != "cuda": return dict(allocated_bytes=None, reserved_bytes=None)
    return dict(allocated_bytes=torch.cuda.max_memory_allocated(), reserved_bytes=torch.cuda.max_memory_reserved())


def free(device: str) -> None:
    "Give back what the training before has left."
    import torch
    gc.collect()
    if device == "cuda": torch.cuda.empty_cache()


class Bench:
    "What the trainings of one process have in common."
    def __init__(self, settings: dict[str, Any], data: str, source: str, folder: str):
        self.settings, self.size, self.data, self.source, self.folder = settings, settings["size"], data, source, Path(folder)
        self.device, self.numbers = settings["device"], itertools.count()
        from hf_finetune.data import load_data
        from hf_finetune.device import pick_precision, precision_arguments
        from hf_finetune.tokenizer import load_tokenizer, tokenize_data
        import torch
        self.tokenizer, loaded = load_tokenizer(source), load_data(data)
        self.loaded = type(loaded)({split: rows.select(range(min(self.size["rows"] or len(rows), len(rows)))) for split, rows in loaded.items()})
        self.rows = tokenize_data(self.loaded, self.tokenizer, MAX_LENGTH)
        device = torch.device(self.device, *([0] if self.device == "cuda" else []))
        # Toy sizes are in float32, so that every processor does the same
        self.precision = precision_arguments(device, pick_precision(device, "bert")[0] if self.device == "cuda" else "fp32")

    def encoder(self, attention: str | None = None) -> Any:
        "A function that builds an encoder as large as BERT-base with random weights."
        from transformers import BertConfig, BertForSequenceClassification
        def encoder() -> Any:
            size = dict(num_hidden_layers=self.size["layers"], hidden_size=self.size["width"], intermediate_size=self.size["inner"], num_attention_heads=max(2, self.size["width"] // 64))
            config = BertConfig(vocab_size=len(self.tokenizer), num_labels=2, problem_type="single_label_classification", **size, **(dict(attn_implementation=attention) if attention else {}))
            model = BertForSequenceClassification(config)
            model.name_or_path = self.source
            return model
        return encoder

    def pretrained(self) -> Any:
        "The pretrained model with a new head, as the course loads it, in float32 also where the file holds half precision."
        import torch
        from transformers import AutoModelForSequenceClassification
        from hf_finetune.tokenizer import find_pretrained
        return AutoModelForSequenceClassification.from_pretrained(find_pretrained(self.source), num_labels=2, dtype=torch.float32)

    def place(self) -> str: return str(self.folder / f"run{next(self.numbers)}")

    def course(self, seed: int, build: Callable[[], Any], *callbacks: TrainerCallback, **arguments: Any) -> None:
        "Train as the course does: a plain Trainer with its defaults, each batch padded to its longest row."
        import numpy as np
        from datasets import load_dataset
        from sklearn.metrics import accuracy_score, f1_score
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed
        set_seed(seed)
        raw = load_dataset("csv", data_files={split: str(Path(self.data) / f"{split}.csv") for split in SPLITS})
        if self.size["rows"]: raw = type(raw)({split: rows.select(range(min(self.size["rows"], len(rows)))) for split, rows in raw.items()})
        tokenizer = self.tokenizer
        tokenized = raw.map(lambda rows: tokenizer(rows["sentence1"], rows["sentence2"], truncation=True), batched=True)
        def compute_metrics(output: Any) -> dict[str, float]:
            predictions = np.argmax(output.predictions, axis=-1)
            return dict(accuracy=accuracy_score(output.label_ids, predictions), f1=f1_score(output.label_ids, predictions))
        asked = TrainingArguments(self.place(), **dict(eval_strategy="epoch", seed=seed, use_cpu=self.device == "cpu", report_to="none", disable_tqdm=True) | arguments)
        Trainer(build(), asked, train_dataset=tokenized["train"], eval_dataset=tokenized["validation"], processing_class=self.tokenizer,
                data_collator=DataCollatorWithPadding(self.tokenizer), compute_metrics=compute_metrics, callbacks=list(callbacks)).train()

    def finetune(self, seed: int, model: Any, *callbacks: TrainerCallback, **arguments: Any) -> None:
        "Train as users of the library do."
        from hf_finetune.training import finetune
        toy = {} if self.device == "cuda" else dict(bf16=False, use_cpu=True)
        finetune(model, self.loaded, self.place(), callbacks=list(callbacks), seed=seed, **toy, **arguments)

    def loop(self, seed: int, *callbacks: TrainerCallback, attention: str | None = None, **arguments: Any) -> None:
        "The library's training loop alone: no evaluation, nothing saved."
        from transformers import TrainingArguments, set_seed
        from hf_finetune.trainer import build_trainer
        set_seed(seed)
        usual = dict(num_train_epochs=1, learning_rate=LEARNING_RATE, train_sampling_strategy="group_by_length", seed=seed, save_strategy="no",
                     report_to="none", disable_tqdm=True, logging_steps=20, **self.precision)
        asked = TrainingArguments(self.place(), **usual | arguments)
        build_trainer(self.encoder(attention)(), self.tokenizer, asked, "accuracy", self.rows, callbacks).train()

    def measure(self, kind: str, train: Callable[..., None], *first: Any, **arguments: Any) -> dict[str, Any]:
        "Carry out one training, and note everything about it."
        free(self.device)
        clock, started = Clock(self.device), time.perf_counter()
        train(*first, clock, **arguments)
        wait(self.device)
        return dict(name=kind, whole_s=round(time.perf_counter() - started, 4), **clock.found())

    def same_work(self) -> dict[str, Any]:
        "What finetune is told to train as the course does, but for order, padding and precision."
        return dict(num_train_epochs=self.size["epochs"], learning_rate=LEARNING_RATE, per_device_train_batch_size=BATCH_SIZE, max_length=MAX_LENGTH,
                    lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0)


def recipes(bench: Bench, seed: int, quality: bool = False) -> list[dict[str, Any]]:
    "The course's recipe and finetune by turns; another seed begins with another kind."
    large, epochs, model = bench.size["large"], bench.size["epochs"], bench.source if quality else bench.encoder()
    chosen = {} if bench.device == "cuda" else dict(num_train_epochs=epochs)
    # The learning rate of finetune grows with the square root of the batch
    rate = round((1e-4 if quality else 5e-5) * (large / 16)**0.5, 7)
    kinds = dict(
        course=(bench.course, bench.pretrained if quality else bench.encoder(), dict(num_train_epochs=epochs)), equal=(bench.finetune, model, bench.same_work()),
        defaults=(bench.finetune, model, chosen), large=(bench.finetune, model, chosen | dict(per_device_train_batch_size=large, learning_rate=rate)))
    names = list(kinds)
    turn = seed % len(names)
    return [bench.measure(name, kinds[name][0], seed, kinds[name][1], **kinds[name][2]) for name in (*names[turn:], *names[:turn])]


def parts(bench: Bench, seed: int) -> list[dict[str, Any]]:
    "One epoch with one thing changed at a time."
    import torch
    rows = dict(per_device_train_batch_size=bench.size["large"])
    changes = dict(library={}, float32=dict(bf16=False, fp16=False), tf32=dict(bf16=False, fp16=False, tf32=True), eager=dict(attention="eager"), unfused=dict(optim="adamw_torch"),
                   random=dict(train_sampling_strategy="random"), unfiltered=dict(logging_nan_inf_filter=False), workers=dict(dataloader_num_workers=2),
                   checkpointing=dict(activation_checkpointing=True))
    plain = dict(course={}, course_bf16=dict(bf16=True))
    if bench.device != "cuda" or torch.cuda.get_device_capability(0) < (8, 0): del changes["tf32"], plain["course_bf16"]
    found = [bench.measure(name, bench.loop, seed, **rows, **change) for name, change in changes.items() if not change.get("tf32")]
    usual = dict(num_train_epochs=1, eval_strategy="no", save_strategy="no", logging_steps=20)
    found += [bench.measure(name, bench.course, seed, bench.encoder(), **usual, **rows, **change) for name, change in plain.items()]
    # Last, since TrainingArguments leaves TF32 switched on in the process
    return found + [bench.measure("tf32", bench.loop, seed, **rows, **changes["tf32"])] if "tf32" in changes else found


def batches(bench: Bench, seed: int) -> list[dict[str, Any]]:
    "One epoch with batches of several sizes."
    return [bench.measure(f"rows_{rows}", bench.loop, seed, per_device_train_batch_size=rows) for rows in bench.size["batches"]]


def limits(settings: dict[str, Any]) -> dict[str, Any]:
    "What the card does at best, and what its data sheet says."
    import torch
    device, rows = settings["device"], settings["size"]["product"]
    def seconds(action: Callable[[], Any]) -> list[float]: return fastest(lambda: (action(), wait(device)))
    def product(precision: str, dtype: torch.dtype) -> dict[str, Any]:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        left, right = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
        times = seconds(lambda: left @ right)
        return dict(precision=precision, shape=[rows] * 3, seconds=times, flop_per_s=round(2 * rows**3 / min(times)))
    precisions = dict(bf16=torch.bfloat16, fp16=torch.float16, tf32=torch.float32, fp32=torch.float32) if device == "cuda" else dict(bf16=torch.bfloat16, fp32=torch.float32)
    products = [product(precision, dtype) for precision, dtype in precisions.items()]
    source = torch.randn(settings["size"]["numbers"], device=device)
    target = torch.empty_like(source)
    copies = seconds(lambda: target.copy_(source))
    name = torch.cuda.get_device_name(0) if device == "cuda" else ""
    nominal = next((rate for part, rate in NOMINAL.items() if part in name), None)
    return dict(products=products, copy=dict(seconds=copies, bytes_per_s=round(2 * source.nbytes / min(copies))), nominal_flop_per_s=nominal and nominal * 10**12)


class Waits(TrainerCallback):
    "Collects in some steps which lines wait for the card, and in as many others what the card does."
    def __init__(self, device: str, steps: int):
        self.device, self.steps, self.lines, self.kernels = device, steps, Counter(), []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile
        if state.global_step == self.steps:
            wait(self.device)
            self.caught = warnings.catch_warnings(record=True)
            self.told = self.caught.__enter__()
            warnings.simplefilter("always")
            if self.device == "cuda": torch.cuda.set_sync_debug_mode("warn")
        if state.global_step == 2 * self.steps:
            if self.device == "cuda": torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            self.lines.update("/".join(Path(line.filename).parts[-2:]) + f":{line.lineno}" for line in self.told if "synchroniz" in str(line.message))
            wait(self.device)
            self.profile = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device == "cuda" else [])])
            self.profile.__enter__()
            self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != 3 * self.steps: return
        wait(self.device)
        self.profiled_s = time.perf_counter() - self.began
        self.profile.__exit__(None, None, None)
        self.kernels = [event.time_range for event in self.profile.events() if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)]

    def found(self) -> dict[str, Any]:
        "Seconds in which the card works, overlaps counted once."
        busy, end = 0.0, 0.0
        for span in sorted(self.kernels, key=lambda span: span.start):
            busy, end = busy + max(0.0, span.end - max(span.start, end)), max(end, span.end)
        return dict(steps=self.steps, waits_by_line=dict(self.lines.most_common()), kernels=len(self.kernels), card_s=round(busy / 1e6, 4), profiled_s=round(self.profiled_s, 4))


def waits(bench: Bench, seed: int) -> list[dict[str, Any]]:
    "Where the processor waits, for the course's recipe and for the library with few and with many rows."
    from hf_finetune.arguments import default_arguments
    rows = default_arguments(bench.encoder()().config, len(bench.rows["train"]), {}, pair=True)["per_device_train_batch_size"]
    def carry(name: str, batch_size: int, train: Callable[..., None], *first: Any, **arguments: Any) -> dict[str, Any]:
        free(bench.device)
        watch = Waits(bench.device, bench.size["steps"])
        train(seed, *first, watch, per_device_train_batch_size=batch_size, max_steps=3 * watch.steps, **arguments)
        return dict(name=name, rows_in_a_batch=batch_size, **watch.found())
    return [carry("course", BATCH_SIZE, bench.course, bench.encoder(), eval_strategy="no", save_strategy="no"),
            carry("library", rows, bench.loop), carry("library_large", bench.size["large"], bench.loop)]


def compiled(bench: Bench, seed: int, mode: str | None) -> list[dict[str, Any]]:
    "Epochs of a compiled model, in a process that has compiled nothing before; what a mode cannot do is written down, too."
    import torch
    options = dict(torch_compile=True, torch_compile_backend=bench.size["backend"], **(dict(torch_compile_mode=mode) if mode else {}))
    try: found = bench.measure(mode or "default", bench.loop, seed, per_device_train_batch_size=16, num_train_epochs=bench.size["epochs"], **options)
    except Exception as error: return [dict(name=mode or "default", failed=" ".join(f"{type(error).__name__}: {error}".split())[:500])]
    counters = torch._dynamo.utils.counters
    return [dict(found, graphs=counters["stats"]["unique_graphs"], frames=dict(counters["frames"]), graph_breaks=sum(counters["graph_break"].values()))]


def work(job: dict[str, Any], settings: dict[str, Any], data: str, source: str, started: float, folder: str) -> dict[str, Any]:
    "In the child: carry out one job."
    if job["kind"] == "limits": return limits(settings)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
    bench = Bench(settings, data, source, folder)
    if job["kind"] != "compile": bench.loop(job["seed"], max_steps=5, per_device_train_batch_size=bench.size["large"])  # wakes the card, and is not counted
    trainings = dict(recipes=recipes, parts=parts, batches=batches, waits=waits, quality=lambda *given: recipes(*given, quality=True),
                     compile=lambda *given: compiled(*given, job["mode"]))[job["kind"]](bench, job["seed"])
    lengths = bench.rows["train"]["length"]
    return dict(rows=len(lengths), real_tokens=sum(lengths), trainings=trainings)


def list_jobs(kinds: Sequence[str], seeds: Sequence[int], device: str) -> list[dict[str, Any]]:
    "What happens once first and compiling last; between them the seeds, one after the other."
    once = [dict(kind=kind, seed=seeds[0]) for kind in kinds if kind in ONCE and kind != "compile"]
    each = [dict(kind=kind, seed=seed) for seed in seeds for kind in kinds if kind not in ONCE]
    modes = (None, "reduce-overhead") if device == "cuda" else (None,)
    return once + each + [dict(kind="compile", seed=seeds[0], mode=mode) for mode in modes if "compile" in kinds]


def write_pairs(folder: Path, source: str, counts: dict[str, int]) -> str:
    "Pairs of random words, each a token of its own, whose lengths are distributed as LENGTHS says."
    from hf_finetune.tokenizer import load_tokenizer
    draw, tokenizer = random.Random(0), load_tokenizer(source)
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and word.islower() and len(word) > 2)
    for split, count in counts.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["sentence1", "sentence2", "label"])
            for row in range(count):
                length = min(max(round(draw.gauss(LENGTHS["mean"], LENGTHS["deviation"])), LENGTHS["least"]), LENGTHS["most"]) - 3  # [CLS] and two [SEP]
                chosen = draw.choices(words, k=length)
                table.writerow([" ".join(chosen[:length // 2]), " ".join(chosen[length // 2:]), row % 2])
    return str(folder)


def card() -> dict[str, Any] | None:
    "The GPU that is measured; None without one."
    import torch
    if not torch.cuda.is_available(): return None
    found = torch.cuda.get_device_properties(0)
    try: driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout.split("\n")[0].strip()
    except OSError: driver = None
    return dict(name=found.name, memory_bytes=found.total_memory, compute_capability=f"{found.major}.{found.minor}", multiprocessors=found.multi_processor_count,
                driver=driver, cuda=torch.version.cuda)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.csv, validation.csv and test.csv: sentence1, sentence2, label; random words without it")
    parser.add_argument("--model", type=Path, help="folder of MiniLM and its tokenizer; half precision will do (the built-in one)")
    parser.add_argument("--device", choices=list(SIZES), default="cuda", help="cpu tries the script at toy size (cuda)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (0 1 2)")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=JOBS, metavar="JOB", help=f"some of {', '.join(JOBS)} (all)")
    parser.add_argument("--minutes", type=float, help="begin no job after so many; the same command goes on where it stopped")
    parser.add_argument("--commit", help="the commit that is measured, where git cannot tell")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked, began = parser.parse_args(), time.monotonic()
    # The Trainer would train on all visible cards at once
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if asked.device == "cuda" else ""
    if asked.child:
        import json
        return write(asked.output, work(**json.loads(asked.child)))

    gpu = card()
    if asked.device == "cuda" and gpu is None: stop("gpu.py needs a CUDA GPU, and torch sees none here; --device cpu tries the script at toy size")
    missing = [split for split in SPLITS if asked.data and not (asked.data / f"{split}.csv").is_file()]
    if missing: stop(f"{asked.data} lacks {', '.join(f'{split}.csv' for split in missing)}: give a folder with train.csv, validation.csv and test.csv")
    source, size = str(asked.model.resolve()) if asked.model else MODEL, SIZES[asked.device]
    with tempfile.TemporaryDirectory() as folder:
        data = str(asked.data.resolve()) if asked.data else write_pairs(Path(folder), source, size["pairs"])
        name = asked.data.resolve().name if asked.data else "random words"
        settings = dict(device=asked.device, model=MODEL, data=name, lengths=None if asked.data else LENGTHS, digest=digest(Path(data)), size=size)
        places = {str(asked.data): "FOLDER", str(asked.model): "MODEL", str(asked.output): f"nbs/evidence/results/{asked.output.name}"}
        result = begin(asked.output, " ".join(["python", "nbs/evidence/gpu.py", *(places.get(word, word) for word in sys.argv[1:])]), settings)
        result["machine"]["gpu"], result["commit"] = gpu, result["commit"] or asked.commit
        kinds = [kind for kind in JOBS if kind in asked.only and (asked.data or kind != "quality")]
        for job in not_done(result, list_jobs(kinds, asked.seeds, asked.device)):
            if asked.minutes and time.monotonic() - began > 60 * asked.minutes:
                print(f"{asked.minutes:g} minutes are over: the same command goes on with {job['kind']}, seed {job['seed']}")
                break
            carry_out(result, [job], asked.output, __file__, settings=settings, data=data, source=source)


if __name__ == "__main__": main()
