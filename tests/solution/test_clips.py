"""Videos of several parts are drawn as if the parts were one."""

from collections import Counter

import numpy as np

from solution.clips import draw_videos


def test_every_row_of_every_part_is_equally_likely():
    drawn = Counter(draw_videos([2, 0, 3], 10_000, np.random.default_rng(0)))
    assert set(drawn) == {(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)}
    assert all(abs(count - 2000) < 200 for count in drawn.values())


def test_the_same_seed_draws_the_same():
    draws = [draw_videos([5, 7], 4, np.random.default_rng((1, 2))) for _ in range(2)]
    assert draws[0] == draws[1]
