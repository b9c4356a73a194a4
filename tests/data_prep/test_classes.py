"""The class ids against the rule of the competition, spelled out."""

import pytest

from data_prep.classes import (
    BACKGROUND,
    COLOURS,
    MATERIALS,
    NUM_CLASSES,
    SHAPE_OF_CLASS,
    SHAPES,
    class_id,
    class_name,
    class_parts,
)


def test_ids_count_colours_first_then_materials_then_shapes():
    names = [f"{colour} {material} {shape}" for shape in SHAPES for material in MATERIALS for colour in COLOURS]
    assert [class_name(c) for c in range(1, NUM_CLASSES)] == names
    assert len(set(names)) == 48 and class_name(BACKGROUND) == "background"
    assert class_name(1) == "gray metal cube" and class_name(48) == "yellow rubber cylinder"
    assert class_name(1 + 16 * 1 + 8 * 1 + 2) == "blue rubber sphere"


def test_parts_and_id_are_inverse():
    assert [class_id(*class_parts(c)) for c in range(1, NUM_CLASSES)] == list(range(1, NUM_CLASSES))


@pytest.mark.parametrize("no_object", [0, 49, 255, -1])
def test_parts_of_no_object_are_refused(no_object):
    with pytest.raises(ValueError, match="1 to 48"):
        class_parts(no_object)


def test_shape_of_class():
    assert SHAPE_OF_CLASS.tolist() == [-1] + [0] * 16 + [1] * 16 + [2] * 16
