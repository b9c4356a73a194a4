"""Overrides are typed, unknown keys name the nearest, and a config survives JSON."""

import dataclasses

import pytest

from data_prep.errors import UserError
from solution.config import Config, from_json, override, to_json
from solution.pipeline import MAKERS, MEMBERS, check_possible, configured
from solution.predictors.jepa import SIZES
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
            "frames.plain=true",
            "masks.size=8,16,4,2",
        ],
    )
    assert config.seed == 3 and config.segmenter.steps == 12 and config.segmenter.learning_rate == 1e-4
    assert config.ensemble.members == ("objects", "masks") and config.segmenter.crop == (64, 96)
    assert Config().segmenter.steps != 12
    assert config.frames.plain is True and config.masks.size == (8, 16, 4, 2) and config.jepa == Config().jepa


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("segmenter.step=3", "nearest is segmenter.steps"),
        ("segmentr.steps=3", "nearest is segmenter.steps"),
        ("segmenter=3", "no such key"),
        ("segmenter.steps.more=3", "no such key"),
        ("segmenter.steps=many", "expected a valid integer.*found 'many'"),
        ("segmenter.steps", "expected section.key=value"),
        ("ensemble.members=", "ensemble.members: .* at least 1"),
        ("ensemble.decode=best", "expected 'fitted' or 'argmax', found 'best'"),
        ("segmenter.steps=0", "greater than or equal to 1, found '0'"),
        ("masks.steps=-3", "greater than or equal to 1, found '-3'"),
        ("edges.steps=-1", "greater than or equal to 0, found '-1'"),
        ("segmenter.learning_rate=nan", "expected a finite number, found 'nan'"),
        ("segmenter.crop=96", "segmenter.crop: .*required, found .'96'"),
        ("segmenter.crop=0,0", "greater than or equal to 1, found '0'"),
        ("masks.size=8,16,0,2", "greater than or equal to 1, found '0'"),
        ("segmenter.pasted=1.5", "less than or equal to 1, found '1.5'"),
    ],
)
def test_a_wrong_override_is_one_sentence(setting, message):
    with pytest.raises(UserError, match=message):
        override(Config(), [setting])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_json_round_trip(preset):
    assert from_json(to_json(preset)) == preset


@pytest.mark.parametrize("preset", PRESETS)
def test_networks_of_every_preset_can_be_built(preset):
    assert configured(preset, ()) == PRESETS[preset]


def test_report_jepa_has_the_report_s_sizes():
    config = SIZES[PRESETS["report-jepa"].jepa.size]
    sizes = [(part.width, part.layers, part.heads) for part in (config.encoder, config.generator)]
    assert sizes == [(192, 12, 3), (768, 12, 12)] and (config.decoder.layers, config.decoder.heads) == (6, 3)
    assert config.encoder.batch_size == 2048 and config.encoder.epochs == 300
    # 22 frames of 900 train and 13,000 unlabeled videos.
    assert config.encoder.steps == pytest.approx(300 * 13_900 * 22 / 2048, rel=0.001)


def test_every_member_has_a_stage_of_its_name():
    assert set(MEMBERS) <= set(MAKERS)


@pytest.mark.parametrize("members", ["objects,luck", "objects,objects"])
def test_members_are_different_ones_that_there_are(members):
    with pytest.raises(UserError, match=f"expected one or more different members of objects, .*found {members[:7]}"):
        configured("quick", [f"ensemble.members={members}"])


def test_there_are_no_more_settings_than_somebody_needs():
    def count(values: dict) -> int:
        return sum(count(value) if isinstance(value, dict) else 1 for value in values.values())

    assert count(dataclasses.asdict(Config())) <= 41


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])
def test_every_encoder_that_can_be_built_is_allowed(encoder):
    check_possible(
        override(PRESETS["quick"], [f"segmenter.encoder={encoder}", "segmenter.decoder_channels=64,32,16,16"]),
        "--set",
    )
