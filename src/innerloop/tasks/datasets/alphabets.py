"""Invented alphabets: handwritten-looking characters drawn from scratch, with no data file.

The drawing model has three layers, each with random streams of its own:

* a *style* for each alphabet: its stroke shapes, how many, how round, how slanted, how wide;
* a *glyph* for each character: one to five strokes, each a few control points, joined to an earlier stroke
  (continued, branched off, crossed, repeated, mirrored) or set free beside it. A glyph whose blurred mean
  picture is too close to that of an earlier one is rejected and invented anew;
* a *hand* for each drawing: strokes moved, turned and stretched, control points shaken, corners rounded, ends
  short or long, the whole warped smoothly, slanted, turned and scaled, the pen's width and wobble.

A stroke is linear in its control points, so all hands of a glyph are drawn with one matrix product. The line
is recentred and, where needed, shrunk to stay off the outermost pixels; a pixel is ink if its centre is
within the pen's radius of the line. Lengths are in pixels of a 28 x 28 frame and scale with `size`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError

__all__ = ["Alphabets", "draw_alphabets"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Complexes = NDArray[np.complex128]

FRAME = 28.0
PAGE = 24  # glyphs are compared page by page, so that asking for fewer characters changes none of them
ATTEMPTS = 12
PROOFS = 6  # hands drawn for the mean picture by which look-alikes are found
LOOKALIKE = 0.92  # largest cosine allowed between blurred mean pictures
STEP = 0.4  # distance between points of the drawn line
SUBPIXEL = 64  # the line is rounded to this fraction of a pixel: comparisons are then exact on any machine

# What a character is made of. The weights are means; each alphabet has its own around them.
ROUND_KINDS = {"arc": 2.0, "loop": 1.0, "hook": 1.5, "wave": 0.8, "spiral": 0.25, "free": 1.5}
STRAIGHT_KINDS = {"line": 3.0, "zigzag": 0.6, "corner": 1.5, "box": 0.5, "dot": 0.5}
CURLS = {"arc": (1.4, 4.8), "loop": (5.6, 6.9), "spiral": (7.5, 10.5)}  # radians, shortest and longest
KINDS = (*ROUND_KINDS, *STRAIGHT_KINDS)
JOINS = {"continue": 2.5, "branch": 3.0, "cross": 2.0, "repeat": 1.0, "mirror": 0.7, "free": 0.8}
MAX_TANGLE = 6.5  # longest line, as a multiple of the character's extent, that stays legible
EVEN = 0.25  # 0 leaves the proportions of a character as they fall, 1 makes it square

# How much hands differ: standard deviations in pixels, radians or (GROW, ASPECT, PEN_SPREAD) logarithms,
# tuned until nearest neighbours found the drawings as hard as Omniglot's: see benchmarks/alphabets.py.
STROKE_SHIFT, STROKE_TURN, STROKE_GROW = 1.0, 0.13, 0.10
POINT_SHAKE, POINT_SHAKE_SHARE = 0.55, 0.15  # the share is of the distance to the nearest control point
END_STRETCH = 0.15
WOBBLE, WOBBLE_STEP = 0.25, 5.0
WARP, TURN, SLANT, GROW, ASPECT = 0.95, 0.08, 0.12, 0.10, 0.09
PEN_RADIUS, PEN_SPREAD = 0.66, 0.13
THINNEST = 0.58  # in pixels of any frame: a line thinner than half a pixel has gaps
SHIFT, MAX_SHIFT = 1.6, 2.0


class Alphabets(NamedTuple):
    """Drawings with the alphabet and the character each class stands for.

    Arguments:
        images: `(n_classes, n_drawings, size, size)`, uint8, ink 1 and paper 0.
        alphabet: `(n_classes,)`, int64, number of the alphabet of each class.
        character: `(n_classes,)`, int64, number of the character within its alphabet.
    """

    images: NDArray[np.uint8]
    alphabet: NDArray[np.int64]
    character: NDArray[np.int64]


class _Style(NamedTuple):
    kinds: Floats  # probability of each stroke shape
    joins: Floats  # probability of each way to join
    strokes: Floats  # probability of one to five strokes
    roundness: float  # 0 joins control points by straight lines, 1 by a spline
    upright: float  # share of strokes turned by whole right angles
    slant: float
    aspect: float
    height: float


class _Stroke(NamedTuple):
    points: Floats
    roundness: float


class _Glyph(NamedTuple):
    control: Floats  # (m, 2), control points of all strokes
    owner: Indices  # (m,), stroke of each control point
    shake: Floats  # (m,), how far a hand shakes each control point
    ends: Floats  # (m, m), moves the end points along the stroke
    straight: Floats  # (p, m), control points to a polyline
    smooth: Floats  # (p, m), control points to a spline
    wobble: Floats  # (p, k), knots to a smooth disturbance along the line


def draw_alphabets(
    n_alphabets: int = 28, n_characters: int = 24, n_drawings: int = 20, *, size: int = 28, seed: int = 0
) -> Alphabets:
    """Draw binary pictures of invented characters, several hands each.

    The same seed gives the same pictures; a smaller request gives the first ones of a larger request.

    Arguments:
        n_alphabets: alphabets, each with a style of its own.
        n_characters: characters in each alphabet; a class is one character of one alphabet.
        n_drawings: drawings of each character, each by another hand.
        size: height and width of a picture in pixels, at least 12.
        seed: non-negative number that fixes everything drawn.

    Returns:
        `Alphabets` of `n_classes = n_alphabets * n_characters`, ordered by alphabet, then character: `images`
        `(n_classes, n_drawings, size, size)`, `alphabet` `(n_classes,)` and `character` `(n_classes,)`.

    Raises:
        UsageError: an argument is not a whole number or is too small.

    Example:
        >>> drawn = draw_alphabets(2, 3, 4, seed=1)
        >>> drawn.images.shape, drawn.alphabet.tolist()
        ((6, 4, 28, 28), [0, 0, 0, 1, 1, 1])
    """
    counts = {"n_alphabets": n_alphabets, "n_characters": n_characters, "n_drawings": n_drawings}
    n_alphabets, n_characters, n_drawings = (_whole(name, value, 1) for name, value in counts.items())
    size, seed = _whole("size", size, 12), _whole("seed", seed, 0)
    images = np.zeros((n_alphabets, n_characters, n_drawings, size, size), dtype=np.uint8)
    for a, glyphs in enumerate(_invent(n_alphabets, n_characters, seed)):
        for c, glyph in enumerate(glyphs):
            images[a, c] = _draw(glyph, [_stream(seed, 2, a, c, d) for d in range(n_drawings)], size)
    alphabet, character = np.indices((n_alphabets, n_characters), dtype=np.int64).reshape(2, -1)
    return Alphabets(images.reshape(-1, n_drawings, size, size), alphabet, character)


def _whole(name: str, value: object, least: int) -> int:
    """Return `value` as an int or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def _stream(*key: int) -> np.random.Generator:
    """The random stream of one alphabet, glyph or drawing."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _invent(n_alphabets: int, n_characters: int, seed: int) -> list[list[_Glyph]]:
    """Invent the glyphs of every alphabet, none too close to an earlier one on its own or a lower page."""
    pages = -(-n_characters // PAGE)
    page = np.tile(np.repeat(np.arange(pages), PAGE), n_alphabets)
    proofs = np.zeros((len(page), int(FRAME // 2) ** 2))
    alphabets: list[list[_Glyph]] = []
    for a in range(n_alphabets):
        style = _style(_stream(seed, 0, a))
        glyphs: list[_Glyph] = []
        for c in range(n_characters if a == n_alphabets - 1 else pages * PAGE):
            row = a * pages * PAGE + c
            earlier = proofs[:row] if pages == 1 else proofs[:row][page[:row] <= page[row]]
            glyph, proofs[row] = _distinct_glyph(style, earlier, _stream(seed, 1, a, c))
            glyphs.append(glyph)
        alphabets.append(glyphs[:n_characters])
    return alphabets


def _distinct_glyph(style: _Style, earlier: Floats, rng: np.random.Generator) -> tuple[_Glyph, Floats]:
    """Invent glyphs until one is no look-alike of `earlier`; failing that, take the least alike."""
    least = np.inf
    for _ in range(ATTEMPTS):
        candidate = _glyph(style, rng)
        picture = _proof(candidate, rng)
        likeness = float(np.max(earlier @ picture, initial=0.0))
        if likeness < least:
            least, glyph, proof = likeness, candidate, picture
        if likeness < LOOKALIKE:
            break
    return glyph, proof


def _proof(glyph: _Glyph, rng: np.random.Generator) -> Floats:
    """Blurred mean picture of a few hands, at half the resolution, as a unit vector."""
    mean = _draw(glyph, [rng] * PROOFS, int(FRAME)).mean(axis=0)
    gap = np.subtract.outer(np.arange(FRAME), np.arange(FRAME))
    blur = np.exp(-0.5 * gap**2)
    picture = (blur @ mean @ blur)[::2, ::2].ravel()
    return np.asarray(picture / np.linalg.norm(picture))


def _style(rng: np.random.Generator) -> _Style:
    """Invent what the characters of one alphabet have in common."""
    round_share = rng.uniform(0.1, 0.9)
    kinds = np.array([round_share * w for w in ROUND_KINDS.values()])
    kinds = np.append(kinds, [(1.0 - round_share) * w for w in STRAIGHT_KINDS.values()])
    kinds = kinds * rng.gamma(1.0, 1.0, len(kinds)) + 0.02
    joins = np.array(list(JOINS.values())) * rng.gamma(1.5, 1.0, len(JOINS)) + 0.05
    strokes = np.exp(-0.5 * ((np.arange(1, 6) - rng.uniform(1.6, 3.8)) / 0.9) ** 2)
    return _Style(
        kinds=kinds / kinds.sum(),
        joins=joins / joins.sum(),
        strokes=strokes / strokes.sum(),
        roundness=float(np.clip(round_share + rng.uniform(-0.3, 0.3), 0.0, 1.0)),
        upright=rng.uniform(0.3, 1.0),
        slant=rng.normal(0.0, 0.12),
        aspect=float(np.exp(rng.normal(-0.05, 0.12))),
        height=rng.uniform(15.0, 19.5),
    )


def _glyph(style: _Style, rng: np.random.Generator) -> _Glyph:
    """Invent one character."""
    strokes: list[_Stroke] = []
    for _ in range(1 + int(rng.choice(5, p=style.strokes))):
        strokes.append(_next_stroke(strokes, style, rng))
    while len(strokes) > 1 and _tangle(strokes) > MAX_TANGLE:
        strokes.pop()
    if len(strokes) == 1 and np.ptp(strokes[0].points, axis=0).max() < 2.0:
        strokes.append(_joined("repeat", strokes, strokes[0], rng))  # a lone dot says too little
    control = np.concatenate([s.points for s in strokes])
    control = control - (control.min(axis=0) + control.max(axis=0)) / 2
    extent = np.maximum(np.ptp(control, axis=0), 1.0)
    height = style.height * rng.uniform(0.75, 1.2) * (1.0 if len(strokes) > 1 else rng.uniform(0.6, 1.0))
    height = max(height, min(3.4 * _tangle(strokes), 24.0))
    control = control * height / max(extent.max(), 6.0) * (extent.max() / extent) ** EVEN
    control = control * [style.aspect, 1.0]
    control[:, 0] -= style.slant * control[:, 1]
    return _linear(control, strokes)


def _tangle(strokes: list[_Stroke]) -> float:
    """Length of the line as a multiple of the character's extent."""
    length = sum(float(np.hypot(*np.diff(s.points, axis=0).T).sum()) for s in strokes)
    return length / max(float(np.ptp(np.concatenate([s.points for s in strokes]), axis=0).max()), 6.0)


