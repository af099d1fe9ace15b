"""The toy world's vocabulary: what a picture can show, how it is drawn at random, how it is captioned.

Knows classes, colours, markings, backgrounds, identities and the caption grammar. Refuses to know how anything is
drawn (`render`), encoded (`tokenizer`) or learned. An *identity* is what one adapter learns; a *scene* is one picture
of an identity. The bases are trained on scenes of random identities; the particular identities of a demo or a test
stay unseen because they are drawn from another stream of seeds (`unseen_identity`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CLASSES = ("mug", "boat", "house", "fish", "star", "tree", "car", "bottle", "mushroom", "dog")
MARKINGS = ("plain", "striped", "spotted", "two-tone")
BACKGROUNDS = {
    "beach": "on the beach",
    "snow": "in the snow",
    "grass": "on the grass",
    "night": "at night",
    "bricks": "in front of a brick wall",
    "checkers": "on a checkered floor",
    "sea": "in the sea",
    "curtain": "in front of a purple curtain",
}
# Hue ranges in degrees. Between them lie hues without a word: pictures show them, captions stay silent about them.
HUES = {
    "red": (-10, 10),
    "orange": (22, 36),
    "yellow": (50, 62),
    "green": (95, 140),
    "cyan": (172, 190),
    "blue": (215, 242),
    "purple": (265, 285),
    "pink": (310, 335),
}
COLOURS = (*HUES, "white", "black")
OPENINGS = ("a photo of", "a picture of", "")
WORDS = (
    *[
        "a",
        "an",
        "the",
        "of",
        "on",
        "in",
        "at",
        "front",
        "and",
        "photo",
        "picture",
        "brick",
        "wall",
        "checkered",
        "floor",
        "small",
        "big",
        "tall",
        "wide",
    ],
    *CLASSES,
    *COLOURS,
    *MARKINGS,
    *BACKGROUNDS,
    "purple",
    "curtain",
)


@dataclass(frozen=True)
class Colour:
    """An HSV colour: hue in degrees, saturation and value in [0, 1]."""

    hue: float
    saturation: float
    value: float

    @property
    def word(self) -> str | None:
        """The colour's name, or None where English (as this world speaks it) has none."""
        if self.saturation < 0.1:
            return "white" if self.value > 0.9 else "black" if self.value < 0.2 else None
        for name, (low, high) in HUES.items():
            if (self.hue - low) % 360 <= high - low:
                return name
        return None


@dataclass(frozen=True)
class Identity:
    """What makes a subject itself: class, two tones, marking and proportions."""

    noun: str
    body: Colour
    accent: Colour
    marking: str
    marking_angle: float  # radians
    marking_period: float  # in object half-sizes
    aspect: float  # width / height, 0.75-1.3
    detail: float  # the class's own proportion (handle, roof, fin ...), 0-1


@dataclass(frozen=True)
class Scene:
    """One picture of an identity: pose, place and background."""

    identity: Identity
    background: str
    scale: float = 0.72  # object half-size / frame half-size
    x: float = 0.0  # centre, in frame half-sizes
    y: float = 0.0
    tilt: float = 0.0  # radians
    flip: bool = False
    seed: int = 0  # background texture and light


def named_colour(word: str, rng: random.Random) -> Colour:
    """Draws a colour that `word` names."""
    if word == "white":
        return Colour(0.0, rng.uniform(0.0, 0.04), rng.uniform(0.95, 1.0))
    if word == "black":
        return Colour(0.0, rng.uniform(0.0, 0.05), rng.uniform(0.06, 0.14))
    low, high = HUES[word]
    return Colour(rng.uniform(low, high) % 360, rng.uniform(0.7, 1.0), rng.uniform(0.72, 1.0))


