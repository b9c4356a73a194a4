"""The 49 classes of the competition: id ↔ (shape, material, colour), and names.

Nothing here reads a file.
"""

import numpy as np

SHAPES = ("cube", "sphere", "cylinder")
CUBE, SPHERE, CYLINDER = range(len(SHAPES))
MATERIALS = ("metal", "rubber")
COLOURS = ("gray", "red", "blue", "green", "brown", "cyan", "purple", "yellow")

NUM_CLASSES = 1 + len(SHAPES) * len(MATERIALS) * len(COLOURS)
BACKGROUND = 0
IGNORE = 255
"""What mask values that are no class (≥ 49) become: no loss, no score."""


def class_id(shape: int, material: int, colour: int) -> int:
    """Return the class (1–48) of an object; the arguments index ``SHAPES``, ``MATERIALS`` and ``COLOURS``."""
    return 1 + 16 * shape + 8 * material + colour


def class_parts(class_id: int) -> tuple[int, int, int]:
    """Return (shape, material, colour) of a class 1–48; the inverse of :func:`class_id`."""
    if not 1 <= class_id < NUM_CLASSES:
        raise ValueError(f"an object's class is 1 to {NUM_CLASSES - 1}, not {class_id}")
    shape, rest = divmod(class_id - 1, 16)
    return shape, *divmod(rest, 8)


def class_name(class_id: int) -> str:
    """Return the name people use, such as ``red metal cube``; class 0 is ``background``."""
    if class_id == BACKGROUND:
        return "background"
    shape, material, colour = class_parts(class_id)
    return f"{COLOURS[colour]} {MATERIALS[material]} {SHAPES[shape]}"


SHAPE_OF_CLASS = np.array([-1] + [class_parts(c)[0] for c in range(1, NUM_CLASSES)], dtype=np.int64)
"""(49,) index into ``SHAPES`` of every class; -1 for the background."""
