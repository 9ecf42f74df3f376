"""What stands behind a flag: from the text on the command line to its value, and back.

Each ``parse_...`` takes a value as it is given, on the command line or in Python, and raises a ValueError that says
what was expected.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

FLOAT32_LIMIT = 1e30  # room below the largest float32, 3.4e38
NEWEST = "newest"  # --resume without a directory
COSINE = "cosine"  # --lr_schedule cosine:PEAK:ITERATIONS:WARMUP
COSINE_END = 0.01  # of the peak: the rate at the end of the cosine and after it
# Learning rates by name: rate:iterations of each stage. For KTH, the table of an older Paddle port, taken over as it
# was and not run to its end here.
LR_SCHEDULES = {
    "kth": "1e-3:20000,5e-4:20000,2.5e-4:20000,1e-4:25000,5e-5:30000,2e-5:30000,1e-5:30000,"
    "5e-6:40000,2e-6:40000,1e-6:40000,5e-7:40000,2e-7:40000,1e-7:40000"
}
TRAINING_PERSONS = range(1, 17)  # of KTH; the persons after them are for the test
GATE = "gate"  # --residual gate
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_bool(value: Any) -> bool:
    """True/False from a bool or from one of True, true, 1, yes, False, false, 0, no."""
    word = str(value).strip().lower()
    if word not in BOOLEANS:
        raise ValueError("expected True or False (also true, 1, yes, false, 0, no)")
    return BOOLEANS[word]


def parse_residual(value: Any) -> bool | str:
    """What --residual takes: the values of :func:`parse_bool`, or "gate"."""
    try:
        return GATE if str(value).strip().lower() == GATE else parse_bool(value)
    except ValueError:
        raise ValueError(f"expected True, False or {GATE}") from None


def parse_int(value: Any) -> int:
    """A whole number from an int or a string; a bool or a fraction is none."""
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise ValueError("expected a whole number") from None


def parse_float(value: Any) -> float:
    """A finite number from a number or a string."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("expected a number") from None
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def parse_text(value: Any) -> str:
    """A string or a path, as a string."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    raise ValueError("expected text")


def parse_sizes(value: Any) -> str:
    """Layer sizes, "64,64" or a sequence of numbers, as "64,64"."""
    if not isinstance(value, str):
        value = ",".join(str(size) for size in value) if isinstance(value, Sequence) else str(value)
    sizes = [size.strip() for size in value.split(",")]
    if not all(re.fullmatch(r"[0-9]+", size) and int(size) > 0 for size in sizes):
        raise ValueError("expected channels of each layer, whole numbers above 0 with commas between, as in 64,64,64")
    if len(set(map(int, sizes))) != 1:
        raise ValueError("the layers share one memory, so their sizes must be equal, as in 64,64,64")
    return ",".join(str(int(size)) for size in sizes)


def parse_persons(value: Any) -> str:
    """Persons of KTH who train, "14,15,16" or a sequence of numbers, as "14,15,16"; empty for none."""
    if not isinstance(value, str):
        value = ",".join(str(person) for person in value) if isinstance(value, Sequence) else str(value)
    persons = [person.strip() for person in value.split(",")] if value.strip() else []
    if not all(re.fullmatch(r"[0-9]+", person) and int(person) in TRAINING_PERSONS for person in persons):
        first, last = TRAINING_PERSONS[0], TRAINING_PERSONS[-1]
        raise ValueError(f"expected persons who train, {first} to {last}, with commas between, as in 14,15,16")
    if len(set(map(int, persons))) == len(TRAINING_PERSONS):
        raise ValueError("leaves nobody to train on; leave some out")
    return ",".join(str(person) for person in sorted(set(map(int, persons))))


def parse_resume(value: Any) -> str:
    """Empty: a new run; NEWEST (also for True, the bare flag): the newest checkpoint of save_dir; else a directory."""
    text = parse_text(str(value) if isinstance(value, bool) else value)
    word = text.strip().lower()
    if word in (NEWEST, "true", "yes"):  # 1 and 0 are names of directories here
        return NEWEST
    return "" if word in ("", "false", "no") else text


def parse_betas(value: Any) -> str:
    """Two numbers from 0 to below 1, "0.9,0.999" or a sequence of numbers, as "0.9,0.999"."""
    if not isinstance(value, str):
        value = ",".join(str(beta) for beta in value) if isinstance(value, Sequence) else str(value)
    try:
        betas = [parse_float(beta) for beta in value.split(",")]
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError
    except ValueError:
        raise ValueError("expected two numbers from 0 to below 1 with a comma between, as in 0.9,0.999") from None
    return ",".join(f"{beta:g}" for beta in betas)


def parse_schedule(value: Any) -> str:
    """A learning rate over the iterations: stages, "1e-3:20000,5e-4:20000"; "cosine:PEAK:ITERATIONS:WARMUP"; or a name
    of LR_SCHEDULES; empty for none."""
    text = parse_text(value).strip()
    if not lr_cosine(text) and text not in LR_SCHEDULES:
        lr_stages(text)
    return text


class Cosine(NamedTuple):
    """A learning rate that rises evenly to the peak, then falls along half a cosine to COSINE_END of it."""

    peak: float
    iterations: int  # where the fall ends, the warm-up included
    warmup: int  # iterations of the rise

    def rate(self, iteration: int) -> float:
        """The rate of an iteration, counted from 1."""
        if iteration <= self.warmup:
            return self.peak * iteration / self.warmup
        fallen = min(1.0, (iteration - self.warmup) / (self.iterations - self.warmup))
        return self.peak * (COSINE_END + (1 - COSINE_END) * (1 + math.cos(math.pi * fallen)) / 2)


def lr_cosine(schedule: str) -> Cosine | None:
    """What an --lr_schedule of the form cosine:PEAK:ITERATIONS or cosine:PEAK:ITERATIONS:WARMUP says; None for others.

    Raises:
        ValueError: numbers that are missing or out of range.
    """
    form, *numbers = schedule.split(":")
    if form != COSINE:
        return None
    try:
        if len(numbers) not in (2, 3):
            raise ValueError
        cosine = Cosine(parse_float(numbers[0]), *map(parse_int, (*numbers[1:], 0)[:2]))
        if not (0 < cosine.peak <= FLOAT32_LIMIT and 0 <= cosine.warmup < cosine.iterations):
            raise ValueError
    except ValueError:
        raise ValueError(
            "expected cosine:PEAK:ITERATIONS or cosine:PEAK:ITERATIONS:WARMUP, with WARMUP below ITERATIONS, "
            "as cosine:2e-3:10000:500"
        ) from None
    return cosine


def lr_schedule_length(schedule: str) -> int:
    """Iterations until the rate of an --lr_schedule stays as it is; 0 where there is none."""
    cosine = lr_cosine(schedule)
    return cosine.iterations if cosine else sum(iterations for _, iterations in lr_stages(schedule))


def lr_stages(schedule: str) -> list[tuple[float, int]]:
    """(rate, iterations) of each stage of an --lr_schedule; empty where there is none.

    Raises:
        ValueError: a stage that is not rate:iterations with both above 0.
    """
    stages = []
    for stage in LR_SCHEDULES.get(schedule, schedule).split(",") if schedule else []:
        try:
            rate, iterations = stage.split(":")
            stages.append((parse_float(rate), parse_int(iterations)))
            if not (0 < stages[-1][0] <= FLOAT32_LIMIT and stages[-1][1] > 0):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"the stage {stage.strip()!r} is not rate:iterations; "
                f"expected stages as 1e-3:20000,5e-4:20000, cosine:PEAK:ITERATIONS:WARMUP, "
                f"or one of {', '.join(LR_SCHEDULES)}"
            ) from None
    return stages


def parse_device(value: Any) -> str:
    """auto, cpu, or gpu, xpu or npu with or without :N."""
    if not re.fullmatch(r"auto|cpu|(gpu|xpu|npu)(:[0-9]+)?", str(value)):
        raise ValueError("expected auto, cpu, gpu, xpu, npu, or one of the last three with :N (N counts from 0)")
    return str(value)


def did_you_mean(value: str, choices: Collection[str]) -> str:
    """Which choice may be meant: one that is spelt nearly so, or the one whose help says so (kth: action)."""

    def letters(text: str) -> str:
        return "".join(filter(str.isalnum, text.lower()))

    help = {name: getattr(choices[name], "help", "") if isinstance(choices, Mapping) else "" for name in choices}
    said = [name for name in help if letters(value) and letters(value) in letters(help[name])]
    meant = difflib.get_close_matches(value.lower(), choices, 1) or (said if len(said) == 1 else [])
    return f"; did you mean {meant[0]}?" if meant else ""


def list_flags(names: Sequence[str], values: Mapping[str, Any]) -> str:
    """--name value of each, with commas between."""
    return ", ".join(f"--{name} {values[name]}" for name in names)


def split_paths(paths: str) -> list[str]:
    """The paths of a comma-separated list; one existing path with a comma in its name stays whole."""
    if os.path.exists(paths):
        return [paths]
    return [path.strip() for path in paths.split(",") if path.strip()]
