"""The frame predictor's stages each train what they should, can be switched off, and leave a folder that rebuilds."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.classes import IGNORE, NUM_CLASSES
from data_prep.scene import CLIP_FRAMES, HEIGHT, NUM_FRAMES, WIDTH
from solution.checkpoints import load_weights
from solution.clips import FrameVideos
from solution.config import FramesConfig, SegmenterConfig
from solution.layers import velocities
from solution.losses import frame_loss, mask_loss
from solution.predictors import Clip
from solution.predictors.drawn import FramesPredictor, as_clip, count_epochs, evaluate_frames, save_strip, video_batches
from solution.predictors.frames import (
    MOVED_WEIGHT,
    FramePipeline,
    frame_batches,
    frames_loss,
    last_frame,
    last_mask,
    load_frames,
    shown_classes,
    train_frames,
    train_simvp,
    tune,
    without_absent,
)
from solution.presets import REPORT_SIMVP
from solution.segmenter import build_segmenter

TINY = FramesConfig("inception", (8, 16, 4, 2), downscale=4, steps=2, batch_size=1, tuning_steps=1)
SEGMENTER = SegmenterConfig("resnet18", (16, 8, 8))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def videos() -> FrameVideos:
    """Three videos: a bright square slides to the right over a dark floor; its class is 7."""
    frames = np.full((3, NUM_FRAMES, HEIGHT, WIDTH, 3), 60, dtype=np.uint8)
    masks = np.zeros((3, NUM_FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
    for video in range(3):
        for t in range(NUM_FRAMES):
            square = np.s_[video, t, 40 : 40 + 48, 20 + 5 * t : 20 + 5 * t + 48]
            frames[square], masks[square] = 200, 7
    return FrameVideos(frames, masks, np.arange(3))


def pipeline(config: FramesConfig = TINY) -> FramePipeline:
    torch.manual_seed(0)
    return FramePipeline(config, build_segmenter(SEGMENTER)).eval()


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())


def test_as_clip_scales_and_averages():
    frames = torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8)
    frames[0, 1, :2, :2, 0] = 255
    clip = as_clip(frames, 2)
    assert clip.shape == (1, 2, 3, 2, 2)
    assert clip[0, 1, :, 0, 0].tolist() == [1, 0, 0] and clip.sum() == 1


def test_batches_depend_on_nothing_but_seed_and_step_and_mirror_all_alike(videos):
    with_future = video_batches(2, [videos], 5, with_future=True)
    first, again = with_future(3), video_batches(2, [videos], 5, with_future=True)(3)
    assert first.keys() == {"clip", "seen", "future"} and first["clip"].shape == (2, CLIP_FRAMES, HEIGHT, WIDTH, 3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    only_second = FrameVideos(np.arange(3 * 22, dtype=np.uint8).reshape(3, 22, 1, 1, 1), videos.masks, np.array([1]))
    assert video_batches(1, [only_second], 0, with_future=True)(0)["clip"][0, 0].item() == 22
    drawn = [frame_batches(replace(TINY, batch_size=2), [videos], 5)(step)["horizons"] for step in range(40)]
    assert all(torch.equal(*horizons) and len(set(horizons[0].tolist())) == 3 for horizons in drawn)
    assert all(horizons[0, -1] == 10 for horizons in drawn) and torch.cat(drawn).unique().tolist() == list(range(11))
    tuning = video_batches(4, [videos, videos], 5, with_future=False)
    mirrored = set()
    for step in range(3):
        tensors = tuning(step)
        assert tensors["mask"].shape == (4, 1, HEIGHT, WIDTH)
        assert torch.equal(tensors["seen"] == 7, tensors["clip"][..., 0] == 200)
        for clip, mask in zip(tensors["clip"], tensors["mask"], strict=True):
            heading = clip[-1, 60].float()[:, 0].argmax() > clip[0, 60].float()[:, 0].argmax()
            assert (mask[0, 60] == 7).nonzero().float().mean() > 120 if heading else True
            mirrored.add(bool(heading))
    assert mirrored == {True, False}


def test_objects_of_other_videos_move_among_a_clip_s_own(videos):
    right = replace(videos, rows=np.array([0]))
    frames, masks = videos.frames.copy(), np.where(videos.masks == 7, 9, 0).astype(np.uint8)
    frames[masks == 9] = 240
    frames, masks = (np.roll(array, 60, 2) for array in (frames, masks))
    lower = FrameVideos(frames, masks, np.array([0]))
    alone, both = (video_batches(16, [right, lower], 0, False, pasted)(0) for pasted in (0.0, 1.0))
    assert all(len(clip.unique()) == 2 for clip in alone["seen"])
    number = [len(clip.unique()) for clip in both["seen"]]
    assert set(number) == {2, 3}  # half of them meet their own class, which stays out
    for clip, seen, mask in zip(both["clip"], both["seen"], both["mask"], strict=True):
        assert torch.equal(seen == 7, clip[..., 0] == 200) and torch.equal(seen == 9, clip[..., 0] == 240)
        assert set(mask.unique().tolist()) == set(seen.unique().tolist())
    again = video_batches(16, [right, lower], 0, False, 1.0)(0)
    assert all(torch.equal(both[name], again[name]) for name in both)


def test_what_the_segmenter_sees_of_frames_1_to_11_goes_before_the_truth(videos):
    seen = np.where(videos.masks == 7, 8, 0).astype(np.uint8)
    batch = video_batches(1, [replace(videos, seen=seen)], 0, False)(0)
    assert batch["seen"].unique().tolist() == [0, 8] and batch["mask"].unique().tolist() == [0, 7]


@pytest.mark.parametrize(("network", "downscale"), [("gsta", 1), ("inception", 2), ("convlstm", 1), ("convlstm", 2)])
def test_predicts_frame_22(videos, network, downscale):
    model = pipeline(replace(TINY, network=network, downscale=downscale))
    clip = torch.from_numpy(videos.frames[:1, :CLIP_FRAMES])
    frame, moved, movable = last_frame(
        model.config, model.simvp, clip, torch.from_numpy(videos.masks[:1, :CLIP_FRAMES])
    )
    assert frame.shape == (1, 3, HEIGHT, WIDTH) and moved.shape == (1, 1, HEIGHT, WIDTH)
    assert movable.nonzero().tolist() == [[0, 0], [0, 7]]


@pytest.mark.parametrize("downscale", [1, 2, 4])
@pytest.mark.parametrize("network", ["inception", "convlstm"])
def test_what_does_not_change_stays_as_sharp_as_in_frame_11(downscale, network):
    model = pipeline(replace(TINY, downscale=downscale, network=network))
    if network == "inception":
        torch.nn.init.normal_(model.simvp.network.readout.weight)
    frame = np.random.default_rng(0).integers(0, 256, (2, 1, HEIGHT, WIDTH, 3), np.uint8)
    clip, seen = torch.from_numpy(frame.repeat(CLIP_FRAMES, 1)), torch.zeros(2, CLIP_FRAMES, HEIGHT, WIDTH)
    seen[:, :, 30:60, 30:60], seen[:, :, 50:80, 50:80] = 7, 9
    drawn, moved, _ = last_frame(model.config, model.simvp, clip, seen.to(torch.uint8))
    torch.testing.assert_close(drawn, as_clip(clip[:, -1:], 1)[:, 0], atol=1e-4, rtol=0)
    if network == "inception":
        assert not moved.any()
        probabilities = FramesPredictor(model).predict(Clip(clip, seen.to(torch.uint8)))
        assert torch.equal(probabilities.argmax(1), seen[:, -1].long())


@pytest.mark.parametrize("downscale", [1, 4])
def test_an_object_goes_where_its_flow_and_the_network_say(videos, downscale):
    rng, simvp = np.random.default_rng(0), pipeline(replace(TINY, downscale=downscale)).simvp
    frames, masks = videos.frames[:1].copy(), videos.masks[:1]
    frames[masks == 7] = np.tile(cv2.blur(rng.integers(0, 256, (48, 48, 3), np.uint8), (5, 5)).reshape(-1, 3), (22, 1))
    clip, seen = (torch.from_numpy(array[:, :CLIP_FRAMES]) for array in (frames, masks))
    with torch.no_grad():
        simvp.network.readout.bias[0] = simvp.SLOWING  # it does not slow down at all
    frame, moved, movable = last_frame(replace(TINY, downscale=downscale), simvp, clip, seen)
    truth = torch.from_numpy(masks[0, -1] == 7)
    old = torch.from_numpy(masks[0, CLIP_FRAMES - 1] == 7)
    at = (moved[0, 0] > 0.5) & ~old
    assert (at & truth).sum() > 0.9 * (at | (truth & ~old)).sum()
    by_hand = torch.from_numpy(frames[0, -1]).movedim(2, 0) / 255
    assert (frame[0] - by_hand).abs().mean() < 0.3 * (as_clip(clip, 1)[0, -1] - by_hand).abs().mean()
    assert movable[0].nonzero().flatten().tolist() == [0, 7]


def test_gradients_reach_what_the_network_says_of_motion_and_floor(videos):
    simvp = pipeline().simvp
    frames_loss(TINY, simvp, frame_batches(TINY, [videos], 0)(0))["loss"].backward()
    assert (simvp.network.readout.bias.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("downscale", [1, 2])
def test_training_and_prediction_draw_the_same_frame_22(videos, plain, downscale):
    config = replace(TINY, downscale=downscale, plain=plain)
    model = pipeline(config)
    clip, seen = (torch.from_numpy(array[:2, :CLIP_FRAMES]) for array in (videos.frames, videos.masks))
    network = model.simvp if plain else model.simvp.network
    torch.nn.init.normal_(network.readout.weight, std=0.1)
    if plain:
        torch.nn.init.constant_(network.readout.bias, 0.5)
    more = () if plain else (seen, velocities(clip, seen))
    drawn = model.simvp(as_clip(clip, downscale), *more)[:, -1]
    full, *_ = last_frame(config, model.simvp, clip, seen)
    assert full.shape == (2, 3, HEIGHT, WIDTH) and full.min() >= 0 and full.max() <= 1
    pooled = torch.nn.functional.avg_pool2d(full, downscale)
    apart = (pooled - drawn.clamp(0, 1)).abs().mean()
    assert apart < (1e-6 if downscale == 1 else 0.3 * drawn.std())  # interpolation blurs a little


def test_what_moved_weighs_more(videos):
    config, simvp = replace(TINY, ssim_weight=0.0), pipeline().simvp
    values = frames_loss(config, simvp, frame_batches(config, [videos], 0)(0))
    # It errs where something moved, of three frames with a mean error in ``mse`` and a loss in which frame 22 weighs
    # three times as much.
    assert (1 + MOVED_WEIGHT) * values["mse"].item() <= values["loss"].item() * 1.05
    still = FrameVideos(np.repeat(videos.frames[:, :1], NUM_FRAMES, 1), videos.masks, videos.rows)
    values = frames_loss(config, simvp, frame_batches(config, [still], 0)(0))
    assert values["loss"].item() == pytest.approx(values["mse"].item(), rel=1e-5)


def test_a_class_that_the_clip_does_not_show_has_no_probability(videos):
    seen = torch.zeros(2, CLIP_FRAMES, HEIGHT, WIDTH, dtype=torch.uint8)
    seen[0, 3, :8, :8], seen[1, :, :8, :8], seen[1, -1, 80, 80] = 30, 7, 9  # one pixel of class 9 is none
    seen[0, :, 100:] = IGNORE
    clip = Clip(torch.from_numpy(videos.frames[:2, :CLIP_FRAMES]), seen)
    probabilities = FramesPredictor(pipeline()).predict(clip)
    assert [(each.amax((1, 2)) > 0).nonzero().flatten().tolist() for each in probabilities] == [[0, 30], [0, 7]]
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, HEIGHT, WIDTH))
    everything = FramesPredictor(pipeline(replace(TINY, plain=True))).predict(clip)
    assert (everything > 0).all()  # the published recipe looks at no masks


def test_the_mask_of_what_moved_is_laid_over_that_of_frame_11():
    class Sure(torch.nn.Module):
        def logits(self, frames):
            return 20 * torch.nn.functional.one_hot(torch.full((1, HEIGHT, WIDTH), 3), NUM_CLASSES).movedim(3, 1)

    seen = torch.zeros(1, CLIP_FRAMES, HEIGHT, WIDTH, dtype=torch.uint8)
    seen[0, :, :80], seen[0, 0, 80:] = 7, 3
    moved, any_class = torch.linspace(0, 1, WIDTH).repeat(1, 1, HEIGHT, 1), torch.ones(1, NUM_CLASSES, dtype=torch.bool)
    found = last_mask(TINY, Sure(), torch.zeros(1, 3, HEIGHT, WIDTH), moved, any_class, seen).softmax(1)[0]
    torch.testing.assert_close(found[3], moved[0, 0], atol=1e-4, rtol=0)
    for label, part in ((7, np.s_[:80]), (0, np.s_[80:])):  # what frame 11 shows below is floor
        torch.testing.assert_close(found[label][part], 1 - moved[0, 0, part], atol=1e-4, rtol=0)


def test_tuning_leaves_the_statistics_of_the_u_net_alone(videos, tmp_path):
    model = pipeline()
    before = {name: buffer.clone() for name, buffer in model.segmenter.named_buffers()}
    tune(TINY, model, model, [videos], videos, tmp_path, CPU, 0)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.segmenter.named_buffers())


def test_late_entrants_are_not_asked_for():
    seen = torch.zeros(1, CLIP_FRAMES, HEIGHT, WIDTH, dtype=torch.uint8)
    seen[0, 0, :10, :10] = 7
    target = torch.tensor([0, 7, 30, IGNORE], dtype=torch.uint8)[None, None, None]
    assert without_absent(target, shown_classes(seen), IGNORE).flatten().tolist() == [0, 7, IGNORE, IGNORE]


def test_clips_are_predicted_alike_in_whatever_parts(videos):
    predictor = FramesPredictor(pipeline(TINY))
    clip = Clip(*(torch.from_numpy(x[:2, :CLIP_FRAMES]) for x in (videos.frames, videos.masks)))
    apart = torch.cat([predictor.predict(clip[part]) for part in np.s_[:1, 1:]])
    torch.testing.assert_close(predictor.predict(clip), apart, atol=1e-2, rtol=0)


def test_initial_losses_are_those_of_repeating_frame_11_and_of_guessing_a_class(videos):
    model = pipeline(replace(TINY, downscale=1))
    clip, future = (torch.from_numpy(videos.frames[:1, part]) for part in (np.s_[:CLIP_FRAMES], np.s_[CLIP_FRAMES:]))
    still = torch.zeros(1, CLIP_FRAMES, HEIGHT, WIDTH, dtype=torch.uint8)  # nothing is known to slide
    predicted, truth = model.simvp(as_clip(clip, 1), still, velocities(clip, still)), as_clip(future, 1)
    repeated = (as_clip(clip, 1)[:, -1:] - truth).square().mean().item()
    assert frame_loss(predicted, truth)["mse"].item() == pytest.approx(repeated, rel=0.05)
    target = torch.randint(NUM_CLASSES, (1, 1, HEIGHT, WIDTH))
    plain = pipeline(replace(TINY, downscale=1, plain=True))
    logits = plain(Clip(clip, clip[..., 0]))
    guessing = mask_loss(logits[:, None], target)["cross_entropy"].item()
    assert guessing == pytest.approx(np.log(NUM_CLASSES), rel=0.15)


def test_downscale_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="downscale"):
        pipeline(replace(TINY, downscale=3))


@pytest.fixture(scope="module")
def simvp(videos, tmp_path_factory) -> Path:
    """The folder of a trained SimVP."""
    folder = tmp_path_factory.mktemp("simvp")
    train_simvp(TINY, build_segmenter(SEGMENTER), [videos], videos, folder, CPU)
    return folder


def test_the_plain_one_learns_from_videos_without_masks(videos, tmp_path):
    unlabeled = replace(videos, masks=None)
    train_simvp(replace(TINY, plain=True), build_segmenter(SEGMENTER), [unlabeled], videos, tmp_path, CPU)


def test_every_kind_of_tuning_runs_leaves_the_segmenter_alone_and_rebuilds(videos, simvp, tmp_path):
    segmenter = build_segmenter(SEGMENTER)
    before = weights(segmenter)
    predictor = train_frames(TINY, SEGMENTER, segmenter, simvp, videos, videos, videos, tmp_path, CPU)
    assert not changed(segmenter, before)
    for folder in (simvp, *(tmp_path / kind for kind in ("segmenter", "joint", "pseudo"))):
        assert (folder / "weights.safetensors").exists()
        assert Image.open(next(folder.glob("strip_*.png"))).size == (4 * WIDTH, 3 * HEIGHT)
    clip = torch.from_numpy(videos.frames[:1, :CLIP_FRAMES])
    probabilities = predictor.predict(Clip(clip, clip[..., 0]))
    assert probabilities.shape == (1, NUM_CLASSES, HEIGHT, WIDTH) and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, HEIGHT, WIDTH))
    assert torch.equal(load_frames(tmp_path, CPU).predict(Clip(clip, clip[..., 0])), probabilities)
    kept = train_frames(TINY, SEGMENTER, segmenter, simvp, videos, videos, videos, tmp_path, CPU)  # nothing to do
    assert torch.equal(kept.predict(Clip(clip, clip[..., 0])), probabilities)


@pytest.mark.parametrize("network", ["inception", "convlstm"])
def test_what_is_not_tuned_is_skipped_and_both_networks_are_as_they_came(videos, tmp_path, network):
    config = replace(TINY, network=network, tuned=())
    segmenter, drawer = build_segmenter(SEGMENTER), tmp_path / "drawer"
    train_simvp(config, segmenter, [videos], videos, drawer, CPU)
    predictor = train_frames(config, SEGMENTER, segmenter, drawer, videos, None, videos, tmp_path / "frames", CPU)
    assert not [path for path in (tmp_path / "frames").iterdir() if path.is_dir()]
    assert not changed(predictor.pipeline.segmenter, weights(segmenter))
    assert not changed(predictor.pipeline.simvp, weights(load_weights(pipeline(config).simvp, drawer, CPU)))


def test_each_tuning_changes_its_own_networks(videos, tmp_path):
    model = pipeline()
    simvp, segmenter = weights(model.simvp), weights(model.segmenter)
    tune(TINY, model, model.segmenter, [videos], videos, tmp_path / "segmenter", CPU, 0)
    assert changed(model.segmenter, segmenter) and not changed(model.simvp, simvp)
    tune(TINY, model, model, [videos], videos, tmp_path / "joint", CPU, 0)
    assert changed(model.simvp, simvp)


def test_every_epoch_is_evaluated(videos, tmp_path):
    config = replace(TINY, steps=6, batch_size=1)
    train_simvp(config, build_segmenter(SEGMENTER), [videos], videos, tmp_path, CPU)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows if row["jaccard"]] == ["3", "6"]
    assert all(float(row["data_s"]) > 0 and float(row["step_s"]) > 0 for row in rows)
    assert all(row["psnr"] and row["ssim"] for row in rows if row["jaccard"])
    assert len(list(tmp_path.glob("strip_*.png"))) == 2


def test_the_report_s_steps_are_its_epochs():
    unlabeled, train = FrameVideos(None, None, np.arange(13_000)), FrameVideos(None, None, np.arange(900))
    assert count_epochs(REPORT_SIMVP.frames.steps, REPORT_SIMVP.frames.batch_size, [unlabeled, train]) == 25
    segmenter = REPORT_SIMVP.segmenter
    frames = FrameVideos(None, None, np.arange(900 * NUM_FRAMES))
    assert count_epochs(segmenter.steps, segmenter.batch, [frames]) == 20


def test_evaluation_of_a_perfect_drawing(videos, tmp_path):
    def draw(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
        frame = as_clip(clip.frames, 1)[:, -1]
        return frame, torch.where(frame.mean(1) > 0.5, 7, 0).to(torch.uint8)

    frames, masks = (np.repeat(array[:, :1], NUM_FRAMES, 1) for array in (videos.frames, videos.masks))
    still = FrameVideos(frames, masks, videos.rows)
    found = evaluate_frames(draw, still, tmp_path, CPU)
    assert found["jaccard"] == found["object_iou"] == 1 and found["ssim"] == pytest.approx(1)
    moving = evaluate_frames(draw, videos, tmp_path, CPU)
    # 5 · 11 pixels further the 48 wide square no longer overlaps itself.
    assert moving["object_iou"] == 0
    mse = (140 / 255) ** 2 * 2 * 48 * 48 / (HEIGHT * WIDTH)
    assert moving["psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-4)
    assert len(list(tmp_path.glob("strip_*.png"))) == 2


def test_strip_shows_the_error(tmp_path):
    black, white = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    save_strip(black, black, white, tmp_path)
    picture = np.asarray(Image.open(tmp_path / "strip_00.png"))
    assert picture.shape == (16, 32, 3)
    assert (picture[:, :16] == 0).all() and (picture[:, 16:] == 255).all()
