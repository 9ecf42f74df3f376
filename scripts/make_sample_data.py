"""Draw sample data in the on-disk format of the KTH Actions data set: no download, no video needed.

    python scripts/make_sample_data.py --out data/sample
    python scripts/make_sample_data.py --out data/sample --frames 100 --size 64x64 --persons 01,02,17 --seed 7
    python scripts/make_sample_data.py --out data/sample --actions walking,running --scenarios 4
    python scripts/make_sample_data.py --out data/dusk --dusk

Writes ``DIR/<action>/personNN_<action>_dD_uncomp/image_0001.jpg ...``: grey 8-bit JPEGs, 160x120 unless told
otherwise, in which a jointed figure boxes, claps, waves, walks, jogs or runs before a still background, 25 frames
to the second. The motion is periodic, so a few frames foretell the next ones.

The same flags give the same bytes. A frame depends only on seed, person, action, scenario, frame number and size,
so a larger tree contains the smaller ones. A recording's folder appears under its name only when it is complete.
A folder that exists already is kept as it is and skipped, whatever is in it.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.command import command  # noqa: E402, I001  before the packages: one may be missing

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from src.data_provider.kth_sequences import ACTIONS  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.one_line_parser import OneLineParser  # noqa: E402

DEFAULT_PERSONS = ("01", "02", "03", "04", "17", "18")  # KTH's split: 01 to 16 train, 17 to 25 test
DEFAULT_FRAMES = 60
DEFAULT_SIZE = (160, 120)  # width, height: KTH's own
LAST_PERSON = 25
LAST_SCENARIO = 4
LAST_FRAME = 9999  # the file names have four digits
SMALLEST_SIDE, LARGEST_SIDE = 32, 2048

FRAMES_PER_SECOND = 25.0
SUPERSAMPLING = 4  # the figure is drawn this much larger and averaged down, so that it moves by parts of a pixel
SHIFT_BITS = 4  # cv2 takes polygon corners in 1/2**SHIFT_BITS of a drawn pixel
NOISE_SIGMA = 3.5  # grey levels of sensor noise; a person's recordings have NOISE_SPREAD more or less
NOISE_SPREAD = 0.3
JPEG_QUALITY = 95
LIGHT_SPREAD = 6.0  # grey levels by which the illumination differs from person to person

# Background: (grey far, grey near, height of the ground line, its softness) of the places d1 to d4; the last two
# are parts of the picture's height. d1 to d3 are lawns, d4 is a room.
PLACES = ((147, 131, 0.42, 0.10), (139, 149, 0.50, 0.06), (152, 133, 0.34, 0.08), (157, 118, 0.74, 0.006))
TEXTURE_OCTAVES = ((0.30, 2.2), (0.10, 2.0), (0.035, 2.2), (0.014, 2.6))  # cell (part of the height), grey levels
TEXTURE_STRETCH = 2.5  # grass seen at a slant: wider than high
INDOOR_TEXTURE = 0.45  # a wall is smoother than a lawn
# --dusk: light left of the background's, and the figure's grey levels as under a lamp (offset, contrast).
DUSK_LIGHT, LAMP_OFFSET, LAMP_CONTRAST = 0.15, 130.0, 0.45
VIGNETTE = 0.10  # part of the light lost in the corners
SHADOW_STRENGTH, SHADOW_WIDTH, SHADOW_HEIGHT = 0.22, 0.17, 0.022  # the last two in body heights

# The figure, in body heights.
FIGURE_SCALES = (0.66, 0.63, 0.68, 0.645)  # body height as a part of the picture, d1 to d4
FIGURE_SMALLEST, FIGURE_LARGEST = 0.60, 0.70
FIGURE_MIDDLE = 0.55  # where the middle of the body stands, part of the picture's height from the top
THIGH, SHIN, ANKLE_HEIGHT = 0.24, 0.24, 0.04
TORSO, UPPER_ARM, FOREARM, HAND = 0.30, 0.165, 0.145, 0.035
SHOULDER_HALF, HIP_HALF = 0.105, 0.055  # half widths seen from the front
NEAR, FAR = 18.0, -10.0  # grey levels by which near and far limbs differ from the torso, to tell them apart
LIGHT_CLOTH_SHADE = 1.8  # times as much on light cloth, where the eye needs more

Point = tuple[float, float]
Circle = tuple[float, float, float]


class Part(NamedTuple):
    """A piece of the figure: the convex hull of some circles (x, y, radius), filled with one grey level."""

    circles: tuple[Circle, ...]
    grey: float


@dataclass(frozen=True)
class Person:
    """What stays the same in all recordings of one person."""

    shirt: float
    trousers: float
    skin: float
    hair: float
    shoes: float
    height: float  # factor
    girth: float  # factor
    tempo: float  # factor
    light: float  # grey levels
    noise: float  # grey levels


@dataclass(frozen=True)
class Take:
    """What differs between the recordings of one person."""

    phase: float  # cycles
    facing: int  # 1: to the right, -1: to the left
    offset: float  # from the middle of the picture, in body heights
    start: float  # part of the first crossing that is over when the recording begins
    reach: float  # factor: how far the arms go


@dataclass(frozen=True)
class Gait:
    """One stride of the leg, each table in degrees at 0, 10, ... 90 % of it, beginning where the heel lands."""

    thigh: tuple[float, ...]  # from straight down, forward positive
    knee: tuple[float, ...]  # flexion
    foot: tuple[float, ...]  # toes up positive
    stance: float  # part of the stride that the foot is on the ground
    cadence: float  # strides a second
    lean: float
    arm_swing: float
    arm_middle: float
    elbow: float
    elbow_swing: float
    flight: float  # lift while both feet are off the ground, body heights
    margin: float  # how far behind the picture's edge the person turns, body heights: just out of sight


GAITS = {
    "walking": Gait(
        thigh=(25, 20, 11, 0, -10, -18, -12, 6, 20, 26),
        knee=(4, 13, 14, 9, 6, 11, 36, 58, 46, 16),
        foot=(18, 3, 0, -1, -8, -26, -55, -38, -5, 14),
        stance=0.60,
        cadence=1.10,
        lean=3,
        arm_swing=24,
        arm_middle=-2,
        elbow=20,
        elbow_swing=10,
        flight=0.0,
        margin=0.30,
    ),
    "jogging": Gait(
        thigh=(25, 19, 8, -5, -16, -16, 2, 21, 33, 32),
        knee=(16, 33, 35, 24, 16, 38, 72, 86, 62, 28),
        foot=(8, 0, -2, -13, -42, -70, -72, -46, -12, 5),
        stance=0.40,
        cadence=1.42,
        lean=8,
        arm_swing=30,
        arm_middle=-8,
        elbow=88,
        elbow_swing=10,
        flight=0.025,
        margin=0.31,
    ),
    "running": Gait(
        thigh=(34, 25, 8, -11, -26, -25, 2, 32, 55, 50),
        knee=(22, 38, 38, 25, 20, 58, 102, 114, 86, 38),
        foot=(6, 0, -5, -26, -62, -85, -92, -56, -14, 5),
        stance=0.34,
        cadence=1.52,
        lean=14,
        arm_swing=48,
        arm_middle=-8,
        elbow=95,
        elbow_swing=14,
        flight=0.04,
        margin=0.39,
    ),
}
GAIT_HARMONICS = 4  # of the ten table values: enough for the two peaks of the knee, and smooth
FOOT_BLEND = 0.010  # body heights over which the weight goes from one foot to the other

BOXING_CADENCE, CLAPPING_CADENCE, WAVING_CADENCE = 0.95, 0.90, 0.68  # cycles a second
UNIT_CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in np.arange(20) * (math.tau / 20)])


class Summary(NamedTuple):
    """What make_tree did."""

    folders: int
    frames: int
    kept: int


# ---- Chance: one stream for each purpose, so that no choice depends on what else is drawn ----


def random_stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for one purpose and key; adding persons or frames leaves the others as they were."""
    return np.random.default_rng([seed, *purpose.encode(), *key])


