"""Files of torch.save(), read without torch."""

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "fixtures" / "torch_file"
sys.path.append(str(FOLDER))

from make_torch_files import BFLOAT16, VALUES  # noqa: E402

from llama_dflash.convert.checkpoint import as_float32  # noqa: E402
from llama_dflash.convert.torch_file import read_torch_file  # noqa: E402


@pytest.fixture(scope="module")
def sources():
    return read_torch_file(FOLDER / "pytorch_model.bin")


def test_tensors_are_those_that_torch_saved(sources):
    for name, values in VALUES.items():
        found = sources[name].read()
        assert found.shape == values.shape and found.dtype == values.dtype and (found == values).all()
    for name, values in BFLOAT16.items():
        assert (as_float32(sources[name].read(), sources[name].dtype) == values).all()


def test_tensors_may_share_a_storage(sources):
    assert sources["first"].read().tolist() == [0, 1, 2, 3]
    assert sources["second"].read().tolist() == [[4, 5, 6], [7, 8, 9]]
    assert (sources["second"].rows(np.array([1])) == [[7, 8, 9]]).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("turned.bin", "a tensor of shape [3, 2] has its values in another order"),
        ("module.bin", "it asks for torch.nn.modules.linear.Linear, which no tensor consists of"),
    ],
)
def test_a_file_of_something_else(name, message):
    with pytest.raises(ValueError) as error:
        read_torch_file(FOLDER / name)
    assert message in str(error.value) and "Fetch it again, or save it as safetensors" in str(error.value)


def test_no_damage_is_any_other_exception(tmp_path):
    whole = (FOLDER / "pytorch_model.bin").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "pytorch_model.bin"
    for i in range(300):
        damaged = bytearray(whole[: rng.integers(len(whole))] if i % 3 == 0 else whole)
        for at in rng.integers(max(len(damaged), 1), size=3):
            if damaged:
                damaged[at] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            for source in read_torch_file(path).values():
                source.read()
        except ValueError:
            pass
