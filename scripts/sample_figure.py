"""The figure that make_sample_data.py draws: who it is, how its joints move, and the shapes it is made of.

Points are complex numbers: x forward (seen from the front: to the right) and y up, in body heights. Angles are in
degrees from straight down, forward positive. A figure is a list of parts, the rearmost first, with its feet at y = 0,
turned to the right.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

NOISE_SIGMA, NOISE_SPREAD = 3.5, 0.3  # grey levels of sensor noise, and how much a person has more or less
LIGHT_SPREAD = 6.0  # grey levels by which the illumination differs from person to person
SHIFT_BITS = 4  # cv2 takes polygon corners in 1/2**SHIFT_BITS of a drawn pixel
CIRCLE = np.array([cmath.rect(1, turn * (math.tau / 20)) for turn in range(20)])

# In body heights; half widths seen from the front.
THIGH, SHIN, ANKLE_HEIGHT, TORSO = 0.24, 0.24, 0.04, 0.30
UPPER_ARM, FOREARM, HAND = 0.165, 0.145, 0.035
SHOULDER_HALF, HIP_HALF = 0.105, 0.055
HIP_HEIGHT = THIGH + SHIN + ANKLE_HEIGHT
SHOULDER_HEIGHT = HIP_HEIGHT + TORSO - 0.03
FOOT_BLEND = 0.010  # the weight goes from one foot to the other over this height
NEAR, FAR = 18.0, -10.0  # grey levels by which near and far limbs differ from the torso, to tell them apart
LIGHT_CLOTH_SHADE = 1.8  # times as much on light cloth, where the eye needs more
GAIT_HARMONICS = 4  # of the ten values of a gait's table: enough for the two peaks of the knee, and smooth


class Part(NamedTuple):
    """A piece of the figure: the convex hull of some circles (centre, radius), filled with one grey level."""

    circles: Sequence[tuple[complex, float]]
    grey: float


class Person(NamedTuple):
    """What stays the same in all recordings of a person."""

    shirt: float  # grey levels
    trousers: float
    skin: float
    hair: float
    shoes: float
    height: float  # factors
    girth: float
    tempo: float
    light: float  # grey levels
    noise: float


class Take(NamedTuple):
    """What differs between the recordings of a person."""

    phase: float  # cycles
    facing: int  # 1: to the right, -1: to the left
    offset: float  # from the middle of the picture, in body heights
    start: float  # part of the first crossing that is over when the recording begins
    reach: float  # factor: how far the arms go


class Gait(NamedTuple):
    """One stride; the tables are in degrees at 0, 10, ... 90 % of it, beginning where the heel lands."""

    thigh: Sequence[float]
    knee: Sequence[float]  # flexion
    foot: Sequence[float]  # toes up positive
    arm: tuple[float, float]  # degrees: the middle of the swing, and how far it goes to each side
    elbow: tuple[float, float]
    stance: float  # part of the stride that the foot is on the ground
    cadence: float  # strides a second
    lean: float  # degrees
    flight: float  # lift while both feet are off the ground, body heights
    margin: float  # how far behind the picture's edge the person turns, body heights: just out of sight


GAITS = {
    "walking": Gait(
        thigh=(25, 20, 11, 0, -10, -18, -12, 6, 20, 26),
        knee=(4, 13, 14, 9, 6, 11, 36, 58, 46, 16),
        foot=(18, 3, 0, -1, -8, -26, -55, -38, -5, 14),
        arm=(-2, 24),
        elbow=(20, 10),
        stance=0.60,
        cadence=1.10,
        lean=3,
        flight=0.0,
        margin=0.30,
    ),
    "jogging": Gait(
        thigh=(25, 19, 8, -5, -16, -16, 2, 21, 33, 32),
        knee=(16, 33, 35, 24, 16, 38, 72, 86, 62, 28),
        foot=(8, 0, -2, -13, -42, -70, -72, -46, -12, 5),
        arm=(-8, 30),
        elbow=(88, 10),
        stance=0.40,
        cadence=1.42,
        lean=8,
        flight=0.025,
        margin=0.31,
    ),
    "running": Gait(
        thigh=(34, 25, 8, -11, -26, -25, 2, 32, 55, 50),
        knee=(22, 38, 38, 25, 20, 58, 102, 114, 86, 38),
        foot=(6, 0, -5, -26, -62, -85, -92, -56, -14, 5),
        arm=(-8, 48),
        elbow=(95, 14),
        stance=0.34,
        cadence=1.52,
        lean=14,
        flight=0.04,
        margin=0.39,
    ),
}


def random_person(rng: np.random.Generator) -> Person:
    """Clothes, build and habits, chosen so that every part stands out from the background."""

    def grey(light_share: float, dark: tuple[float, float], light: tuple[float, float]) -> float:
        pick, level = rng.random(2)
        low, high = light if pick < light_share else dark
        return low + (high - low) * level

    return Person(
        shirt=grey(0.4, (38, 72), (218, 238)),
        trousers=grey(0.15, (22, 58), (200, 222)),
        skin=grey(0.8, (60, 80), (182, 204)),
        hair=grey(0.1, (14, 48), (212, 225)),
        shoes=grey(0.2, (15, 40), (205, 225)),
        height=rng.uniform(0.96, 1.04),
        girth=rng.uniform(0.90, 1.12),
        tempo=rng.uniform(0.92, 1.08),
        light=rng.uniform(-LIGHT_SPREAD, LIGHT_SPREAD),
        noise=NOISE_SIGMA + rng.uniform(-NOISE_SPREAD, NOISE_SPREAD),
    )


def random_take(rng: np.random.Generator) -> Take:
    """Position, direction and phase of one recording."""
    return Take(
        phase=rng.random(),
        facing=1 if rng.random() < 0.5 else -1,
        offset=rng.uniform(-0.18, 0.18),
        start=rng.uniform(0.12, 0.35),
        reach=rng.uniform(0.85, 1.0),
    )


# ---- Joints


def bone_end(origin: complex, angle: float, length: float) -> complex:
    """The far end of a bone that begins at origin."""
    return origin + length * complex(math.sin(math.radians(angle)), -math.cos(math.radians(angle)))


def bent_knee(hip: complex, ankle: complex) -> complex:
    """The knee between a hip and an ankle that are both given: it goes forward."""
    leg = ankle - hip
    distance = min(math.hypot(leg.real, leg.imag), THIGH + SHIN - 1e-6)
    along = (THIGH**2 - SHIN**2 + distance**2) / (2 * distance)
    aside = math.sqrt(max(0.0, THIGH**2 - along**2))
    return hip + complex(along, aside) * leg / distance


def gait_curve(table: Sequence[float], cycle: float) -> float:
    """The smooth periodic curve through a gait's table, at a time in strides."""
    spectrum = np.fft.rfft(table) / len(table)
    turns = math.tau * cycle * np.arange(1, GAIT_HARMONICS + 1)
    harmonics = spectrum[1 : GAIT_HARMONICS + 1]
    return float(spectrum[0].real + 2 * (harmonics.real * np.cos(turns) - harmonics.imag * np.sin(turns)).sum())


