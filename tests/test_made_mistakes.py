"""Small inputs of other tools' users that went wrong, and what is right: read, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssldet_datasets.folder import Folder


@pytest.fixture
def cases(shared: Path) -> Path:
    """The inputs, which do not travel with the repository."""
    if not (shared / "cases").is_dir():
        pytest.skip("../shared/cases is not here")
    return shared / "cases"


def test_a_phone_video_is_upright(cases: Path) -> None:
    """160 x 120 as stored, with a display matrix of 90 degrees; its boxes reach down to 150."""
    videos = {video.id: video for video in Folder(cases / "rot").videos("test")}
    assert (videos["a"].width, videos["a"].height) == (120, 160)
