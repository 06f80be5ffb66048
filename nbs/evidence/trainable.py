"""Train MiniLM on pairs of sentences with more and with fewer of its weights, on the processor: what is gained, and what is lost?

Each measurement runs in a process of its own and is written at once; the same command goes on where it stopped.
The folder given as --data holds train.csv, validation.csv and test.csv with the columns sentence1, sentence2 and label (0 or 1), as MRPC has them.

all     every weight
three   every weight of a model with the first three of the six layers
last    the last two layers, what follows them, and the head
lora    new weights beside the attention projections, and the head
head    the head
"""
import argparse
import importlib.metadata
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from default_job import write
from speed import SPLITS, Watch, begin, carry_out, not_done, stop, write_toy
from tasks import digest

HERE = Path(__file__).resolve().parent
MODEL, LAYERS = "minilm", 3
KINDS = dict(all="all", three="all", last=2, lora="lora", head="head")
RATES = dict(last=(1e-4, 3e-4), lora=(5e-4, 1e-3, 2e-3), head=(1e-3, 3e-3, 1e-2))  # compared by --choose


class Counted(Watch):
    "A Watch that also counts the weights."
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        from hf_finetune.model import count_parameters
        super().on_train_begin(args, state, control, model=model, **kwargs)
        self.counts = count_parameters(model)


def bytes_of(folder: Path, resuming: bool) -> int:
    "What a checkpoint takes, with or without the files that only serve to go on with the training."
    from hf_finetune.disk import RESUME_FILES, needed_for_resuming
    return sum(path.stat().st_size for path in folder.iterdir() if resuming or not (needed_for_resuming(path.name) or path.name in RESUME_FILES))


def work(job: dict[str, Any], settings: dict[str, Any], data: str, started: float, folder: str) -> dict[str, Any]:
    "In the child: train, and test unless only validation may be looked at."
    from hf_finetune.disk import list_checkpoints
    from hf_finetune.data import load_data
    from hf_finetune.model import load_model
    from hf_finetune.training import finetune
    rows, arguments, watch = load_data(data), dict(job["arguments"]), Counted(started)
    if settings["rows"]: rows = type(rows)({split: part.select(range(min(settings["rows"], len(part)))) for split, part in rows.items()})
    if settings["max_steps"]: arguments["max_steps"] = settings["max_steps"]
    def three_layers() -> Any: return load_model(MODEL, rows, job["seed"], num_hidden_layers=LAYERS)
    start = three_layers if job["what"] == "three" else MODEL
    run = finetune(start, rows, Path(folder) / "run", seed=job["seed"], use_cpu=True, trainable=KINDS[job["what"]], callbacks=[watch], **arguments)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    newest = max(list_checkpoints(run.folder), key=lambda info: info.step).path
    found = dict(**watch.found(), peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, counts=watch.counts,
                 resumable_bytes=bytes_of(newest, resuming=True), usable_bytes=bytes_of(newest, resuming=False),
                 run_bytes=sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()), best=dict(epoch=run.best.epoch, validation=run.best.value))
    return found if job["kind"] == "choose" else {**found, "test": {name: [score.low, score.value, score.high] for name, score in run.test().items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.csv, validation.csv and test.csv")
    parser.add_argument("--toy", action="store_true", help="pairs cut out of the built-in articles instead, to try the script")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="which of them (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 0, 1], help="training seeds (42 0 1)")
    parser.add_argument("--choose", action="store_true", help="compare learning rates as well, on validation only, with the first seed")
    parser.add_argument("--rows", type=int, help="take so many rows of each split, to try the script")
    parser.add_argument("--max_steps", type=int, help="stop after so many steps, to try the script")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "trainable.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child: return write(asked.output, work(**json.loads(asked.child)))

    if not asked.toy and asked.data is None: stop("trainable.py needs --data FOLDER with train.csv, validation.csv and test.csv, or --toy")
    missing = [f"{split}.csv" for split in SPLITS if asked.data and not (asked.data / f"{split}.csv").is_file()]
    if missing: stop(f"{asked.data} has no {' and no '.join(missing)}: expected the three splits of a data set of pairs")
    with tempfile.TemporaryDirectory() as folder:
        data = write_toy(Path(folder)) if asked.toy else str(asked.data.resolve())
        words = ["FOLDER" if word == str(asked.data) else word for word in sys.argv[1:] if word not in ("--output", str(asked.output))]
        result = begin(asked.output, " ".join(["python", "nbs/evidence/trainable.py", *words]),
                       dict(model=MODEL, data=digest(Path(data)), rows=asked.rows, max_steps=asked.max_steps))
        result["versions"]["peft"] = importlib.metadata.version("peft")
        rates = [dict(kind="choose", what=what, seed=asked.seeds[0], arguments=dict(learning_rate=rate))
                 for what in asked.only if asked.choose for rate in RATES.get(what, ())]
        turns = [dict(kind="train", what=what, seed=seed, arguments={}) for seed in asked.seeds for what in asked.only]
        carry_out(result, not_done(result, [*rates, *turns]), asked.output, __file__, settings=result["settings"], data=data)


if __name__ == "__main__": main()