def make_person(seed: int, number: int) -> Person:
    """Clothes, build and habits of a person, chosen so that every part stands out from the background."""
    rng = random_stream(seed, "person", number)

    def grey(light_share: float, dark: Point, light: Point) -> float:
        pick, level = rng.random(2)
        low, high = light if pick < light_share else dark
        return float(low + (high - low) * level)

    return Person(
        shirt=grey(0.4, (38, 72), (218, 238)),
        trousers=grey(0.15, (22, 58), (200, 222)),
        skin=grey(0.8, (60, 80), (182, 204)),
        hair=grey(0.1, (14, 48), (212, 225)),
        shoes=grey(0.2, (15, 40), (205, 225)),
        height=float(rng.uniform(0.96, 1.04)),
        girth=float(rng.uniform(0.90, 1.12)),
        tempo=float(rng.uniform(0.92, 1.08)),
        light=float(rng.uniform(-LIGHT_SPREAD, LIGHT_SPREAD)),
        noise=float(NOISE_SIGMA + rng.uniform(-NOISE_SPREAD, NOISE_SPREAD)),
    )


def make_take(seed: int, number: int, action: str, scenario: int) -> Take:
    """Position, direction and phase of one recording."""
    rng = random_stream(seed, "take", number, ACTIONS.index(action), scenario)
    return Take(
        phase=float(rng.random()),
        facing=1 if rng.random() < 0.5 else -1,
        offset=float(rng.uniform(-0.18, 0.18)),
        start=float(rng.uniform(0.12, 0.35)),
        reach=float(rng.uniform(0.85, 1.0)),
    )


