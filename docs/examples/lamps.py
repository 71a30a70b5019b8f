"""An environment of one's own: three lamps, and a wish to light one. Used by recipes/own-environment.yaml."""

import random
from typing import Literal

LAMPS = ("red", "blue", "green")


class Lamps:
    def tasks(self, split, seed):
        # Every fifth level is held out: no task of a split stands in another.
        levels = [level for level in range(1, 100) if (level % 5 == 0) == (split != "train")]
        wishes = [(lamp, level) for lamp in LAMPS for level in levels]
        for lamp, level in random.Random(seed).sample(wishes, len(wishes)):
            yield {"prompt": f"Set the {lamp} lamp to {level}.", "lamp": lamp, "level": level}

    def reset(self, task):
        self.levels, self.task = dict.fromkeys(LAMPS, 0), task

    def set_lamp(self, lamp: Literal["red", "blue", "green"], level: int) -> str:
        """Light a lamp.

        level: from 0, which is off, to 99.
        """
        if not 0 <= level <= 99:
            raise ValueError("a level is from 0 to 99")  # the model reads this
        self.levels[lamp] = level
        return "ok"

    def verify(self):
        return self.levels == dict.fromkeys(LAMPS, 0) | {self.task["lamp"]: self.task["level"]}
