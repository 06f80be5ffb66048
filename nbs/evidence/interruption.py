"""Kill trainings at random moments, make the same call again, and compare how they end with the training that nobody disturbed.

MiniLM with its pretrained weights on some of the built-in articles, each training in processes of its own, on the processor.
Every measurement is written at once; the same command goes on where it stopped.

float32   one process, in float32
default   one process, in the number format that finetune chooses
two       two processes under accelerate launch, with gloo
cost      what saving takes of the default job, which is trained whole
"""
import argparse
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODEL, DATA = "minilm", "bbc-news"
KINDS = ("float32", "default", "two")
ASKED = dict(num_train_epochs=3, per_device_train_batch_size=8, max_length=64, learning_rate=1e-4, save_minutes=0.05, use_cpu=True, disable_tqdm=True)
ROWS = dict(train=128, validation=64, test=16)
SHARES = dict(float32=0.4, default=0.4, two=0.2)  # of the kills
LOOK_EVERY_S = 0.002
PATIENCE_S = 600


def train(folder: str, kind: str, rows: dict[str, int]) -> None:
    "In the child: the call that is made again and again."
    from hf_finetune.data import load_data
    from hf_finetune.training import finetune
    articles = load_data(DATA)
    data = type(articles)({split: articles[split].select(range(number)) for split, number in rows.items()})
    finetune(MODEL, data, folder, **ASKED, **(dict(bf16=False) if kind == "float32" else {}))


def default_job(answer: Path, seed: int) -> None:
    "In the child: the default job, with a clock in everything that saves."
    from hf_finetune import disk, run, trainer, training
    spent = {}
    def clocked(owner: Any, name: str) -> None:
        function = getattr(owner, name)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try: return function(*args, **kwargs)
            finally: spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
        setattr(owner, name, timed)
    # Hashing is a part of publishing and of the record, which is a part of on_save while training
    for owner, name in ((trainer.FinetuneTrainer, "_save_checkpoint"), (run.RunFolder, "on_save"), (training, "record_best"), (disk, "file_sha256")): clocked(owner, name)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = training.finetune(MODEL, DATA, f"{folder}/run", seed=seed, disable_tqdm=True, use_cpu=True)
        seconds = time.perf_counter() - start
        taken, steps = sum(path.stat().st_size for path in done.folder.rglob("*") if path.is_file()), int(done.log["step"].max())
    answer.write_text(json.dumps(dict(whole_s=round(seconds, 2), saving_s={name: round(value, 3) for name, value in spent.items()}, steps=steps, folder_bytes=taken)))


def command(folder: Path, kind: str, rows: dict[str, int]) -> list[str]:
    "The training, as it is started from a shell."
    call = [str(HERE / "interruption.py"), "--child", json.dumps(dict(folder=str(folder), kind=kind, rows=rows))]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [sys.executable, *(launch if kind == "two" else []), *call]