def leg_of(gait: Gait, cycle: float) -> tuple[complex, complex, float]:
    """Knee and ankle seen from the hip, and the angle of the foot."""
    thigh = gait_curve(gait.thigh, cycle)
    knee = bone_end(0, thigh, THIGH)
    ankle = bone_end(knee, thigh - gait_curve(gait.knee, cycle), SHIN)
    return knee, ankle, gait_curve(gait.foot, cycle)


def stride_length(gait: Gait) -> float:
    """Body heights a stride: as far as the foot on the ground goes back under the body, so that it does not slide."""
    begin, end = 0.15 * gait.stance, 0.75 * gait.stance  # the middle of the stance, where the speed is even
    return (leg_of(gait, begin)[1].real - leg_of(gait, end)[1].real) / (end - begin)


# ---- Parts


def toned(grey: float, step: float) -> float:
    """A neighbouring grey level, away from the nearer end of the scale: dark cloth gets lighter, light cloth darker."""
    return grey + step if grey < 128 else grey - LIGHT_CLOTH_SHADE * step


def limb(person: Person, joints: Sequence[complex], radii: Sequence[float], grey: float) -> list[Part]:
    """Bones from joint to joint, thick as the person is."""
    circles = [(joint, radius * person.girth) for joint, radius in zip(joints, radii)]
    return [Part(pair, grey) for pair in zip(circles, circles[1:])]