# ---- Background ----


def smooth_noise(rng: np.random.Generator, width: int, height: int, cell: float, stretch: float) -> np.ndarray:
    """Noise of standard deviation 1 whose blobs are about cell pixels high and stretch times as wide."""
    rows, columns = (max(2, math.ceil(side) + 2) for side in (height / cell, width / (cell * stretch)))
    grid = rng.standard_normal((rows, columns)).astype(np.float32)
    field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def make_place(seed: int, scenario: int, width: int, height: int) -> np.ndarray:
    """The still background ``[height, width]`` (float32 grey levels) of a scenario, the same for every person."""
    rng = random_stream(seed, "place", scenario)
    far, near, line, softness = PLACES[scenario - 1]
    indoors = scenario == LAST_SCENARIO
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    line += float(rng.uniform(-0.02, 0.02))
    ground = 1.0 / (1.0 + np.exp(-np.clip((rows - line) / softness * 2.0, -30, 30)))
    field = np.repeat((far + (near - far) * ground)[:, None], width, axis=1)
    for cell, levels in TEXTURE_OCTAVES:
        stretch = 1.0 if indoors else TEXTURE_STRETCH
        strength = levels * (INDOOR_TEXTURE if indoors else 1.0)
        field += strength * smooth_noise(rng, width, height, max(1.0, cell * height), stretch)
    corner_distance = (2 * rows[:, None] - 1) ** 2 + (2 * columns[None, :] - 1) ** 2
    return (field * (1.0 - VIGNETTE / 2 * corner_distance)).astype(np.float32)


# ---- Joints: x forward (or to the right), y up, in body heights; angles in degrees from straight down ----


def reach_from(origin: Point, angle: float, length: float) -> Point:
    """The far end of a bone that begins at origin."""
    radians = math.radians(angle)
    return origin[0] + length * math.sin(radians), origin[1] - length * math.cos(radians)


def bent_knee(hip: Point, ankle: Point) -> Point:
    """The knee between a hip and an ankle that are both given: it goes forward."""
    across, down = ankle[0] - hip[0], ankle[1] - hip[1]
    distance = min(math.hypot(across, down), THIGH + SHIN - 1e-6)
    along = (THIGH**2 - SHIN**2 + distance**2) / (2 * distance)
    aside = math.sqrt(max(0.0, THIGH**2 - along**2))
    return hip[0] + (along * across - aside * down) / distance, hip[1] + (along * down + aside * across) / distance


def gait_curve(table: Sequence[float], cycle: float) -> float:
    """The smooth periodic curve through a gait table, at a time in strides."""
    spectrum = np.fft.rfft(table) / len(table)
    turns = math.tau * cycle * np.arange(1, GAIT_HARMONICS + 1)
    harmonics = spectrum[1 : GAIT_HARMONICS + 1]
    return float(spectrum[0].real + 2 * (harmonics.real * np.cos(turns) - harmonics.imag * np.sin(turns)).sum())


def leg_of(gait: Gait, cycle: float) -> tuple[Point, Point, float]:
    """Knee and ankle seen from the hip, and the angle of the foot."""
    thigh = gait_curve(gait.thigh, cycle)
    knee = reach_from((0.0, 0.0), thigh, THIGH)
    ankle = reach_from(knee, thigh - gait_curve(gait.knee, cycle), SHIN)
    return knee, ankle, gait_curve(gait.foot, cycle)


def stride_length(gait: Gait) -> float:
    """Body heights a stride: as far as the foot on the ground goes back under the body, so that it does not slide."""
    begin, end = 0.15 * gait.stance, 0.75 * gait.stance  # the middle of the stance, where the speed is even
    return (leg_of(gait, begin)[1][0] - leg_of(gait, end)[1][0]) / (end - begin)


