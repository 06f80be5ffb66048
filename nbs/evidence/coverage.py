"""Measure how often the intervals of `bootstrap_interval` and `compare_models` hold the true value.

Each setting is a table of probabilities, of true and predicted classes or of numbers, whose score is known. Rows are drawn from it again and
again, scored by the function that users call, and counted. The plain percentile bootstrap of the same rows is counted beside it.
Simulation number s draws with the seeds s and the number of the setting, and can be repeated alone. Every setting is written down at once,
and the same command goes on where it stopped.
"""
import argparse
import datetime
import importlib.metadata
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from default_job import commit, write
from speed import begin, not_done, stop

HERE = Path(__file__).resolve().parent
RESAMPLES = 1000
SIX = [0.4, 0.25, 0.15, 0.1, 0.07, 0.03]  # shares of six classes
TOY = ["accuracy 0.9", "F1 of a rare class", "Pearson correlation", "accuracy, equal models"]


def one_model(shares: list[float], right: float) -> np.ndarray:
    "Chances of each true and predicted class, wrong answers spread evenly."
    shares, classes = np.array(shares), len(shares)
    return np.diag(shares * right) + (1 - np.eye(classes)) * (shares * (1 - right) / (classes - 1))[:, None]


def two_models(shares: list[float], both: float, only_first: float, only_second: float) -> np.ndarray:
    "Chances of each true class and two predicted ones; where both are wrong they say the same."
    classes, table = len(shares), np.zeros((len(shares),) * 3)
    for truth, share in enumerate(shares):
        table[truth, truth, truth] = share * both
        for wrong in {*range(classes)} - {truth}:
            table[truth, truth, wrong] = share * only_first / (classes - 1)
            table[truth, wrong, truth] = share * only_second / (classes - 1)
            table[truth, wrong, wrong] = share * (1 - both - only_first - only_second) / (classes - 1)
    return table


RARE = np.array([[0.87 * 0.992, 0.87 * 0.008], [0.13 * 0.1, 0.13 * 0.9]])    # 13% of the rows are positive; 90% of them are found
COLA = np.array([[0.31 * 0.6, 0.31 * 0.4], [0.69 * 0.08, 0.69 * 0.92]])      # 69% are positive
CASES: dict[str, tuple[str, int, Any]] = {                                   # metric, rows, and where they come from
    "accuracy 0.5": ("accuracy", 1000, one_model([0.5, 0.5], 0.5)),
    "accuracy 0.9": ("accuracy", 100, one_model([0.5, 0.5], 0.9)),
    "accuracy 0.975": ("accuracy", 445, one_model([0.2] * 5, 0.975)),
    "accuracy 0.8, few rows": ("accuracy", 20, one_model([0.5, 0.5], 0.8)),
    "accuracy 0.99": ("accuracy", 445, one_model([0.2] * 5, 0.99)),
    "accuracy 0.998": ("accuracy", 445, one_model([0.2] * 5, 0.998)),
    "F1 of a rare class": ("f1", 1114, RARE),
    "F1, few rows": ("f1", 20, one_model([0.5, 0.5], 0.8)),
    "macro F1": ("f1_macro", 500, one_model(SIX, 0.95)),
    "macro F1, 3 rows of a class": ("f1_macro", 100, one_model(SIX, 0.95)),
    "balanced accuracy": ("balanced_accuracy", 500, one_model(SIX, 0.9)),
    "Matthews correlation": ("matthews_correlation", 1043, COLA),
    "accuracy, equal models": ("accuracy", 200, two_models([0.5, 0.5], 0.85, 0.01, 0.01)),
    "accuracy, unequal models": ("accuracy", 408, two_models([0.5, 0.5], 0.85, 0.05, 0.02)),
    "macro F1, unequal models": ("f1_macro", 500, two_models(SIX, 0.85, 0.06, 0.02)),
    "Pearson correlation": ("pearson", 200, 0.8),                            # of two normal numbers
    "Pearson correlation, few rows": ("pearson", 20, 0.8),
    "area under the ROC curve": ("roc_auc", 200, 1.5)}                       # standard deviations apart; 20% positive
FEWER = {"area under the ROC curve": 5, "Pearson correlation, few rows": 2}    # slow: so many times fewer simulations


def of_tables(metric: str, tables: np.ndarray) -> np.ndarray:
    "The score of each table of true and predicted classes, written out here once more."
    both, has, given, rows = tables.diagonal(axis1=1, axis2=2), tables.sum(axis=2), tables.sum(axis=1), tables.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        if metric == "accuracy": return both.sum(axis=1) / rows
        if metric == "f1": return np.nan_to_num(2 * both[:, 1] / (has + given)[:, 1])
        if metric == "f1_macro": return np.nanmean(2 * both / (has + given), axis=1)
        if metric == "balanced_accuracy": return np.nanmean(both / has, axis=1)
        varies = np.sqrt((rows**2 - (has**2).sum(axis=1)) * (rows**2 - (given**2).sum(axis=1)))
        return np.nan_to_num((both.sum(axis=1) * rows - (has * given).sum(axis=1)) / varies)


def of_joint(metric: str, tables: np.ndarray) -> np.ndarray:
    "The score of one model, or the difference of two."
    return of_tables(metric, tables) if tables.ndim == 3 else of_tables(metric, tables.sum(axis=3)) - of_tables(metric, tables.sum(axis=2))


