"""Train the same with several seeds on data sets as they are published, with and without class weights, and score what comes out.

Each data set is measured in a process of its own and written at once; the same command goes on where it stopped, and with --runs inside of a data set, too.
The folder given as --data holds one folder for each data set, with train.csv and, if there are any, validation.csv and test.csv.
"""
import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from default_job import write
from speed import begin, carry_out, not_done, stop
from tasks import digest, files_of, write_toy

HERE = Path(__file__).resolve().parent
MODEL = "minilm"


def score_all(outputs: Any) -> dict[str, float]:
    "Every metric that fits one class per row."
    from hf_finetune.metrics import SCORES, find_score
    fitted = [find_score(name, outputs.problem_type, len(outputs.label_names)) for name, score in SCORES.items() if outputs.problem_type in score.tasks]
    return {score.name: score(*outputs.given_to(score)) for score in fitted}


def calibration_of(validation: Any, test: Any) -> dict[str, Any]:
    "The temperature that validation asks for, and what it does to the test split."
    from hf_finetune.calibration import fit_temperature
    temperature = fit_temperature(validation)
    after = score_all(dataclasses.replace(test, logits=test.logits / temperature))
    return dict(temperature=temperature, **{name: after[name] for name in ("log_loss", "brier_score", "expected_calibration_error")})


def threshold_of(validation: Any, test: Any) -> dict[str, Any] | None:
    "The threshold with the best F1 on validation, and what it does to the test split; None if there are more than two classes."
    from hf_finetune.calibration import best_threshold
    if len(test.label_names) != 2: return None
    threshold = best_threshold(validation, "f1").threshold
    after = score_all(dataclasses.replace(test, threshold=threshold))
    return dict(threshold=threshold, **{name: after[name] for name in ("accuracy", "f1", "precision", "recall", "balanced_accuracy", "matthews_correlation")})


def describe(run: Any) -> dict[str, Any]:
    "What one seed gave."
    validation, noted = run.outputs("validation"), run.test()
    test = run.outputs("test")
    return dict(seed=run.settings["seed"], best=dict(epoch=run.best.epoch, validation=run.best.value), validation=score_all(validation), test=score_all(test),
                intervals={name: [score.low, score.value, score.high] for name, score in noted.items()},
                calibrated=calibration_of(validation, test), threshold=threshold_of(validation, test), answers="".join(map(str, test.predictions)))


def work(job: dict[str, Any], settings: dict[str, Any], data: str, runs: str | None, started: float, folder: str) -> dict[str, Any]:
    "In the child: train one data set with all seeds, and score each on the test split."
    from hf_finetune.data import load_data
    from hf_finetune.evaluation import finetune_seeds
    loaded = load_data(str(Path(data) / job["name"]))
    arguments = {name: value for name, value in (("class_weight", job["class_weight"]), ("max_steps", settings["max_steps"])) if value is not None}
    place = Path(runs or folder) / "-".join(filter(None, [job["name"], job["class_weight"]]))
    found = finetune_seeds(MODEL, loaded, place, seeds=settings["seeds"], **arguments).runs
    used = found[0].settings
    return dict(rows={split: len(rows) for split, rows in loaded.items()}, labels=used["labels"], weights=used["class_weight"], max_length=used["max_length"],
                used={name: used["arguments"][name] for name in ("learning_rate", "num_train_epochs", "per_device_train_batch_size")},
                truth="".join(map(str, loaded["test"]["label"])), seeds=[describe(run) for run in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with one folder for each data set")
    parser.add_argument("--toy", action="store_true", help="small sets cut out of the built-in articles instead, to try the script")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="which of the data sets; at most ten classes, one for each row")
    parser.add_argument("--class_weight", nargs="+", choices=["none", "balanced"], default=["none"], help="how the classes are weighted in training (none)")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument("--max_steps", type=int, help="stop after so many steps, to try the script")
    parser.add_argument("--runs", type=Path, help="keep the run folders here")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "seeds.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child: return write(asked.output, work(**json.loads(asked.child)))

    if not asked.only or not asked.toy and asked.data is None: stop("seeds.py needs --only NAME ... and --data FOLDER with a folder of each such name, or --toy")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) if asked.toy else asked.data.resolve()
        if asked.toy: write_toy(data)
        missing = [name for name in asked.only if not files_of(data / name)]
        if missing: stop(f"{asked.data} has no {' or '.join(missing)}: expected folders with train.csv, and perhaps validation.csv and test.csv")
        places = {str(asked.data): "FOLDER", str(asked.runs): "RUNS", str(asked.output): f"nbs/evidence/results/{asked.output.name}"}
        result = begin(asked.output, " ".join(["python", "nbs/evidence/seeds.py", *(places.get(word, word) for word in sys.argv[1:])]),
                       dict(model=MODEL, seeds=asked.seeds, max_steps=asked.max_steps))
        jobs = [dict(kind="seeds", name=name, class_weight=None if weight == "none" else weight, digest=digest(data / name))
                for name in asked.only for weight in asked.class_weight]
        carry_out(result, not_done(result, jobs), asked.output, __file__, settings=result["settings"], data=str(data), runs=asked.runs and str(asked.runs.resolve()))


if __name__ == "__main__": main()
