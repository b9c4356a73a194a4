"""The report page, opened in a real browser where one is installed, and runs side by side."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.classes import class_id
from data_prep.errors import UserError
from solution import report
from solution.fates import FATES
from solution.metrics import score
from solution.page import INVENTED, MISSED, MISTAKEN, NOT_SCORED, RIGHT, Material, choose_videos, edges, error_map, page
from solution.results_table import ALL_RESULTS, END, START
from solution.strips import SHOWN, typical, write_strips
from tests.conftest import assert_one_sentence, call, run_validate

RED_CUBE, BLUE_SPHERE = class_id(0, 0, 1), class_id(1, 1, 2)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def material(videos: int = 40) -> Material:
    """Squares that stand still; in every second video the prediction is some pixels off, and a sphere is missed."""
    masks = np.zeros((videos, 22, 160, 240), np.uint8)
    masks[:, :, 60:90, 100:130] = RED_CUBE
    masks[::2, :, 100:120, 30:50] = BLUE_SPHERE
    prediction = np.zeros((videos, 160, 240), np.uint8)
    for row in range(videos):
        prediction[row, 60:90, 100 + row % 20 : 130 + row % 20] = RED_CUBE
    frames = np.random.default_rng(0).integers(100, 140, (videos, 22, 160, 240, 1), dtype=np.uint8)
    truth = masks[:, -1]
    return Material(
        title="A <test> & a page",
        prediction=prediction,
        truth=truth,
        scores={"ensemble": score(prediction, truth)},
        own="ensemble",
        videos=list(range(1000, 1000 + videos)),
        frames=np.broadcast_to(frames, (*frames.shape[:4], 3)),
        about={"Configuration": {"seed": 0}},
    )


def test_the_page_needs_nothing_else():
    text = page(material())
    assert text.count("<article") == 36 and text.count("data:image/png;base64") == 36 * 5
    assert "A &lt;test&gt; &amp; a page" in text and "$" not in text.split("<script>")[0]
    assert not re.search(r"(src|href)=.?(http|//|/)", text) and "http" not in text.replace("http-equiv", "")
    assert "only frame 22's are known" in text


def test_the_worst_come_first_and_nothing_twice():
    counts = np.zeros((50, 49, 49), int)
    counts[:, 1, 1] = np.random.default_rng(0).permutation(50) + 1
    counts[:, 1, 0] = 51 - counts[:, 1, 1]
    counts[7] = 0  # not scored
    rows, groups = zip(*choose_videos(counts), strict=True)
    order = np.argsort(np.where(np.arange(50) == 7, 99, counts[:, 1, 1]))
    assert list(rows[:24]) == list(order[:24]) and list(groups) == ["worst"] * 24 + ["random"] * 12
    assert len(set(rows)) == 36 and 7 not in rows


def test_a_picture_shows_a_typical_object_of_each_fate(tmp_path):
    shown = material()
    ious = 1 - 2 * (np.arange(40) % 20) / (30 + np.arange(40) % 20)
    found = np.full((40, 49), -1, np.int8)
    found[:20, RED_CUBE], found[20:, RED_CUBE] = FATES.index("moved"), FATES.index("collided")
    found[::2, BLUE_SPHERE] = FATES.index("late")
    shown = replace(shown, fates=found)
    texts, rows = zip(*typical(shown), strict=True)
    assert [text.split()[0] for text in texts] == ["moved", "collided", "late"] and len(set(rows)) == 3
    nearest = int(np.abs(ious[:20] - ious[:20].mean()).argmin())
    assert rows[:2] == (nearest, 20 + nearest) and f"red metal cube of video {1000 + nearest}" in texts[0]
    assert f"IoU {ious[nearest]:.2f}; all of this fate {ious[:20].mean():.2f}" in texts[0]
    assert "IoU 0.00; all of this fate 0.00" in texts[2] and "occluded" in SHOWN
    for name in ("strips.png", "strips.jpg"):
        write_strips(tmp_path / name, shown)
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.shape[0] % 3 == 0 and (pixels[:, ::8] < 100).any()
    with pytest.raises(UserError, match="with objects in frame 22"):
        write_strips(tmp_path / "none.png", replace(shown, fates=np.full((40, 49), -1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strips.jpg", "strips.png"]


def test_errors_have_their_colours():
    truth = np.array([[0, 0, 1, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 2, 0, 1, 2, 1]], np.uint8)
    found = [tuple(int(v) for v in colour) for colour in error_map(truth, prediction)[0]]
    assert found[1:] == [INVENTED, MISSED, RIGHT, MISTAKEN, NOT_SCORED]


def test_edges_are_the_rim_of_objects():
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 3
    rim = edges(mask)
    assert rim.sum() == 10 * 10 - 6 * 6 and not rim[mask == 0].any()


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser is installed")
def test_a_browser_filters_and_sorts_without_errors(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    path = tmp_path / "page.html"
    path.write_text(page(material()))
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        for width in (1280, 390):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(path.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width

        def shown():
            return [card for card in browser.find_elements(By.CLASS_NAME, "video") if card.is_displayed()]

        def scores():
            return [float(card.get_attribute("data-score")) for card in shown()]

        assert len(shown()) == 36 and scores() == sorted(scores())
        Select(browser.find_element(By.ID, "sort")).select_by_value("best")
        assert scores() == sorted(scores(), reverse=True)
        browser.find_element(By.CSS_SELECTOR, f'button.bar[data-class="{BLUE_SPHERE}"]').click()
        spheres = shown()
        assert 0 < len(spheres) < 36
        assert all(str(BLUE_SPHERE) in card.get_attribute("data-classes").split() for card in spheres)
        Select(browser.find_element(By.ID, "group")).select_by_value("random")
        assert {card.get_attribute("data-group") for card in shown()} <= {"random"}
        assert browser.find_element(By.ID, "shown").text == f"{len(shown())} of 36 shown"
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


@pytest.mark.slow
def test_pages_and_scores_of_a_run_and_of_a_file(trained):
    run = ("--run", "quick", "--data", trained.data)
    assert_one_sentence(run_validate(*run, "--picture", "strips.gif"), "strips.gif", ".png or .jpg")
    found = run_validate(*run, "--report", "run.html", "--picture", "strips.jpg")
    assert found.exit_code == 0, found.output
    assert Path("strips.jpg").stat().st_size > 10_000
    text = Path("run.html").read_text()
    assert "U-Net on the true frame 22" in text and "late <small>" in text
    assert "segmenter" in text and "torch" in text
    strips = text.count("<article")
    assert strips == text.count("probability, truth<") and text.count("data:image/png") == 6 * strips
    remembered = json.loads(Path("runs/quick/validation.json").read_text())["scores"]
    assert f"{remembered['ensemble']['jaccard']:.4f}" in text

    compared = call(report.main, "quick", "quick")
    assert compared.exit_code == 0 and f"| ensemble | {remembered['ensemble']['jaccard']:.4f} (" in compared.output
    assert "| together |" in compared.output
    assert_one_sentence(call(report.main, "other"), "other", "submit.py")
    copied = shutil.copytree(Path("runs/quick"), Path("runs/copied"))
    os.truncate(copied / "validation.json", 100)
    assert_one_sentence(call(report.main, "copied"), "copied/validation.json", "damaged", "validate.py --run copied")
    shutil.rmtree(copied)
    assert_one_sentence(call(report.main), "--readme")

    truth = trained.data / "hidden_truth.pt"
    for options, panels in (([], 3), (["--data", trained.data], 5)):
        found = run_validate(trained.submission, "--truth", truth, "--report", "file.html", *options)
        assert found.exit_code == 0, found.output
        text = Path("file.html").read_text()
        shown = text.count("<article")  # not videos without any object, predicted or true
        assert shown > 3 and text.count("data:image/png") == shown * panels


def test_readme_is_rewritten(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n{START}\n{END}\n")
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "ALL_RESULTS", tmp_path / "ALL.md")
    assert call(report.main, "--readme").exit_code == 0
    assert (tmp_path / "ALL.md").read_text() == ALL_RESULTS.read_text()
    assert readme.read_text().startswith(f"# Title\n{START}\n") and readme.read_text().count("\n") > 3
