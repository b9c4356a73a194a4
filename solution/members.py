"""All predictors that an ensemble can have as members: a new one is its file in ``predictors`` and a line here.

What it can be set to is a section of ``solution.config`` with its name.
"""

from __future__ import annotations

from solution.predictors import Member, frames, jepa, masks, objects

MEMBERS: dict[str, Member] = {
    "objects": objects.MEMBER,
    "masks": masks.MEMBER,
    "frames": frames.MEMBER,
    "jepa": jepa.MEMBER,
}