def _next_stroke(strokes: list[_Stroke], style: _Style, rng: np.random.Generator) -> _Stroke:
    """Invent a stroke and join it to one of the earlier ones."""
    kind = KINDS[int(rng.choice(len(KINDS), p=style.kinds))]
    shape = _shape(kind, rng) * rng.uniform(4.0, 9.0)
    turn = rng.integers(4) * np.pi / 2 if rng.random() < style.upright else rng.uniform(0, 2 * np.pi)
    shape = shape * np.exp(1j * turn)
    roundness = max(style.roundness, 0.5) if kind in ROUND_KINDS else 0.0
    stroke = _Stroke(np.stack([shape.real, shape.imag], axis=1), roundness)
    if not strokes:
        return stroke
    join = "free" if kind == "dot" else list(JOINS)[int(rng.choice(len(JOINS), p=style.joins))]
    return _joined(join, strokes, stroke, rng)


def _shape(kind: str, rng: np.random.Generator) -> Complexes:
    """Control points of one stroke about the origin, as complex numbers at most about 1 from it."""
    flip = complex(rng.choice([-1j, 1j]))
    if kind in CURLS:
        angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(*CURLS[kind]), 9)
        curl = np.cos(angle) + flip * rng.uniform(0.55, 1.0) * np.sin(angle)
        return np.asarray(curl * np.linspace(0.25 if kind == "spiral" else 0.85, 0.85, len(angle)))
    if kind in ("wave", "zigzag"):
        n = int(rng.integers(3, 6))
        return np.asarray(np.linspace(-1, 1, n) + flip * rng.uniform(0.2, 0.55) * (-1.0) ** np.arange(n))
    if kind == "free":
        walk = np.cumsum(np.exp(1j * np.cumsum(rng.normal(0.0, 1.1, int(rng.integers(4, 7))))))
        return np.asarray((walk - walk.mean()) / np.abs(walk - walk.mean()).max())
    if kind == "hook":
        depth = flip * rng.uniform(0.3, 0.8)
        return np.array([-1, -0.2, 0.6, 0.95 + 0.35 * depth, 0.9 + 0.9 * depth, 0.5 + depth])
    if kind == "corner":
        arm = rng.uniform(0.5, 1.3) * np.exp(flip * rng.uniform(0.7, 2.0))
        return np.array([0.9, -0.6, -0.6 + arm]) - 0.4j
    if kind == "box":
        w, h = rng.uniform(0.4, 1.0), rng.uniform(0.4, 1.0) * 1j
        top = [w + h, h - w] if rng.random() < 0.6 else [h]
        return np.array([-w - h, w - h, *top, -w - h])
    reach = 0.12 if kind == "dot" else 1.0
    return np.array([-reach, rng.normal(0, 0.08) * reach * 1j, reach])


