"""Small files that are not there or not whole, and commands that make the same thing at the same time."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from data_prep.errors import UserError
from data_prep.files import read_json, sole_maker, write_text
from data_prep.pack import PackedSplit
from solution.pipeline import Pipeline
from solution.presets import PRESETS


def test_json_is_read_or_named(tmp_path):
    path = tmp_path / "index.json"
    with pytest.raises(UserError, match="index.json is missing; pack again."):
        read_json(path, "pack again")
    write_text(path, '{"videos": [3, 1]}')
    assert read_json(path, "pack again") == {"videos": [3, 1]}
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="index.json is damaged, it holds no JSON; pack again."):
        read_json(path, "pack again")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is damaged"):
        read_json(path, "pack again")


HOLDS = """
import sys, time
from pathlib import Path
from data_prep.files import sole_maker
with sole_maker(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


def test_a_killed_command_holds_nobody_up(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "made")], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert other.stdout.readline() == "inside\n"
    entered = threading.Event()

    def enter() -> None:
        with sole_maker(tmp_path / "made"):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(1.0)
    other.kill()
    other.wait()
    assert entered.wait(60)
    waiting.join()


def test_a_stage_is_built_once_by_two_commands(tmp_path, capsys):
    packed: dict[str, PackedSplit] = {}
    built = []

    def build(folder: Path) -> None:
        time.sleep(0.5)
        built.append(threading.get_ident())
        (folder / "content").write_text(str(len(built)))

    found = []

    def command() -> None:
        pipeline = Pipeline(PRESETS["quick"], packed, tmp_path / "stages", torch.device("cpu"))
        found.append((pipeline.stage("something", {"by": 1}, build).folder / "content").read_text())

    commands = [threading.Thread(target=command) for _ in range(3)]
    for each in commands:
        each.start()
    for each in commands:
        each.join()
    assert len(built) == 1 and found == ["1"] * 3
    said = capsys.readouterr().out
    assert said.count("kept") == 2 and said.count("waiting for another command that makes") == 2