def foot_circles(ankle: Point, angle: float) -> tuple[Circle, Circle, Circle]:
    """Ankle, heel and ball of a foot seen from the side; the angle is that of the sole, toes up positive."""
    heel = reach_from(reach_from(ankle, angle, 0.020), angle - 90, 0.025)
    ball = reach_from(reach_from(ankle, angle, 0.026), angle + 90, 0.088)
    return (*ankle, 0.026), (*heel, 0.020), (*ball, 0.014)


# ---- Figures: lists of parts, the rearmost first, feet at y = 0, turned to the right ----


def toned(grey: float, step: float) -> float:
    """A neighbouring grey level, away from the nearer end of the scale: dark cloth gets lighter, light cloth darker."""
    return grey + step if grey < 128 else grey - LIGHT_CLOTH_SHADE * step


def limb(person: Person, joints: Sequence[Point], radii: Sequence[float], grey: float) -> list[Part]:
    """Bones from joint to joint, thick as the person is."""
    circles = [(x, y, radius * person.girth) for (x, y), radius in zip(joints, radii)]
    return [Part(pair, grey) for pair in zip(circles, circles[1:])]


def arm(person: Person, shoulder: Point, elbow: Point, wrist: Point, hand: Point, tone: float) -> list[Part]:
    """A sleeve and a hand."""
    sleeve = limb(person, (shoulder, elbow, wrist), (0.038, 0.031, 0.024), toned(person.shirt, tone))
    return [Part(((*wrist, 0.018), (*hand, 0.023)), person.skin), *sleeve]


def side_arm(person: Person, shoulder: Point, upper: float, bend: float, tone: float) -> list[Part]:
    """An arm seen from the side: the angle of the upper arm and how much the elbow is bent."""
    elbow = reach_from(shoulder, upper, UPPER_ARM)
    wrist = reach_from(elbow, upper + bend, FOREARM)
    return arm(person, shoulder, elbow, wrist, reach_from(elbow, upper + bend, FOREARM + HAND), tone)


def side_leg(person: Person, hip: Point, knee: Point, ankle: Point, foot: float, tone: float) -> list[Part]:
    """A leg seen from the side."""
    trousers = limb(person, (hip, knee, ankle), (0.062, 0.045, 0.031), toned(person.trousers, tone))
    return [Part(foot_circles(ankle, foot), person.shoes), *trousers]


def side_torso(person: Person, hip: Point, lean: float) -> tuple[list[Part], Point]:
    """Torso, neck and head seen from the side, and where the shoulders are."""
    girth, up = person.girth, 180 - lean
    waist = reach_from(hip, up, 0.03)
    chest = reach_from(reach_from(hip, up, 0.21), up - 90, 0.008)
    shoulder = reach_from(hip, up, TORSO - 0.02)
    head = reach_from(reach_from(hip, up, TORSO), 180 - 0.5 * lean, 0.125)  # the eyes stay on the way ahead
    x, y = head
    neck = ((*shoulder, 0.036), (x - 0.008, y - 0.04, 0.034))
    shirt = ((*waist, 0.062 * girth), (*chest, 0.074 * girth), (*shoulder, 0.05 * girth))
    face = ((x + 0.004, y, 0.050), (x + 0.018, y - 0.035, 0.034), (x + 0.058, y - 0.014, 0.006))  # the last: the nose
    hair = ((x - 0.016, y + 0.014, 0.048), (x + 0.020, y + 0.036, 0.026), (x - 0.026, y - 0.018, 0.032))
    parts = [Part(neck, toned(person.skin, 14)), Part(shirt, person.shirt)]
    return [*parts, Part(face, person.skin), Part(hair, person.hair)], shoulder


def moving_figure(person: Person, gait: Gait, cycle: float) -> list[Part]:
    """Walking, jogging and running: one function, three gaits."""
    near, far = leg_of(gait, cycle), leg_of(gait, cycle + 0.5)
    depths = [max(r - y for _, y, r in foot_circles(ankle, foot)) for _, ankle, foot in (near, far)]
    lowest = max(depths)  # a soft maximum, or the hip would jerk as the weight changes from foot to foot
    height = lowest + FOOT_BLEND * math.log(sum(math.exp((depth - lowest) / FOOT_BLEND) for depth in depths))
    middle_of_flight = (gait.stance + 0.5) / 2
    height += gait.flight * max(0.0, math.cos(math.tau * 2 * (cycle - middle_of_flight))) ** 2
    hip = (0.0, height)

    def leg(joints: tuple[Point, Point, float], tone: float) -> list[Part]:
        knee, ankle, foot = joints
        return side_leg(person, hip, (knee[0], knee[1] + height), (ankle[0], ankle[1] + height), foot, tone)

    torso, shoulder = side_torso(person, hip, gait.lean)

    def swinging_arm(swing: float, tone: float) -> list[Part]:
        place = (shoulder[0] + 0.022 * swing, shoulder[1])  # the shoulders turn against the hips
        bend = gait.elbow + gait.elbow_swing * swing
        return side_arm(person, place, gait.arm_middle + gait.arm_swing * swing, bend, tone)

    swing = -math.cos(math.tau * (cycle - 0.02))  # the near arm goes back as the near leg goes forward
    return [*swinging_arm(-swing, FAR), *leg(far, FAR), *leg(near, NEAR / 2), *torso, *swinging_arm(swing, NEAR)]


