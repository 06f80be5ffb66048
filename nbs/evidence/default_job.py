"""Measure the default job: `finetune("minilm", load_data("bbc-news"), seed=SEED)`, each time in a process of its own.

Every measurement is written at once; the same command goes on where it stopped.
"""
import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODEL, DATA = "minilm", "bbc-news"
RATES, EPOCHS, MAX_LENGTH = (5e-5, 1e-4, 2e-4), 2, 128  # compared by --choose
STARTS = 10                                             # processes that the import time is the fastest of
PACKAGES = ("hf_finetune", "torch", "transformers", "accelerate", "datasets", "tokenizers")


def work(job: dict[str, Any], settings: dict[str, Any], started: float, folder: str) -> dict[str, Any]:
    "In the child: train, and test unless only validation may be looked at."
    from hf_finetune.data import load_data
    from hf_finetune.training import finetune
    data, arguments = load_data(settings["data"]), dict(job["arguments"])
    if settings["rows"]: data = type(data)({split: rows.select(range(min(settings["rows"], len(rows)))) for split, rows in data.items()})
    if settings["max_steps"]: arguments["max_steps"] = settings["max_steps"]
    run = finetune(settings["model"], data, folder, seed=job["seed"], **arguments)
    trained = time.time() - started
    best, chosen = run.best, json.loads((run.folder / "run.json").read_text())
    found = dict(precision=chosen["precision"], device=chosen["device"], max_length=chosen["max_length"],
                 used={name: chosen["arguments"][name] for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed")},
                 rows=chosen["data"]["rows"], best=dict(checkpoint=best.checkpoint, step=best.step, epoch=best.epoch),
                 validation_accuracy=best.value, trained_s=round(trained, 2))
    if job["kind"] != "choose": found["test_accuracy"] = run.test()["accuracy"].value
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return {**found, "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def busy() -> float | None:
    "Seconds that all processors of the machine have worked since it started, where Linux tells."
    try: fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    except OSError: return None
    idle = (3, 4)
    return sum(int(value) for i, value in enumerate(fields) if i not in idle) / os.sysconf("SC_CLK_TCK")


def used_by_children() -> float:
    "Seconds of processor time of the child processes that have ended."
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(job: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    "Run one job in a fresh process; its seconds count from before Python starts until after it ends."
    environment = os.environ | dict(TQDM_DISABLE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    load, date = os.getloadavg(), datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        before, child, started, clock = busy(), used_by_children(), time.time(), time.perf_counter()
        order = json.dumps(dict(job=job, settings=settings, started=started, folder=str(Path(folder) / "run")))
        subprocess.run([sys.executable, __file__, "--child", order, "--output", str(answer)], env=environment, check=True)
        seconds = time.perf_counter() - clock
        own, after = used_by_children() - child, busy()
        found = json.loads(answer.read_text())
    return {**job, "date": date, "commit": commit(), **found, "wall_s": round(seconds, 2), "cpu_s": round(own, 2),
            "other_cpu_s": None if before is None else round(max(0.0, after - before - own), 2),
            "load_before": [round(value, 2) for value in load], "load_after": [round(value, 2) for value in os.getloadavg()]}


def import_times() -> dict[str, Any]:
    "Seconds of fresh processes with and without the import, by turns; the fastest of each count."
    def start(code: str) -> float:
        clock = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return round(time.perf_counter() - clock, 4)
    pairs = [(start("pass"), start("import hf_finetune")) for _ in range(STARTS)]
    bare, full = (list(times) for times in zip(*pairs))
    return dict(bare_s=bare, import_s=full, difference_s=round(min(full) - min(bare), 4))


def commit() -> str | None:
    "The commit of the library that is measured; with a plus if its code is not as committed."
    def git(*arguments: str) -> subprocess.CompletedProcess[str]: return subprocess.run(["git", *arguments], cwd=HERE.parents[1], capture_output=True, text=True)
    try: head = git("rev-parse", "--short", "HEAD")
    except OSError: return None
    if head.returncode: return None
    return head.stdout.strip() + ("+" if git("diff", "--quiet", "HEAD", "--", "hf_finetune").returncode else "")


def machine() -> dict[str, Any]:
    "Processor, cores, threads that torch uses, memory, and whether bf16 is in hardware."
    import torch
    from hf_finetune.device import read_capabilities
    try: name = next(line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    except (OSError, StopIteration): name = platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return dict(processor=name, cores=os.cpu_count(), threads=torch.get_num_threads(), memory_bytes=memory, bf16_in_hardware=read_capabilities().cpu_bf16,
                capability=torch.backends.cpu.get_cpu_capability(), system=f"{platform.system()} {platform.machine()}")


def write(path: Path, result: dict[str, Any]) -> None:
    "Replace the file by a complete one."
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(draft, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[42, 0, 1, 2, 3], help="training seeds; the splits stay the same")
    parser.add_argument("--choose", action="store_true", help="compare learning rates as well, on validation only, with the first seed")
    parser.add_argument("--float32", action="store_true", help="measure the first seed without bf16 as well")
    parser.add_argument("--rows", type=int, help="use only so many rows of each split, to try the script")
    parser.add_argument("--max_steps", type=int, help="stop after so many steps, to try the script")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "default_job.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child: return write(asked.output, work(**json.loads(asked.child)))

    settings = dict(model=MODEL, data=DATA, rows=asked.rows, max_steps=asked.max_steps)
    result = json.loads(asked.output.read_text()) if asked.output.is_file() else {}
    if result.get("settings", settings) != settings:
        raise SystemExit(f"{asked.output} holds measurements of {result['settings']}, asked were {settings}: give another --output")
    jobs = [dict(kind="seed", seed=seed, arguments={}) for seed in asked.seeds]
    if asked.choose: jobs += [dict(kind="choose", seed=asked.seeds[0], arguments=dict(learning_rate=rate, num_train_epochs=EPOCHS, max_length=MAX_LENGTH)) for rate in RATES]
    if asked.float32: jobs += [dict(kind="float32", seed=asked.seeds[0], arguments=dict(bf16=False))]
    names = [name for name in sys.argv[1:] if name != str(asked.output)]
    result |= dict(command=" ".join(["python", "nbs/evidence/default_job.py", *(name for name in names if name != "--output")]), commit=commit(),
                   date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"), settings=settings, machine=machine(),
                   versions={"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
                   import_time=result.get("import_time") or import_times(), measurements=result.pop("measurements", []))
    write(asked.output, result)
    for job in jobs:
        if any(all(done[name] == value for name, value in job.items()) for done in result["measurements"]): continue
        result["measurements"].append(measure(job, settings))
        write(asked.output, result)


if __name__ == "__main__": main()
