"""What a command takes where nothing was named."""

from pathlib import Path

import pytest
import torch

import submit
from data_prep.errors import UserError
from solution import ablate, leaderboard, train
from tests.conftest import assert_one_sentence, call

COMMANDS = ((leaderboard, submit.main, []), (train, train.main, ["segmenter"]), (ablate, ablate.main, ["views"]))


@pytest.mark.parametrize(("gpu", "real", "preset"), [(1, 1, "full"), (1, 0, "quick"), (0, 1, "quick"), (0, 0, "quick")])
def test_all_commands_choose_the_same_preset(gpu, real, preset, tmp_path, monkeypatch):
    def chosen(name, settings):
        raise UserError(f"preset {name}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpu))
    if real:
        Path("data", "train").mkdir(parents=True)
    for module, command, options in COMMANDS:
        monkeypatch.setattr(module, "configured", chosen)
        assert_one_sentence(call(command, *options), f"preset {preset}")