def boxing_figure(person: Person, take: Take, cycle: float) -> list[Part]:
    """Side-on, knees a little bent and springing, the fists going forward in turn."""
    turn = math.tau * cycle
    punches = [((1 + math.cos(turn - shift)) / 2) ** 2 for shift in (0.0, math.pi)]  # near fist, far fist
    hip = (0.012 * math.cos(2 * turn), 0.487 + 0.010 * math.cos(2 * turn + 0.8))
    legs = []
    for foot_x, tone in ((0.115, FAR), (-0.105, NEAR / 2)):
        ankle = (foot_x, ANKLE_HEIGHT)
        legs += side_leg(person, hip, bent_knee(hip, ankle), ankle, 0.0, tone)
    torso, shoulder = side_torso(person, hip, 5 + 3 * (punches[0] + punches[1]))
    arms = []
    for punch, tone in zip(punches, (NEAR, FAR)):
        punch *= take.reach
        place = (shoulder[0] - 0.025 + 0.075 * punch, shoulder[1])  # the shoulder goes with the fist
        arms.append(side_arm(person, place, 22 + 66 * punch, 118 - 113 * punch, tone))
    return [*arms[1], *legs, *torso, *arms[0]]


def front_body(person: Person, sway: float, shrug: float) -> list[Part]:
    """Everything but the arms, seen from the front; the arms are drawn on top."""
    girth, hip_y, parts = person.girth, THIGH + SHIN + ANKLE_HEIGHT, []
    for side in (-1, 1):
        hip, knee = (sway + side * HIP_HALF, hip_y), (side * 0.062 + sway / 2, 0.28)
        ankle = (side * 0.070, ANKLE_HEIGHT)
        parts.append(Part(((*ankle, 0.026), (side * 0.082, 0.016, 0.022), (side * 0.064, 0.018, 0.022)), person.shoes))
        grey = toned(person.trousers, NEAR / 2 if side > 0 else 0.0)  # the light comes from one side
        parts += limb(person, (hip, knee, ankle), (0.056, 0.043, 0.032), grey)
    shoulder_x, shoulder_y = SHOULDER_HALF - 0.01, hip_y + TORSO - 0.03 + shrug
    x, y = 1.5 * sway, hip_y + TORSO + 0.125
    torso = [(sway + side * 0.052, hip_y + 0.015, 0.042 * girth) for side in (-1, 1)]
    torso += [(sway + side * shoulder_x, shoulder_y, 0.034 * girth) for side in (-1, 1)]
    return [
        *parts,
        Part(((sway, shoulder_y, 0.036), (x, y - 0.04, 0.032)), toned(person.skin, 14)),
        Part((*torso, (sway, shoulder_y + 0.02, 0.034)), person.shirt),
        Part(((x, y + 0.034, 0.044), (x, y + 0.008, 0.051)), person.hair),
        Part(((x, y - 0.001, 0.042), (x, y - 0.034, 0.035)), person.skin),
    ]


def blended_direction(start: Sequence[float], end: Sequence[float], share: float) -> Point:
    """Between two directions in space (outward, up, to the camera), as the camera sees it."""
    mixed = [a + (b - a) * share for a, b in zip(start, end)]
    length = math.sqrt(sum(value * value for value in mixed))  # what points at the camera looks short
    return mixed[0] / length, mixed[1] / length


