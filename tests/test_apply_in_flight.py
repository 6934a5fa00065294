"""Pictures between host and device: the same levels as anywhere else, in order, one frame behind."""

import numpy as np
import pytest
import torch

from model.video.in_flight import leave, one_behind
from pipeline.media.convert import image_to_tensor, tensor_to_deep, tensor_to_image


def test_a_frame_is_asked_for_when_the_next_one_has_been_started():
    happened = []

    def started():
        for number in range(3):
            happened.append(f"start {number}")
            yield lambda number=number: happened.append(f"finish {number}") or number

    assert list(one_behind(started())) == [0, 1, 2]
    assert happened == ["start 0", "start 1", "finish 0", "start 2", "finish 1", "finish 2"]
    assert list(one_behind([])) == []


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_go_up_and_come_back(dtype: type, device: str):
    most = np.iinfo(dtype).max
    picture = np.linspace(0, most, 32 * 48 * 3).round().astype(dtype).reshape(32, 48, 3)
    image = image_to_tensor(picture, device)
    assert torch.equal(image.cpu(), image_to_tensor(picture))
    wide = image * 1.3 - 0.1  # some of it outside
    found = leave(wide, picture)()
    expected = tensor_to_image(wide) if dtype == np.uint8 else tensor_to_deep(wide)
    assert found.dtype == dtype and np.array_equal(found, expected)
    assert np.array_equal(found, np.rint(np.clip(wide.cpu().permute(1, 2, 0).numpy(), 0, 1) * np.float32(most)))
    assert np.array_equal(leave(image, picture)(), picture)