def environment(kind: str) -> dict[str, str]:
    "One thread for each process, so that nothing but the interruption differs."
    several = dict(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo0" if sys.platform == "darwin" else "lo") if kind == "two" else {}
    return os.environ | dict(OMP_NUM_THREADS="1", TQDM_DISABLE="1", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1") | several


def descendants(process: int) -> list[int]:
    "A process and all that it has started."
    import psutil
    try: return [child.pid for child in psutil.Process(process).children(recursive=True)] + [process]
    except psutil.NoSuchProcess: return []


def send(number: int, processes: list[int]) -> None:
    "A signal to each of them that is still there."
    for process in processes:
        try: os.kill(process, number)
        except ProcessLookupError: continue


@contextmanager
def started(folder: Path, kind: str, rows: dict[str, int]) -> Iterator[subprocess.Popen]:
    "A training that has begun, and that is over afterwards."
    with open(folder.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(command(folder, kind, rows), env=environment(kind), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try: yield process
        finally:
            send(signal.SIGKILL, descendants(process.pid))
            process.wait()


def train_to_the_end(folder: Path, kind: str, rows: dict[str, int]) -> float:
    "Seconds until the same call has come to its end."
    clock = time.perf_counter()
    with started(folder, kind, rows) as process: code = process.wait(PATIENCE_S)
    if code: raise SystemExit(f"a training ended with {code}:\n{folder.with_suffix('.log').read_text()[-3000:]}")
    return time.perf_counter() - clock


def is_saving(folder: Path) -> bool:
    "Whether a checkpoint is being written, renamed or deleted."
    try: return any(entry.name == ".saving" or entry.name.startswith((".checkpoint-", ".best_checkpoint")) for entry in os.scandir(folder))
    except FileNotFoundError: return False


def end_of(folder: Path) -> dict[str, Any]:
    "What a training came to, without what the clock says: weights, choice, scores and log."
    from hf_finetune.disk import file_sha256
    with (folder / "history.csv").open() as file: rows = [{name: value for name, value in row.items() if not name.endswith(("runtime", "per_second"))} for row in csv.DictReader(file)]
    scores = json.loads((folder / "metrics.json").read_text())["validation"]
    return dict(choice=json.loads((folder / "best_checkpoint.json").read_text()), history=hashlib.sha256(json.dumps(rows).encode()).hexdigest(), events=len(rows), scores=scores,
                weights={path.parent.name: file_sha256(path) for path in sorted(folder.glob("checkpoint-*/model.safetensors"))})


def left_behind(folder: Path) -> dict[str, Any]:
    "What a kill has left, and whether the best checkpoint that the folder names is whole."
    from hf_finetune.checkpoint import MANIFEST, read_best
    from hf_finetune.disk import list_checkpoints
    if not folder.is_dir(): return dict(checkpoints={}, best=None)
    infos = list_checkpoints(folder)
    best = read_best(folder, verify=True).step if (folder / MANIFEST).is_file() else None
    return dict(checkpoints={info.step: "resumable" if info.resumable else "loadable" if info.loadable else "damaged" for info in infos}, best=best)


def watch_whole(folder: Path, kind: str, rows: dict[str, int]) -> dict[str, Any]:
    "Train once without disturbance; when the first step began, how long it took from there, and which share of that went into saves."
    clock, begun, saving, looked = time.perf_counter(), None, 0, 0
    with started(folder, kind, rows) as process:
        while process.poll() is None:
            if begun is None and (folder / "run.json").is_file(): begun = time.perf_counter() - clock
            if begun is not None: saving, looked = saving + is_saving(folder), looked + 1
            time.sleep(LOOK_EVERY_S)
    if process.returncode: raise SystemExit(f"the undisturbed training ended with {process.returncode}:\n{folder.with_suffix('.log').read_text()[-3000:]}")
    seconds = time.perf_counter() - clock
    return dict(begun_s=round(begun, 2), training_s=round(seconds - begun, 2), share_in_saves=round(saving / looked, 3), **end_of(folder))


def disturb(folder: Path, job: dict[str, Any], whole: dict[str, Any], rows: dict[str, int]) -> dict[str, Any]:
    "Start a training, stop it at a moment drawn at random, and see what it leaves."
    draw = random.Random(f"{job}")
    wait = draw.uniform(0, whole["training_s"])
    saves, delay = draw.randint(1, 4), draw.uniform(0, 0.5)
    with started(folder, job["kind"], rows) as process:
        while not (folder / "run.json").is_file() and process.poll() is None: time.sleep(LOOK_EVERY_S)
        begun, seen, was = time.perf_counter(), 0, False
        if job["where"] == "anywhere": time.sleep(wait)
        else:
            while seen < saves and process.poll() is None:
                now = is_saving(folder)
                seen, was = seen + (now and not was), now
                time.sleep(LOOK_EVERY_S)
            time.sleep(delay)
        after, inside, over = time.perf_counter() - begun, is_saving(folder), process.poll() is not None
        everybody = descendants(process.pid)
        if job["signal"] == "SIGKILL": send(signal.SIGKILL, everybody)
        elif not over: # To one of the trainings, or to all, as Ctrl-C in a terminal does
            workers = [pid for pid in everybody if "--child" in Path(f"/proc/{pid}/cmdline").read_text() and "accelerate.commands" not in Path(f"/proc/{pid}/cmdline").read_text()]
            send(getattr(signal, job["signal"]), workers[:1])
        code = process.wait(PATIENCE_S)
    return dict(after_s=round(after, 2), inside_a_save=inside, was_over=over, code=code, left=left_behind(folder))


def measure(job: dict[str, Any], whole: dict[str, Any], rows: dict[str, int]) -> dict[str, Any]:
    "Disturb one training, let it go on, and compare."
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        found = disturb(folder, job, whole, rows)
        train_to_the_end(folder, job["kind"], rows)
        told = [line.split()[-1] for line in folder.with_suffix(".log").read_text().splitlines() if line.startswith("going on after step")]
        end = end_of(folder)
    differences = [name for name, value in end.items() if value != whole[name]]
    return {**job, **found, "gone_on_after": int(told[-1]) if told else 0, "differences": differences, "same": not differences, "wall_s": round(time.perf_counter() - clock, 1)}


def list_jobs(kills: int, kinds: list[str], signals: int) -> list[dict[str, Any]]:
    "The kills, half of them aimed at a save, and the signals that announce the end."
    counts = {kind: max(1, round(kills * SHARES[kind] / sum(SHARES[kind] for kind in kinds))) for kind in kinds}
    counts[kinds[0]] += kills - sum(counts.values())
    kinds_in_turn = [kind for number in range(max(counts.values())) for kind in kinds if number < counts[kind]]
    killed = [dict(kind=kind, signal="SIGKILL", where=("anywhere", "a save")[number // len(kinds) % 2], number=number) for number, kind in enumerate(kinds_in_turn)]
    return killed + [dict(kind=kind, signal=name, where="anywhere", number=number) for number in range(signals) for kind in kinds[::-1] for name in ("SIGTERM", "SIGINT")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many trainings are killed (50)")
    parser.add_argument("--signals", type=int, default=2, help="how often SIGTERM and SIGINT are sent for each kind (2)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="which kinds (all)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[42, 0, 1], help="of the default jobs whose saving is timed (42 0 1)")
    parser.add_argument("--rows", type=int, default=ROWS["train"], help=f"of the training split ({ROWS['train']})")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "interruption.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        told = json.loads(asked.child)
        return default_job(Path(told["answer"]), told["seed"]) if "seed" in told else train(**told)
    from speed import begin, not_done, stop, write
    if asked.kills < len(asked.only) or asked.rows < 24: stop(f"--kills must be at least {len(asked.only)}, one for each kind, and --rows at least 24, found {asked.kills} and {asked.rows}")
    rows = {**ROWS, "train": asked.rows}
    words = [word for word in sys.argv[1:] if word not in ("--output", str(asked.output))]
    result = begin(asked.output, " ".join(["python", "nbs/evidence/interruption.py", *words]), dict(model=MODEL, data=DATA, rows=rows, asked=ASKED))
    result["versions"].pop("peft", None)
    write(asked.output, result)

    def note(measurement: dict[str, Any]) -> None:
        result["measurements"].append(measurement)
        write(asked.output, result)
        print({name: value for name, value in measurement.items() if name in ("kind", "signal", "where", "seed", "after_s", "inside_a_save", "gone_on_after", "same", "wall_s", "whole_s")}, flush=True)

    for job in not_done(result, [dict(kind="cost", seed=seed) for seed in asked.seeds]):
        with tempfile.TemporaryDirectory() as place:
            answer, load = Path(place) / "answer.json", os.getloadavg()
            child = [sys.executable, __file__, "--child", json.dumps(dict(answer=str(answer), seed=job["seed"]))]
            subprocess.run(child, env={**environment("cost"), "OMP_NUM_THREADS": str(result["machine"]["threads"])}, check=True, stdout=subprocess.DEVNULL)
            note({**job, **json.loads(answer.read_text()), "load_before": [round(value, 2) for value in load]})
    for kind in asked.only:
        if not_done(result, [dict(kind=kind, signal=None)]):
            with tempfile.TemporaryDirectory() as place: note(dict(kind=kind, signal=None, **watch_whole(Path(place) / "run", kind, rows)))
    wholes = {found["kind"]: found for found in result["measurements"] if found.get("signal", "") is None}
    for job in not_done(result, list_jobs(asked.kills, asked.only, asked.signals)): note(measure(job, wholes[job["kind"]], rows))
    same = [found["same"] for found in result["measurements"] if found.get("signal")]
    print(f"{sum(same)} of {len(same)} ended like the undisturbed training")


if __name__ == "__main__": main()
