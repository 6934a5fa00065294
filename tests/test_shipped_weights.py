"""The weights that come with the code: where they are, that they are what their name says, and what is said without them."""

from pathlib import Path

import pytest

import model.weights
from model.training.network_file import family_of, load_model
from model.weights import SHIPPED, default_weights
from pipeline.errors import UsageError


@pytest.mark.parametrize("family", SHIPPED)
def test_shipped_weights_load_as_their_family(family: str):
    try:
        path = default_weights(family)
    except UsageError as error:
        pytest.skip(str(error))
    assert family_of(path) == family
    assert load_model(path).step > 0
    assert path.stat().st_size < 8e6, "a file that everybody clones"
    assert path.with_suffix(".md").is_file(), "weights have a model card"


def test_a_copy_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.weights, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UsageError, match=r"bokehflow_nano\.safetensors is missing.*--checkpoint"):
        default_weights("bokehflow")
    (tmp_path / SHIPPED["bokehflow"]).write_bytes(b"")
    assert default_weights("bokehflow") == tmp_path / SHIPPED["bokehflow"]


def test_a_family_without_weights_names_those_that_have_some():
    with pytest.raises(UsageError, match="'lift', only for bokehflow, focusmamba"):
        default_weights("lift")