def _joined(join: str, strokes: list[_Stroke], stroke: _Stroke, rng: np.random.Generator) -> _Stroke:
    """Move `stroke` to meet one of `strokes`, or put a changed copy of an earlier one in its place."""
    host = strokes[int(rng.integers(len(strokes)))]
    here, there = stroke.points, host.points
    if join == "repeat":
        shift = np.roll([rng.uniform(2.5, 6.0), rng.normal(0, 0.5)], int(rng.integers(2)))
        return host._replace(points=there * rng.uniform(0.7, 1.1) + shift)
    if join == "mirror":
        end = there[-int(rng.integers(2))]
        return host._replace(points=(there - end) * np.roll([-1.0, 1.0], int(rng.integers(2))) + end)
    if join == "continue":
        return stroke._replace(points=here - here[0] + there[-1])
    if join == "branch":
        return stroke._replace(points=here - here[0] + there[int(rng.integers(len(there)))])
    if join == "cross":
        return stroke._replace(points=here - here.mean(axis=0) + there[len(there) // 2])
    everything = np.concatenate([s.points for s in strokes])
    low, high = everything.min(axis=0), everything.max(axis=0)
    side = np.array([[0.5, -0.2], [0.5, 1.2], [1.2, 0.5], [0.5, 0.5]])[int(rng.integers(4))]
    return stroke._replace(points=here - here.mean(axis=0) + low + side * (high - low))


def _linear(control: Floats, strokes: list[_Stroke]) -> _Glyph:
    """Write the drawn line as matrices that act on the control points."""
    counts = np.array([len(s.points) for s in strokes])
    owner, first = np.repeat(np.arange(len(strokes)), counts), np.cumsum([0, *counts])
    reach = np.append(np.hypot(*np.diff(control, axis=0).T), 0.0)
    reach[first[1:] - 1] = 0.0  # the pen is lifted
    length = np.bincount(owner, reach)
    # Hands stretch strokes: points a third closer than STEP still leave no gap.
    n, k = 2 + (1.3 * length / STEP).astype(np.int64), 2 + (length / WOBBLE_STEP).astype(np.int64)
    travelled, knot = np.cumsum(reach) - reach, np.cumsum([0, *k])
    row = np.repeat(np.arange(len(strokes)), n)
    part = np.concatenate([np.linspace(0, 1, count) for count in n])
    at = np.interp(travelled[first[row]] + part * length[row], travelled, np.arange(len(control)))
    line, spline = _weights(at, first[row], first[row + 1] - 1, len(control))
    roundness = np.array([s.roundness for s in strokes])[row, None]
    wobble = _weights(knot[row] + part * (k[row] - 1), knot[row], knot[row + 1] - 1, int(knot[-1]))[1]
    ends = np.zeros((len(control), len(control)))
    for end, inner in ((first[:-1], first[:-1] + 1), (first[1:] - 1, first[1:] - 2)):
        ends[end, end], ends[end, inner] = 1, -1
    near = np.where(reach > 0, reach, np.inf)
    shake = np.minimum(POINT_SHAKE, POINT_SHAKE_SHARE * np.minimum(near, np.roll(near, 1)))
    return _Glyph(control, owner, shake, ends, line, roundness * spline + (1 - roundness) * line, wobble)


def _weights(at: Floats, low: Indices, high: Indices, m: int) -> tuple[Floats, Floats]:
    """Weights of `m` points at `at`, of a polyline and of a Catmull-Rom spline from point `low` to `high`."""
    left = np.minimum(np.maximum(at.astype(np.int64), low), high - 1)
    u = np.minimum(np.maximum(at - left, 0.0), 1.0)
    pieces = np.array([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]]) / 2
    line, spline = np.zeros((len(at), m)), np.zeros((len(at), m))
    rows = np.arange(len(at))
    line[rows, left], line[rows, left + 1] = 1 - u, u
    for offset, piece in zip((-1, 0, 1, 2), pieces @ u ** np.arange(4)[:, None], strict=True):
        spline[rows, np.minimum(np.maximum(left + offset, low), high)] += piece
    return line, spline


def _draw(glyph: _Glyph, streams: list[np.random.Generator], size: int) -> NDArray[np.uint8]:
    """Draw a glyph by one hand for each stream."""
    strokes, m, k = int(glyph.owner[-1]) + 1, len(glyph.control), glyph.wobble.shape[1]
    parts = np.cumsum([1, 18, 2, 1, 4 * strokes, 2 * m, m, 2 * k])
    z = np.stack([rng.standard_normal(parts[-1]) for rng in streams])
    corner, bend, shift, pen, stroke, point, end, wobble = np.split(z, parts[:-1], axis=1)
    control = _move_strokes(glyph, stroke.reshape(-1, strokes, 4))
    control = control + glyph.shake[:, None] * point.reshape(-1, m, 2)
    control = control + np.clip(END_STRETCH * end[..., None], -0.6, 0.6) * (glyph.ends @ control)
    angular = np.clip(0.3 + 0.35 * corner[..., None], 0.0, 1.0)
    line = (glyph.smooth @ control) * (1 - angular) + (glyph.straight @ control) * angular
    line = _bend(line + WOBBLE * (glyph.wobble @ wobble.reshape(-1, k, 2)), bend)
    radius = np.clip(PEN_RADIUS * np.exp(PEN_SPREAD * pen[:, 0]), THINNEST, 1.1) * size / FRAME
    radius = np.maximum(radius, THINNEST)
    return _ink(_fit(line * (size / FRAME), radius, shift, size), radius, size)


def _move_strokes(glyph: _Glyph, z: Floats) -> Floats:
    """Move, turn and stretch each stroke about its own centre; `z` is `(n_drawings, strokes, 4)`."""
    member = np.equal.outer(np.arange(z.shape[1]), glyph.owner).astype(np.float64)
    centre = (member @ glyph.control / member.sum(axis=1, keepdims=True))[glyph.owner]
    arm, own = glyph.control - centre, z[:, glyph.owner]
    turn, grow = STROKE_TURN * own[..., 2:3], np.exp(STROKE_GROW * own[..., 3:4])
    turned = arm * np.cos(turn) + np.stack([-arm[:, 1], arm[:, 0]], axis=1) * np.sin(turn)
    return np.asarray(centre + grow * turned + STROKE_SHIFT * own[..., :2])


def _bend(line: Floats, z: Floats) -> Floats:
    """Warp smoothly, then slant, turn and scale; `line` `(n_drawings, p, 2)`, `z` `(n_drawings, 18)`."""
    x, y = line[..., 0] / 10, line[..., 1] / 10
    terms = np.stack([x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3], axis=-1)
    line = line + WARP * (terms @ z[:, :14].reshape(-1, 7, 2))
    turn, slant, grow, aspect = (z[:, 14:] * [TURN, SLANT, GROW, ASPECT]).T[..., None]
    x, y = np.exp(grow + aspect) * (line[..., 0] - slant * line[..., 1]), np.exp(grow - aspect) * line[..., 1]
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=-1)