def clapping_figure(person: Person, take: Take, cycle: float) -> list[Part]:
    """Facing the camera; the arms swing wide open and close before the chest."""
    closed = (1 - math.cos(math.tau * cycle)) / 2
    share = 1 - take.reach * (1 - closed)
    sway = 0.004 * math.sin(math.tau * cycle)
    upper = blended_direction((0.88, -0.42, 0.2), (0.22, -0.80, 0.56), share)
    lower = blended_direction((0.97, 0.10, 0.3), (-0.68, 0.28, 0.68), share)
    shoulder_y, parts = THIGH + SHIN + ANKLE_HEIGHT + TORSO - 0.03, []
    for side in (-1, 1):
        joints = [(sway + side * SHOULDER_HALF, shoulder_y)]
        for (outward, up), length in ((upper, UPPER_ARM), (lower, FOREARM), (lower, HAND)):
            joints.append((joints[-1][0] + side * outward * length, joints[-1][1] + up * length))
        parts += arm(person, joints[0], joints[1], joints[2], joints[3], NEAR)
    return [*front_body(person, sway, 0.0), *parts]


def waving_figure(person: Person, take: Take, cycle: float) -> list[Part]:
    """Facing the camera; both arms go from the sides up over the head and down again."""
    raised = take.reach * (1 - math.cos(math.tau * cycle)) / 2
    sway = 0.004 * math.sin(math.tau * cycle)
    shrug = 0.025 * raised
    shoulder_y, parts = THIGH + SHIN + ANKLE_HEIGHT + TORSO - 0.03 + shrug, []
    for side in (-1, 1):
        shoulder = (sway + side * SHOULDER_HALF, shoulder_y)
        upper = 28 + 132 * raised
        bend = 8 + 52 * raised**2
        elbow = reach_from(shoulder, side * upper, UPPER_ARM)
        wrist = reach_from(elbow, side * (upper + bend), FOREARM)
        hand = reach_from(elbow, side * (upper + bend), FOREARM + HAND)
        parts += arm(person, shoulder, elbow, wrist, hand, NEAR)
    return [*front_body(person, sway, shrug), *parts]


# ---- Recordings ----


def crossing(distance: float, span: float) -> tuple[float, int]:
    """Position between 0 and span and direction, for someone who goes to and fro between the two."""
    lap = distance % (2 * span)
    return (lap, 1) if lap < span else (2 * span - lap, -1)


def figure_at(
    person: Person, take: Take, action: str, seconds: float, picture_width: float
) -> tuple[list[Part], float, int]:
    """Parts of the figure, where it stands (from the middle, in body heights) and which way it is turned."""
    seconds *= person.tempo
    if action in GAITS:
        gait = GAITS[action]
        span = picture_width + 2 * gait.margin
        travelled = take.start * span + stride_length(gait) * gait.cadence * seconds
        position, direction = crossing(travelled, span)
        parts = moving_figure(person, gait, gait.cadence * seconds + take.phase)
        return parts, (position - span / 2) * take.facing, direction * take.facing
    if action == "boxing":
        return boxing_figure(person, take, BOXING_CADENCE * seconds + take.phase), take.offset, take.facing
    if action == "handclapping":
        return clapping_figure(person, take, CLAPPING_CADENCE * seconds + take.phase), take.offset, take.facing
    return waving_figure(person, take, WAVING_CADENCE * seconds + take.phase), take.offset, take.facing


def draw_figure(canvas: np.ndarray, parts: Sequence[Part], left: float, ground: float, scale: float) -> None:
    """Fill the parts into a canvas of two channels, grey and coverage.

    Args:
        canvas: ``[height, width, 2]`` uint8, drawn into.
        parts: what to draw, x already turned the right way.
        left: where x = 0 is, in pixels of the canvas.
        ground: where y = 0 is, in pixels of the canvas.
        scale: pixels of the canvas a body height.
    """
    for circles, grey in parts:
        shape = np.array(circles)
        centres = np.stack([left + shape[:, 0] * scale, ground - shape[:, 1] * scale], axis=1)
        outline = centres[:, None, :] + UNIT_CIRCLE[None] * (shape[:, 2] * scale)[:, None, None]
        corners = np.rint((outline.reshape(-1, 2) - 0.5) * (1 << SHIFT_BITS)).astype(np.int32)
        hull = cv2.convexHull(corners)
        cv2.fillConvexPoly(canvas, hull, (min(255.0, max(0.0, grey)), 255.0), cv2.LINE_8, SHIFT_BITS)