def arm(person: Person, shoulder: complex, elbow: complex, wrist: complex, hand: complex, tone: float) -> list[Part]:
    """A sleeve and a hand."""
    sleeve = limb(person, (shoulder, elbow, wrist), (0.038, 0.031, 0.024), toned(person.shirt, tone))
    return [Part(((wrist, 0.018), (hand, 0.023)), person.skin), *sleeve]


def bent_arm(person: Person, shoulder: complex, upper: float, bend: float, tone: float) -> list[Part]:
    """An arm from the angle of the upper arm, and how much the elbow is bent."""
    elbow = bone_end(shoulder, upper, UPPER_ARM)
    wrist, hand = (bone_end(elbow, upper + bend, length) for length in (FOREARM, FOREARM + HAND))
    return arm(person, shoulder, elbow, wrist, hand, tone)


def foot_of(ankle: complex, angle: float) -> list[tuple[complex, float]]:
    """Ankle, heel and ball of a foot seen from the side; the angle is that of the sole, toes up positive."""
    heel = bone_end(bone_end(ankle, angle, 0.020), angle - 90, 0.025)
    ball = bone_end(bone_end(ankle, angle, 0.026), angle + 90, 0.088)
    return [(ankle, 0.026), (heel, 0.020), (ball, 0.014)]


def side_leg(person: Person, hip: complex, knee: complex, ankle: complex, foot: float, tone: float) -> list[Part]:
    """A leg seen from the side."""
    trousers = limb(person, (hip, knee, ankle), (0.062, 0.045, 0.031), toned(person.trousers, tone))
    return [Part(foot_of(ankle, foot), person.shoes), *trousers]


def side_torso(person: Person, hip: complex, lean: float) -> tuple[list[Part], complex]:
    """Torso, neck and head seen from the side, and where the shoulders are."""
    girth, up = person.girth, 180 - lean
    waist = bone_end(hip, up, 0.03)
    chest = bone_end(bone_end(hip, up, 0.21), up - 90, 0.008)
    shoulder = bone_end(hip, up, TORSO - 0.02)
    head = bone_end(bone_end(hip, up, TORSO), 180 - 0.5 * lean, 0.125)  # the eyes stay on the way ahead
    neck = ((shoulder, 0.036), (head - (0.008 + 0.04j), 0.034))
    shirt = ((waist, 0.062 * girth), (chest, 0.074 * girth), (shoulder, 0.05 * girth))
    nose = (head + (0.058 - 0.014j), 0.006)
    face = ((head + 0.004, 0.050), (head + (0.018 - 0.035j), 0.034), nose)
    hair = ((head - (0.016 - 0.014j), 0.048), (head + (0.020 + 0.036j), 0.026), (head - (0.026 + 0.018j), 0.032))
    greys = (toned(person.skin, 14), person.shirt, person.skin, person.hair)
    return [Part(circles, grey) for circles, grey in zip((neck, shirt, face, hair), greys)], shoulder


