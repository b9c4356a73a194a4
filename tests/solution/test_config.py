"""Overrides are typed, unknown keys name the nearest, and a config survives JSON."""

import dataclasses

import pytest

from data_prep.errors import UserError
from solution.config import CHOICES, Config, from_json, override, to_json
from solution.pipeline import MAKERS, MEMBERS, check_possible
from solution.presets import PRESETS


def test_overrides_take_the_field_s_type():
    config = override(
        Config(),
        [
            "seed=3",
            "segmenter.steps=12",
            "segmenter.learning_rate=1e-4",
            "ensemble.members=objects,masks",
            "segmenter.crop=64,96",
            "jepa.encoder.steps=9",
        ],
    )
    assert config.seed == 3 and config.segmenter.steps == 12 and config.segmenter.learning_rate == 1e-4
    assert config.ensemble.members == ("objects", "masks") and config.segmenter.crop == (64, 96)
    assert Config().segmenter.steps != 12
    assert config.jepa.encoder.steps == 9 and config.jepa.decoder == Config().jepa.decoder


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("segmenter.step=3", "nearest is segmenter.steps"),
        ("jepa.encoder.step=3", "nearest is jepa.encoder.steps"),
        ("segmentr.steps=3", "nearest is segmenter.steps"),
        ("segmenter=3", "no such key"),
        ("segmenter.steps.more=3", "no such key"),
        ("segmenter.steps=many", "expected a value of type int, found 'many'"),
        ("segmenter.steps", "expected section.key=value"),
        ("ensemble.members=objects,luck", "expected one of objects"),
        ("ensemble.decode=best", "expected one of fitted, argmax"),
        ("segmenter.steps=0", "at least 1, found 0"),
        ("objects.steps=-3", "at least 1, found -3"),
        ("frames.joint_steps=-1", "at least 0, found -1"),
        ("segmenter.learning_rate=nan", "at least 0, found nan"),
        ("segmenter.crop=96", "expected 2 values, found '96'"),
        ("segmenter.crop=0,0", "at least 1, found 0"),
        ("masks.N_S=0", "at least 1, found 0"),
        ("segmenter.pasted=1.5", "0 to 1, found 1.5"),
    ],
)
def test_a_wrong_override_is_one_sentence(setting, message):
    with pytest.raises(UserError, match=message):
        override(Config(), [setting])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_json_round_trip(preset):
    assert from_json(to_json(preset)) == preset


def test_report_jepa_has_the_report_s_sizes():
    config = PRESETS["report-jepa"].jepa
    sizes = [(part.width, part.layers, part.heads) for part in (config.encoder, config.generator)]
    assert sizes == [(192, 12, 3), (768, 12, 12)] and (config.decoder.layers, config.decoder.heads) == (6, 3)
    assert config.encoder.batch_size == 2048 and config.encoder.epochs == 300
    # 22 frames of 900 train and 13,000 unlabeled videos.
    assert config.encoder.steps == pytest.approx(300 * 13_900 * 22 / 2048, rel=0.001)


def test_every_member_has_a_section_and_a_stage_of_its_name():
    sections = {field.name for field in dataclasses.fields(Config)}
    assert set(MEMBERS) <= sections and set(MEMBERS) <= set(MAKERS)
    assert tuple(MEMBERS) == CHOICES["ensemble.members"]


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])
def test_every_encoder_that_can_be_built_is_allowed(encoder):
    check_possible(
        override(PRESETS["quick"], [f"segmenter.encoder={encoder}", "segmenter.decoder_channels=64,32,16,16,16"]),
        "--set",
    )
