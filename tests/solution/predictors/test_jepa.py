"""Schedules against closed forms, the guard against collapse, and stages that train their own network and resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_prep.classes import NUM_CLASSES
from data_prep.errors import UserError
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution import training
from solution.checkpoints import load_weights
from solution.clips import FrameVideos
from solution.config import SegmenterConfig
from solution.models.jepa import Encoder, Jepa
from solution.predictors import Clip, jepa
from solution.predictors.jepa import (
    DecoderConfig,
    EncoderConfig,
    GeneratorConfig,
    JepaSizes,
    PretrainingRecipe,
    frame_batches,
    load_encoder,
    load_jepa,
    load_patch_segmenter,
    look_at_features,
    train_encoder,
    train_generator,
    train_jepa,
)
from solution.segmenter import build_segmenter

TINY = JepaSizes(
    EncoderConfig(width=24, layers=1, momentum=0.9, epochs=2, steps=6, batch_size=2),
    GeneratorConfig(width=24, layers=1, heads=3, pixel_weight=1.0, steps=2, batch_size=1),
    DecoderConfig(layers=1, pseudo_steps=2, labelled_steps=2, tuning_steps=2, batch_size=1),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def videos() -> FrameVideos:
    """Three noisy videos in which a bright square, of class 7, slides to the right, and each starts elsewhere."""
    frames = np.random.default_rng(0).integers(50, 70, (3, NUM_FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    masks = np.zeros((3, NUM_FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
    for video in range(3):
        for t in range(NUM_FRAMES):
            square = np.s_[video, t, 30 * video : 30 * video + 48, 20 + 5 * t : 20 + 5 * t + 48]
            frames[square], masks[square] = 200, 7
    return FrameVideos(frames, masks, np.arange(3))


@pytest.fixture(scope="module")
def pretrained(videos, tmp_path_factory) -> Path:
    """A folder with a trained ``encoder`` and ``generator``."""
    folder = tmp_path_factory.mktemp("pretrained")
    unseen = FrameVideos(videos.frames, None, videos.rows)
    train_encoder(TINY.encoder, [unseen], videos, folder / "encoder", CPU)
    encoder = load_encoder(TINY.encoder, folder / "encoder", CPU)
    segmenter = build_segmenter(SegmenterConfig("resnet18", (16, 8, 8))).eval()
    train_generator(TINY.generator, encoder, segmenter, [unseen], videos, folder / "generator", CPU)
    return folder


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_schedules_at_start_middle_and_end():
    recipe = PretrainingRecipe(steps=2001, learning_rate=1e-3)
    assert recipe.rate(0) == pytest.approx(1e-4)
    assert recipe.rate(50) == pytest.approx(5.5e-4)
    assert recipe.rate(100) == pytest.approx(1e-3)  # 15 of 300 epochs
    assert recipe.rate(1050) == pytest.approx((1e-3 + 1e-6) / 2)
    assert recipe.rate(2000) == pytest.approx(1e-6)
    assert [recipe.decay(step) for step in (0, 1000, 2000)] == pytest.approx([0.04, 0.22, 0.4])
    momenta = [recipe.momentum_at(torch.tensor(step)).item() for step in (0, 1000, 2000)]
    assert momenta == pytest.approx([0.996, 0.998, 1])


def test_frames_and_masks_are_mirrored_alike_and_depend_on_nothing_but_seed_and_step(videos):
    draw = frame_batches(8, [videos, videos], 5)
    first, again = draw(3), frame_batches(8, [videos, videos], 5)(3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["frames"].shape == (8, HEIGHT, WIDTH, 3) and first["mask"].shape == (8, 1, HEIGHT, WIDTH)
    assert torch.equal(first["frames"][..., 0] == 200, first["mask"][:, 0] == 7)
    columns = {int(mask[0].any(0).nonzero()[0]) for step in range(4) for mask in draw(step)["mask"]}
    assert {column % 5 for column in columns} == {0, 2}  # 20 + 5 t, and mirrored 240 − 68 − 5 t
    assert frame_batches(2, [FrameVideos(videos.frames, None, videos.rows)], 0)(0).keys() == {"frames"}


def test_the_guard_fires_on_a_collapsed_encoder_only(videos):
    torch.manual_seed(0)
    encoder = Encoder(24, 2, 3).eval()
    found = look_at_features(encoder, videos, CPU)
    assert found["spread"] > 0.1
    torch.nn.init.zeros_(encoder.embed.project.weight)  # places still differ, frames do not
    with pytest.raises(UserError, match="collapsed.*momentum in SIZES"):
        look_at_features(encoder, videos, CPU)


def test_training_stops_where_the_encoder_collapses(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(jepa, "COLLAPSED", 10.0)
    with pytest.raises(UserError, match="collapsed"):
        train_encoder(TINY.encoder, [videos], videos, tmp_path, CPU)


def test_a_killed_encoder_goes_on_to_the_same_weights(videos, pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    draw, drawn = jepa.draw_patches, []

    def dies(count, rng):
        drawn.append(count)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(count, rng)

    monkeypatch.setattr(jepa, "draw_patches", dies)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(TINY.encoder, [videos], videos, tmp_path, CPU)
    train_encoder(TINY.encoder, [videos], videos, tmp_path, CPU)
    assert len(drawn) == 4 + 3  # steps 0 to 2 were not repeated
    whole, resumed = (
        load_weights(Jepa(24, 1, 3), folder, CPU).state_dict() for folder in (pretrained / "encoder", tmp_path)
    )
    assert same(whole, resumed)


def test_the_log_shows_the_spread_after_every_epoch(pretrained):
    header, *rows = (pretrained / "encoder" / "log.csv").read_text().splitlines()
    values = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    looked_at = [row["step"] for row in values if row["spread"]]
    assert looked_at == ["3", "6"]


def test_the_generator_learns_from_a_frozen_encoder_and_shows_what_it_draws(videos, pretrained, tmp_path):
    encoder = load_encoder(TINY.encoder, pretrained / "encoder", CPU)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    segmenter = build_segmenter(SegmenterConfig("resnet18", (16, 8, 8))).eval()
    config = replace(TINY.generator, pixel_weight=0.0)
    train_generator(config, encoder, segmenter, [videos], videos, tmp_path, CPU)
    assert same(before, encoder.state_dict())
    assert Image.open(next(tmp_path.glob("strip_*.png"))).size == (4 * WIDTH, 3 * HEIGHT)
    assert (tmp_path / "log.csv").read_text().startswith("step,rate,loss,features,pixels")


def test_all_kinds_of_masks_teach_the_decoder_alone_and_the_predictor_rebuilds(videos, pretrained, tmp_path):
    folders = pretrained / "encoder", pretrained / "generator"
    predictor = train_jepa(TINY, *folders, videos, videos, videos, tmp_path, CPU)
    decoders = [weights_in(tmp_path / kind) for kind in ("pseudo", "labelled", "tuned")]
    assert not same(decoders[0], decoders[1]) and not same(decoders[1], decoders[2])
    assert same(decoders[2], predictor.pipeline.segmenter.decoder.state_dict())
    assert same(decoders[1], load_patch_segmenter(tmp_path, CPU).decoder.state_dict())
    assert same(weights_in(pretrained / "generator"), predictor.pipeline.generator.state_dict())
    encoder = load_encoder(TINY.encoder, pretrained / "encoder", CPU)
    assert same(encoder.state_dict(), predictor.pipeline.segmenter.encoder.state_dict())

    clip = torch.from_numpy(videos.frames[:2, :CLIP_FRAMES])
    probabilities = predictor.predict(Clip(clip, clip[..., 0]))
    assert probabilities.shape == (2, NUM_CLASSES, HEIGHT, WIDTH) and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, HEIGHT, WIDTH))
    assert torch.equal(load_jepa(tmp_path, CPU).predict(Clip(clip, clip[..., 0])), probabilities)
    kept = train_jepa(TINY, *folders, videos, videos, videos, tmp_path, CPU)  # finished: nothing to do
    assert torch.equal(kept.predict(Clip(clip, clip[..., 0])), probabilities)


@pytest.mark.parametrize("without", ["steps", "videos"])
def test_pseudo_masks_can_be_left_out(videos, pretrained, tmp_path, without):
    steps = 0 if without == "steps" else 2
    config = replace(TINY, decoder=replace(TINY.decoder, pseudo_steps=steps, tuning_steps=0))
    unlabeled = None if without == "videos" else videos
    train_jepa(config, pretrained / "encoder", pretrained / "generator", videos, unlabeled, videos, tmp_path, CPU)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["labelled"]