def draw_frames(
    seed: int, person_number: int, action: str, scenario: int, size: tuple[int, int], dusk: bool = False
) -> Iterator[np.ndarray]:
    """The frames ``[height, width]`` uint8 of a recording, without end."""
    width, height = size
    person, take = make_person(seed, person_number), make_take(seed, person_number, action, scenario)
    place = make_place(seed, scenario, width, height) + np.float32(person.light)
    if dusk:
        place *= DUSK_LIGHT
    share = min(FIGURE_LARGEST, max(FIGURE_SMALLEST, FIGURE_SCALES[scenario - 1] * person.height))
    body = share * min(width, height)  # pixels; a narrow picture has to hold the arms
    ground = FIGURE_MIDDLE * height + body / 2
    noise = random_stream(seed, "noise", person_number, ACTIONS.index(action), scenario)
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING, 2), np.uint8)
    shadow_rows = np.exp(-(((np.arange(height) + 0.5 - ground) / (SHADOW_HEIGHT * body)) ** 2)).astype(np.float32)
    frame = 0
    while True:
        parts, position, facing = figure_at(person, take, action, frame / FRAMES_PER_SECOND, width / body)
        middle = width / 2 + position * body
        turned = [Part(tuple((facing * x, y, r) for x, y, r in part.circles), part.grey) for part in parts]
        canvas[:] = 0
        zoom = SUPERSAMPLING
        draw_figure(canvas, turned, middle * zoom, ground * zoom, body * zoom)
        figure = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        if dusk:
            figure[:, :, 0] = LAMP_CONTRAST * figure[:, :, 0] + LAMP_OFFSET * figure[:, :, 1] / 255
        shadow = np.exp(-(((np.arange(width) + 0.5 - middle) / (SHADOW_WIDTH * body)) ** 2)).astype(np.float32)
        lit = place * (1 - SHADOW_STRENGTH * shadow_rows[:, None] * shadow[None, :])
        picture = lit * (1 - figure[:, :, 1] / 255) + figure[:, :, 0]  # the grey channel is weighted with the coverage
        picture += person.noise * noise.standard_normal((height, width), dtype=np.float32)
        yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        frame += 1


def write_recording(
    folder: Path,
    seed: int,
    person: int,
    action: str,
    scenario: int,
    frames: int,
    size: tuple[int, int],
    dusk: bool,
    bar: tqdm,
) -> None:
    """Write a recording beside its place and rename it when it is complete, so that there is no half one."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        for number, picture in zip(range(1, frames + 1), draw_frames(seed, person, action, scenario, size, dusk)):
            # Not cv2.imwrite: it does not say why a file could not be written.
            encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            (partial / f"image_{number:04d}.jpg").write_bytes(encoded.tobytes())
            bar.update()
        partial.rename(folder)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def make_tree(
    out: str | os.PathLike[str],
    persons: Sequence[str | int] = DEFAULT_PERSONS,
    actions: Sequence[str] = ACTIONS,
    frames: int = DEFAULT_FRAMES,
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
    scenarios: int = 1,
    dusk: bool = False,
) -> Summary:
    """Draw a tree in KTH's format; folders that exist are kept and skipped.

    Args:
        out: where the action folders go; made if it is missing.
        persons: numbers from 1 to 25, as ``"01"`` or 1.
        actions: some of :data:`ACTIONS`.
        frames: frames a recording, 1 to 9999.
        size: width and height in pixels, 32 to 2048 each.
        seed: not negative; another seed gives other persons, places and noise.
        scenarios: recordings a person and action, d1 to at most d4.
        dusk: lit figures before a dark background. A network learns them sooner: before a bright one it spends its
            first thousands of iterations on the background.

    Returns:
        folders and frames written, and folders kept.

    Raises:
        UserError: (a ValueError) a setting is out of range.
        OSError: something cannot be written.
    """
    numbers = check_persons([str(person) for person in persons])
    check_actions(actions)
    check_number("--frames", frames, 1, LAST_FRAME)
    check_number("--scenarios", scenarios, 1, LAST_SCENARIO)
    check_number("--seed", seed, 0, None)
    check_size(size, f"{size[0]}x{size[1]}")
    root = check_out(out)
    recordings = [(n, action, d) for action in actions for n in numbers for d in range(1, scenarios + 1)]
    written = kept = 0
    # disable=None: no bar where stderr is no terminal
    with tqdm(total=len(recordings) * frames, unit="frame", disable=None, leave=False) as bar:
        for number, action, scenario in recordings:
            folder = root / action / f"person{number:02d}_{action}_d{scenario}_uncomp"
            if folder.is_dir():
                kept += 1
                bar.update(frames)
                continue
            if os.path.lexists(folder):
                raise FileExistsError(errno.EEXIST, "there is something else than a folder", str(folder))
            write_recording(folder, seed, number, action, scenario, frames, size, dusk, bar)
            written += 1
    return Summary(written, written * frames, kept)


# ---- Settings ----


def check_persons(names: Sequence[str]) -> list[int]:
    """Numbers of the persons; "1" is taken as "01"."""
    wanted = f"expected two-digit numbers 01 to {LAST_PERSON} with commas between"
    numbers: list[int] = []
    for name in names:
        if not re.fullmatch(r"[0-9]{1,2}", name) or not 1 <= int(name) <= LAST_PERSON:
            raise UserError(f"--persons: found {name!r}, {wanted}; for example --persons 01,02,17")
        if int(name) in numbers:
            raise UserError(f"--persons: found {name!r} twice, {wanted}; name each person once")
        numbers.append(int(name))
    if not numbers:
        raise UserError(f"--persons: found none, {wanted}; for example --persons 01,02,17")
    return numbers


def check_actions(actions: Sequence[str]) -> None:
    """Refuse actions that KTH does not have."""
    wanted = f"expected some of {','.join(ACTIONS)}"
    for place, action in enumerate(actions):
        if action not in ACTIONS:
            raise UserError(f"--actions: found {action!r}, {wanted}; leave the flag out for all six")
        if action in actions[:place]:
            raise UserError(f"--actions: found {action!r} twice, {wanted}; name each action once")
    if not actions:
        raise UserError(f"--actions: found none, {wanted}; leave the flag out for all six")


def check_number(flag: str, found: object, low: int, high: int | None) -> int:
    """A whole number within bounds, from text or as it is."""
    wanted = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
    number = int(str(found)) if re.fullmatch(r"[+-]?[0-9]{1,18}", str(found)) else None
    if number is None or number < low or (high is not None and number > high):
        raise UserError(f"{flag}: found {str(found)!r}, expected {wanted}; leave the flag out for the default")
    return number


def check_size(size: tuple[int, int], found: str) -> None:
    """Refuse pictures that are too small to show a figure or too large to draw."""
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
        raise UserError(
            f"--size: found {found!r}, expected WIDTHxHEIGHT with {SMALLEST_SIDE} to {LARGEST_SIDE} pixels each; "
            "for example --size 160x120"
        )


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from text like 160x120."""
    match = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    check_size(size, text)
    return size