def front_body(person: Person, sway: float, shrug: float) -> list[Part]:
    """Everything but the arms, seen from the front; the arms are drawn on top."""
    parts = []
    for side in (-1, 1):
        hip, knee = complex(sway + side * HIP_HALF, HIP_HEIGHT), complex(side * 0.062 + sway / 2, 0.28)
        ankle = complex(side * 0.070, ANKLE_HEIGHT)
        toes = [(complex(side * 0.082, 0.016), 0.022), (complex(side * 0.064, 0.018), 0.022)]
        parts.append(Part([(ankle, 0.026), *toes], person.shoes))
        grey = toned(person.trousers, NEAR / 2 if side > 0 else 0.0)  # the light comes from one side
        parts += limb(person, (hip, knee, ankle), (0.056, 0.043, 0.032), grey)
    throat, head = complex(sway, SHOULDER_HEIGHT + shrug), complex(1.5 * sway, HIP_HEIGHT + TORSO + 0.125)
    corners = [(0.052, HIP_HEIGHT + 0.015, 0.042), (SHOULDER_HALF - 0.01, throat.imag, 0.034)]
    torso = [(complex(sway + side * x, y), radius * person.girth) for x, y, radius in corners for side in (-1, 1)]
    return [
        *parts,
        Part(((throat, 0.036), (head - 0.04j, 0.032)), toned(person.skin, 14)),
        Part((*torso, (throat + 0.02j, 0.034)), person.shirt),
        Part(((head + 0.034j, 0.044), (head + 0.008j, 0.051)), person.hair),
        Part(((head - 0.001j, 0.042), (head - 0.034j, 0.035)), person.skin),
    ]


# ---- Figures


def moving_figure(person: Person, gait: Gait, cycle: float) -> list[Part]:
    """Walking, jogging and running: one function, three gaits."""
    near, far = leg_of(gait, cycle), leg_of(gait, cycle + 0.5)
    depths = [max(radius - point.imag for point, radius in foot_of(ankle, foot)) for _, ankle, foot in (near, far)]
    lowest = max(depths)  # a soft maximum, or the hip would jerk as the weight changes from foot to foot
    height = lowest + FOOT_BLEND * math.log(sum(math.exp((depth - lowest) / FOOT_BLEND) for depth in depths))
    middle_of_flight = (gait.stance + 0.5) / 2
    height += gait.flight * max(0.0, math.cos(math.tau * 2 * (cycle - middle_of_flight))) ** 2
    hip = complex(0, height)
    torso, shoulder = side_torso(person, hip, gait.lean)

    def leg(seen_from_hip: tuple[complex, complex, float], tone: float) -> list[Part]:
        knee, ankle, foot = seen_from_hip
        return side_leg(person, hip, hip + knee, hip + ankle, foot, tone)

    def swinging_arm(swing: float, tone: float) -> list[Part]:
        place = shoulder + 0.022 * swing  # the shoulders turn against the hips
        upper, bend = (middle + swing * width for middle, width in (gait.arm, gait.elbow))
        return bent_arm(person, place, upper, bend, tone)

    swing = -math.cos(math.tau * (cycle - 0.02))  # the near arm goes back as the near leg goes forward
    return [*swinging_arm(-swing, FAR), *leg(far, FAR), *leg(near, NEAR / 2), *torso, *swinging_arm(swing, NEAR)]


def boxing_figure(person: Person, take: Take, cycle: float) -> list[Part]:
    """Side-on, knees a little bent and springing, the fists going forward in turn."""
    turn = math.tau * cycle
    punches = [((1 + math.cos(turn - shift)) / 2) ** 2 for shift in (0.0, math.pi)]  # near fist, far fist
    hip = complex(0.012 * math.cos(2 * turn), 0.487 + 0.010 * math.cos(2 * turn + 0.8))
    legs = []
    for foot_x, tone in ((0.115, FAR), (-0.105, NEAR / 2)):
        ankle = complex(foot_x, ANKLE_HEIGHT)
        legs += side_leg(person, hip, bent_knee(hip, ankle), ankle, 0.0, tone)
    torso, shoulder = side_torso(person, hip, 5 + 3 * (punches[0] + punches[1]))

    def punching_arm(punch: float, tone: float) -> list[Part]:
        place = shoulder - 0.025 + 0.075 * punch  # the shoulder goes with the fist
        return bent_arm(person, place, 22 + 66 * punch, 118 - 113 * punch, tone)

    near, far = (take.reach * punch for punch in punches)
    return [*punching_arm(far, FAR), *legs, *torso, *punching_arm(near, NEAR)]


