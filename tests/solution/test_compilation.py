"""Every network is called by its loss in a way that a GPU can compile, as one graph for batches of any content."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from torch import Tensor, nn

from data_prep.standin.physics import simulate, video_seed
from data_prep.standin.writer import paint_videos
from solution.clips import FrameVideos, MaskVideos
from solution.config import Config, override
from solution.edges import FEATURES, edge_batches, edges_loss
from solution.models.edges import EdgeNetwork
from solution.predictors.frames import FramePipeline, frame_batches, frames_loss
from solution.predictors.masks import SlotSimVP, slot_batches, slots_loss
from solution.presets import QUICK
from solution.segmenter import build_segmenter, crop_batches, crops_loss
from solution.tracks import find_tracks

VIDEOS = 8


@dataclass(frozen=True)
class Job:
    """What :func:`solution.training.fit` trains: a network, its loss, and its batches by step."""

    model: nn.Module
    loss: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]
    batch: Callable[[int], dict[str, Tensor]]


TINY = override(
    QUICK,
    [
        "segmenter.decoder_channels=16,8",
        "frames.size=8,16,4,2",
        "masks.size=8,16,4,2",
        *(f"{key}=2" for key in ("segmenter.batch", "edges.batch", "frames.batch_size", "masks.batch_size")),
    ],
)
NETWORKS = ["segmenter", "SimVP inception", "SimVP gsta", "SlotSimVP", "edges"]


def jobs(config: Config) -> dict[str, Callable[[], Job]]:
    """Return by name what makes the training of every network of a config."""
    masks = paint_videos([simulate(video_seed(0, number)) for number in range(VIDEOS)])
    frames = np.random.default_rng(0).integers(0, 256, (*masks.shape, 3), np.uint8)
    rows = np.arange(VIDEOS)

    def segmenter() -> Job:
        chosen = config.segmenter
        batch = crop_batches(chosen, frames, masks, rows, 0)
        return Job(build_segmenter(chosen), partial(crops_loss, chosen), batch)

    def simvp(translator: str) -> Job:
        chosen = replace(config.frames, network=translator)
        batch = frame_batches(chosen, [FrameVideos(frames, masks, rows)], 0)
        return Job(FramePipeline(chosen, nn.Identity()).simvp, partial(frames_loss, chosen), batch)

    def slots() -> Job:
        chosen = config.masks
        batch = slot_batches(chosen, [MaskVideos(masks, masks)], 0)
        return Job(SlotSimVP(chosen), partial(slots_loss, chosen), batch)

    def edges() -> Job:
        chosen = config.edges
        batch = edge_batches(chosen, find_tracks(torch.from_numpy(masks)), frames, masks, rows, 0)
        return Job(EdgeNetwork(FEATURES, chosen.width), edges_loss, batch)

    simvps = {f"SimVP {translator}": partial(simvp, translator) for translator in ("inception", "gsta")}
    return {"segmenter": segmenter, **simvps, "SlotSimVP": slots, "edges": edges}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_loss_calls_the_network_itself_which_is_what_a_gpu_compiles(network):
    job = jobs(TINY)[network]()
    calls = []
    job.model.register_forward_pre_hook(lambda *call: calls.append(call))
    job.loss(job.model, job.batch(0))
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_compiled_network_is_one_graph_or_two_for_all_batches(network):
    job = jobs(TINY)[network]()
    model, counts = job.model.train(), torch._dynamo.utils.counters
    plain = []
    for compiled in (False, True):
        if compiled:
            torch._dynamo.reset()
            counts.clear()
            model.compile(backend="aot_eager_decomp_partition")  # code for a GPU is made from these graphs
        for step in range(4):
            loss = job.loss(model, job.batch(step))["loss"]
            loss.backward()
            model.zero_grad()
            if compiled:
                assert loss.item() == pytest.approx(plain[step], rel=1e-3)
            else:
                plain.append(loss.item())
    # Numbers of objects are all one; a first batch may have been a special case of them.
    assert 1 <= counts["stats"]["unique_graphs"] <= 2 and not counts["graph_break"]