def check_out(out: str | os.PathLike[str]) -> Path:
    """The folder to write into; a file in its place is refused before anything is drawn."""
    root = Path(out)
    if not str(out):
        raise UserError("--out: found an empty name, expected a folder; for example --out data/sample")
    if root.exists() and not root.is_dir():
        raise UserError(f"--out: found the file {str(root)!r}, expected a folder; choose another name")
    return root


def build_parser() -> argparse.ArgumentParser:
    """The flags; their values are checked afterwards, so that all messages read alike."""
    parser = OneLineParser(
        prog="scripts/make_sample_data.py",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write into; made if it is missing")
    parser.add_argument("--frames", default=str(DEFAULT_FRAMES), metavar="N", help="frames a recording (%(default)s)")
    parser.add_argument("--size", default="x".join(map(str, DEFAULT_SIZE)), metavar="WxH", help="pixels (%(default)s)")
    parser.add_argument("--persons", default=",".join(DEFAULT_PERSONS), metavar="LIST", help="01 to 25 (%(default)s)")
    parser.add_argument("--actions", default=",".join(ACTIONS), metavar="LIST", help="(%(default)s)")
    parser.add_argument("--scenarios", default="1", metavar="D", help="recordings a person and action, 1 to 4 (1)")
    parser.add_argument("--seed", default="0", metavar="S", help="other seeds give other persons and places (0)")
    parser.add_argument("--dusk", action="store_true", help="lit figures before a dark background: learnt sooner")
    return parser


def split_list(text: str) -> list[str]:
    """The entries of a comma list, blanks around them dropped."""
    return [entry.strip() for entry in text.split(",")]


@command("complete folders stay, run again for the rest")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    out = options.out
    done = make_tree(
        out,
        split_list(options.persons),
        split_list(options.actions),
        check_number("--frames", options.frames, 1, LAST_FRAME),
        parse_size(options.size),
        check_number("--seed", options.seed, 0, None),
        check_number("--scenarios", options.scenarios, 1, LAST_SCENARIO),
        options.dusk,
    )
    kept = f"; kept {done.kept} that were there already (delete them to have them drawn anew)" if done.kept else ""
    print(f"wrote {done.folders} folders with {done.frames} frames under {out}{kept}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    cv2.setNumThreads(1)  # the pictures are small: more threads only get in each other's way
    sys.exit(main())