def clapping_figure(person: Person, take: Take, cycle: float) -> list[Part]:
    """Facing the camera; the arms swing wide open and close before the chest."""
    closed = (1 - math.cos(math.tau * cycle)) / 2
    share = 1 - take.reach * (1 - closed)
    sway = 0.004 * math.sin(math.tau * cycle)

    def between(opened: Sequence[float], shut: Sequence[float]) -> complex:
        """Between two directions in space (outward, up, to the camera), as the camera sees it."""
        mixed = [a + (b - a) * share for a, b in zip(opened, shut)]
        length = math.sqrt(sum(value * value for value in mixed))  # what points at the camera looks short
        return complex(mixed[0] / length, mixed[1] / length)

    upper = between((0.88, -0.42, 0.2), (0.22, -0.80, 0.56))
    lower = between((0.97, 0.10, 0.3), (-0.68, 0.28, 0.68))
    parts = front_body(person, sway, 0.0)
    for side in (-1, 1):
        joints = [complex(sway + side * SHOULDER_HALF, SHOULDER_HEIGHT)]
        for bone, length in ((upper, UPPER_ARM), (lower, FOREARM), (lower, HAND)):
            joints.append(joints[-1] + length * complex(side * bone.real, bone.imag))
        parts += arm(person, *joints, NEAR)
    return parts


def waving_figure(person: Person, take: Take, cycle: float) -> list[Part]:
    """Facing the camera; both arms go from the sides up over the head and down again."""
    raised = take.reach * (1 - math.cos(math.tau * cycle)) / 2
    sway, shrug = 0.004 * math.sin(math.tau * cycle), 0.025 * raised
    parts = front_body(person, sway, shrug)
    for side in (-1, 1):
        shoulder = complex(sway + side * SHOULDER_HALF, SHOULDER_HEIGHT + shrug)
        parts += bent_arm(person, shoulder, side * (28 + 132 * raised), side * (8 + 52 * raised**2), NEAR)
    return parts


STANDING = {  # and cycles a second
    "boxing": (boxing_figure, 0.95),
    "handclapping": (clapping_figure, 0.90),
    "handwaving": (waving_figure, 0.68),
}


def figure_at(
    person: Person, take: Take, action: str, seconds: float, picture_width: float
) -> tuple[list[Part], float, int]:
    """Parts of the figure, where it stands (from the middle, in body heights) and which way it is turned (1 or -1)."""
    seconds *= person.tempo
    if action in STANDING:
        figure, cadence = STANDING[action]
        return figure(person, take, cadence * seconds + take.phase), take.offset, take.facing
    gait = GAITS[action]
    span = picture_width + 2 * gait.margin
    lap = (take.start * span + stride_length(gait) * gait.cadence * seconds) % (2 * span)
    position, direction = (lap, 1) if lap < span else (2 * span - lap, -1)  # to and fro
    parts = moving_figure(person, gait, gait.cadence * seconds + take.phase)
    return parts, (position - span / 2) * take.facing, direction * take.facing


def draw_figure(canvas: np.ndarray, parts: Sequence[Part], origin: complex, scale: float, facing: int) -> None:
    """Fill the parts into a canvas of two channels, grey and coverage.

    Args:
        canvas: ``[height, width, 2]`` uint8, drawn into.
        parts: what to draw.
        origin: where the feet are, in pixels of the canvas from its upper left corner.
        scale: pixels of the canvas a body height.
        facing: 1: to the right, -1: to the left.
    """
    for circles, grey in parts:
        points, radii = (np.array(values)[:, None] for values in zip(*circles))
        columns = origin.real + facing * points.real * scale + CIRCLE.real * (radii * scale)
        rows = origin.imag - points.imag * scale + CIRCLE.imag * (radii * scale)
        corners = np.rint((np.stack([columns.ravel(), rows.ravel()], axis=1) - 0.5) * (1 << SHIFT_BITS))
        hull = cv2.convexHull(corners.astype(np.int32))
        cv2.fillConvexPoly(canvas, hull, (min(255.0, max(0.0, grey)), 255.0), cv2.LINE_8, SHIFT_BITS)