def _fit(line: Floats, radius: Floats, z: Floats, size: int) -> Floats:
    """Shrink lines that are too long for the frame and centre them but for a small shift."""
    low, high = line.min(axis=1, keepdims=True), line.max(axis=1, keepdims=True)
    half = np.maximum((high - low) / 2, 1e-9)
    margin = size / 2 - 1 - radius[:, None, None]
    shrink = np.minimum(1.0, margin / half.max(axis=2, keepdims=True))
    spare = np.minimum(margin - shrink * half, MAX_SHIFT * size / FRAME)
    shift = np.clip(SHIFT * size / FRAME * z[:, None, :], -spare, spare)
    return np.asarray((line - (low + high) / 2) * shrink + size / 2 + shift)


def _ink(line: Floats, radius: Floats, size: int) -> NDArray[np.uint8]:
    """Ink the pixels whose centre is within `radius` of a point of the line."""
    fine = np.rint(line * SUBPIXEL).astype(np.int32)
    reach = int(np.ceil(radius.max() + 0.5))
    pixel = fine[..., None] // SUBPIXEL + np.arange(-reach, reach + 1, dtype=np.int32)
    gap = (pixel * SUBPIXEL + SUBPIXEL // 2 - fine[..., None]) ** 2
    limit = np.rint((radius * SUBPIXEL) ** 2)[:, None, None, None]
    near = gap[:, :, 1, :, None] + gap[:, :, 0, None, :] <= limit
    rows = np.arange(len(line))[:, None, None] * size + pixel[:, :, 1]
    images = np.zeros(len(line) * size * size, dtype=np.uint8)
    images[(rows[..., None] * size + pixel[:, :, 0, None, :])[near]] = 1
    return images.reshape(-1, size, size)