def classes_drawn(metric: str, rows: int, table: np.ndarray, generator: np.random.Generator) -> tuple[list[np.ndarray], Callable]:
    "Truth and predictions of rows drawn from the table, and the scores of their resamples."
    cells = generator.multinomial(rows, table.ravel())
    sides = np.unravel_index(np.repeat(np.arange(table.size), cells), table.shape)
    def resampled(again: np.random.Generator) -> np.ndarray:
        return of_joint(metric, again.multinomial(rows, cells / rows, size=RESAMPLES).reshape(-1, *table.shape).astype(float))
    return list(sides), resampled


def numbers_drawn(rows: int, correlation: float, generator: np.random.Generator) -> tuple[list[np.ndarray], Callable]:
    "Two normal numbers per row, and the correlations of their resamples."
    truth = generator.normal(size=rows)
    says = correlation * truth + (1 - correlation**2)**0.5 * generator.normal(size=rows)
    def resampled(again: np.random.Generator) -> np.ndarray:
        drawn = again.integers(rows, size=(RESAMPLES, rows))
        left, right = (side[drawn] - side[drawn].mean(axis=1, keepdims=True) for side in (truth, says))
        return (left * right).sum(axis=1) / np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return [truth, says], resampled


def probabilities_drawn(rows: int, apart: float, generator: np.random.Generator) -> tuple[list[np.ndarray], Callable]:
    "A class and a probability per row, and the areas under the curve of their resamples."
    truth = (np.arange(rows) < generator.binomial(rows, 0.2)).astype(int)
    says = norm.cdf(generator.normal(size=rows) + apart * truth - 1)
    order = np.sign(says[truth == 1][:, None] - says[truth == 0]) / 2 + 0.5
    def resampled(again: np.random.Generator) -> np.ndarray:
        drawn = again.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
        positive, negative = drawn[:, truth == 1], drawn[:, truth == 0]
        return (positive @ order * negative).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return [truth, says], resampled


def draw(metric: str, rows: int, source: Any, generator: np.random.Generator) -> tuple[list[np.ndarray], Callable]:
    "Truth, then predictions of one model or of two, and a function that scores resamples."
    if metric == "pearson": return numbers_drawn(rows, source, generator)
    if metric == "roc_auc": return probabilities_drawn(rows, source, generator)
    return classes_drawn(metric, rows, source, generator)


def true_value(metric: str, source: Any) -> float:
    "The score of all rows there could be."
    if metric == "pearson": return source
    if metric == "roc_auc": return float(norm.cdf(source / 2**0.5))
    return float(of_joint(metric, source[None])[0])


def summary(ends: list[tuple[float, float]], truth: float) -> dict[str, Any]:
    "How many intervals held the truth, lay below it, and lay above it; and their mean width."
    low, high = np.array(ends).T
    below, above = int((high < truth - 1e-9).sum()), int((low > truth + 1e-9).sum())  # an end on the truth itself holds it
    return dict(held=len(ends) - below - above, too_low=below, too_high=above, mean_width=round(float((high - low).mean()), 6))


def measure(job: dict[str, Any]) -> dict[str, Any]:
    "Simulate one setting."
    from hf_finetune.uncertainty import bootstrap_interval, compare_models
    warnings.simplefilter("ignore")  # a rare class can be absent from the rows drawn
    metric, rows, source = CASES[job["name"]]
    truth, number, ours, plain, clock = true_value(metric, source), list(CASES).index(job["name"]), [], [], time.perf_counter()
    for seed in range(job["simulations"]):
        (references, *answers), resampled = draw(metric, rows, source, np.random.default_rng([seed, number]))
        found = (bootstrap_interval(metric, *answers, references, n_resamples=RESAMPLES, seed=seed) if len(answers) == 1
                 else compare_models(metric, *answers, references, n_resamples=RESAMPLES, seed=seed).difference)
        ours.append((found.low, found.high))
        plain.append(tuple(np.quantile(resampled(np.random.default_rng(seed)), [0.025, 0.975])))
    return dict(metric=metric, rows=rows, truth=truth, difference=len(answers) == 2, date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                commit=commit(), interval=summary(ours, truth), percentile=summary(plain, truth), seconds=round(time.perf_counter() - clock, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000, help="of each setting (1000)")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help=f"some of: {'; '.join(CASES)} (all)")
    parser.add_argument("--toy", action="store_true", help="20 simulations of four settings, to try the script")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "coverage.json")
    asked = parser.parse_args()
    if asked.simulations < 1: stop(f"--simulations must be at least 1, found {asked.simulations}")
    simulations, names = (20, TOY) if asked.toy else (asked.simulations, asked.only or list(CASES))
    words = [word for word in sys.argv[1:] if word not in ("--output", str(asked.output))]
    result = begin(asked.output, " ".join(["python", "nbs/evidence/coverage.py", *words]), dict(resamples=RESAMPLES, confidence_level=0.95))
    result["versions"] |= {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")}
    for job in not_done(result, [dict(name=name, simulations=max(1, simulations // FEWER.get(name, 1))) for name in names]):
        result["measurements"].append({**job, **measure(job)})
        write(asked.output, result)
        print(f"{job['name']}: {result['measurements'][-1]['seconds']} s", flush=True)


if __name__ == "__main__": main()