def random_colour(rng: random.Random) -> Colour:
    """Draws a colour: two in three have a word, the rest come from the whole hue circle."""
    if rng.random() < 0.65:
        return named_colour(rng.choice(COLOURS), rng)
    return Colour(rng.uniform(0, 360), rng.uniform(0.55, 1.0), rng.uniform(0.6, 1.0))


def _far_apart(a: Colour, b: Colour) -> bool:
    if a.saturation < 0.1 or b.saturation < 0.1:
        return (a.saturation < 0.1) != (b.saturation < 0.1) or abs(a.value - b.value) > 0.5
    return abs((a.hue - b.hue + 180) % 360 - 180) > 45


def random_identity(rng: random.Random, noun: str | None = None) -> Identity:
    """Draws an identity whose two tones can be told apart."""
    body = random_colour(rng)
    accent = random_colour(rng)
    while not _far_apart(body, accent):
        accent = random_colour(rng)
    return Identity(
        noun=noun or rng.choice(CLASSES),
        body=body,
        accent=accent,
        marking=rng.choices(MARKINGS, (2, 1, 1, 1))[0],
        marking_angle=rng.choice((0.0, 0.7, 1.57, 2.4)) + rng.uniform(-0.15, 0.15),
        marking_period=rng.uniform(0.5, 0.7),
        aspect=rng.uniform(0.75, 1.3),
        detail=rng.random(),
    )


def unseen_identity(index: int, noun: str | None = None) -> Identity:
    """The `index`-th identity of the stream that no base or judge was trained on."""
    return random_identity(random.Random(f"unseen-{index}"), noun)


def random_scene(identity: Identity, rng: random.Random) -> Scene:
    """Draws a view of `identity`."""
    return Scene(
        identity=identity,
        background=rng.choice(tuple(BACKGROUNDS)),
        scale=rng.uniform(0.56, 0.84),
        x=rng.uniform(-0.22, 0.22),
        y=rng.uniform(-0.18, 0.18),
        tilt=rng.gauss(0.0, 0.12),
        flip=rng.random() < 0.5,
        seed=rng.getrandbits(31),
    )


def caption(scene: Scene, rng: random.Random, drop: float = 0.3) -> str:
    """Describes a scene in the world's grammar; each optional attribute is left out with probability `drop`.

    "a photo of a big wide striped red and blue mug on the beach"
    """
    identity = scene.identity
    words = []

    def add(word: str | None, rate: float = drop) -> bool:
        if word is None or rng.random() < rate:
            return False
        words.append(word)
        return True

    add("big" if scene.scale > 0.78 else "small" if scene.scale < 0.62 else None, 0.5)
    add("wide" if identity.aspect > 1.2 else "tall" if identity.aspect < 0.82 else None, 0.5)
    add(identity.marking, 0.7 if identity.marking == "plain" else drop)
    if add(identity.body.word) and identity.accent.word and rng.random() > drop:
        words.extend(("and", identity.accent.word))
    words.append(identity.noun)
    article = "an" if words[0][0] in "aeiou" else "a"
    background = BACKGROUNDS[scene.background] if rng.random() > drop / 2 else ""
    return " ".join(part for part in (rng.choice(OPENINGS), article, *words, background) if part)


def is_held_out(noun: str, colour: str, background: str) -> bool:
    """Whether no base is trained on this combination: one in twenty, kept for measuring what prompts compose to."""
    place = tuple(BACKGROUNDS).index(background)
    return (7 * CLASSES.index(noun) + 3 * COLOURS.index(colour) + 5 * place) % 20 == 0


def held_out_prompts() -> list[tuple[str, dict[str, str]]]:
    """Every held-out combination as a prompt, with the attributes that a picture of it must show."""
    return [
        (f"a photo of {'an' if colour[0] in 'aeiou' else 'a'} {colour} {noun} {words}",
         {"class": noun, "colour": colour, "background": place})
        for noun in CLASSES for colour in COLOURS for place, words in BACKGROUNDS.items()
        if is_held_out(noun, colour, place)
    ]  # fmt: skip
