"""Files that are damaged, truncated or random: one line that names the file, never another exception."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from src import trainer
from src.checkpoints.checkpoint import load_weights, read_checkpoint, restore
from src.checkpoints.run import check_clips, find_checkpoint
from src.config import Config
from src.data_provider.clips import read_picture
from src.data_provider.mnist import MovingMNIST
from src.data_provider.videos import count_frames, frames_of
from src.errors import UserError
from src.models.model_factory import build_model
from src.reports.saved_clips import read_clip
from src.utils.optimizer import build_optimizer, build_schedule
from tests.conftest import assert_same_weights, settings_for, weights_of
from tests.helpers import ROOT, write_video

MANY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def damaged(draw, content):
    """The bytes with a few of them changed, a part cut out or doubled, the end cut off; or random ones."""
    way = draw(st.sampled_from(["change", "cut", "remove", "double", "random"]))
    if way == "random":
        return draw(st.binary(max_size=200))
    data = bytearray(content)
    start = draw(st.integers(0, len(data) - 1))
    end = min(len(data), start + draw(st.integers(1, 64)))
    if way == "change":
        for _ in range(draw(st.integers(1, 8))):
            # Headers are short and at one of the ends: change them as often as the rest.
            place = draw(st.one_of(st.integers(0, min(300, len(data) - 1)), st.integers(0, len(data) - 1)))
            data[place] = draw(st.integers(0, 255))
    elif way == "cut":
        del data[start:]
    elif way == "remove":
        del data[start:end]
    else:
        data[start:start] = data[start:end]
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


class Contents(dict):
    def __repr__(self):  # hypothesis prints it
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def checkpoint(kth_sample, tmp_path_factory):
    """A checkpoint of Adam as bytes, and a folder to put damaged ones in."""
    folder = tmp_path_factory.mktemp("damaged")
    config = settings_for(kth_sample, folder, max_iterations=1, test_interval=1, optimizer="adam")
    trainer.train(config)
    path = folder / "ck" / "1"
    return config, path, Contents({name: (path / name).read_bytes() for name in sorted(os.listdir(path))})


def only_user_errors(read):
    try:
        return read()
    except UserError as error:
        assert "\n" not in str(error)
        return None


def use_everything(config, path):
    """All that a start from a checkpoint does: a resume and a start from its weights."""
    resume = Config(**{**vars(config), "resume": "newest", "max_iterations": 2})
    model = build_model(config)
    found = only_user_errors(lambda: find_checkpoint(resume))
    if found is not None:
        optimizer = build_optimizer(config, build_schedule(config), model.parameters())
        only_user_errors(lambda: restore(found, model, optimizer))
        only_user_errors(lambda: check_clips(found, 18))
    only_user_errors(lambda: load_weights(model, str(path), config))


def put(path, contents):
    for extra in path.parent.glob("1.damaged*"):
        for file in extra.iterdir():
            file.unlink()
        extra.rmdir()
    path.mkdir(exist_ok=True)
    for name, content in contents.items():
        (path / name).write_bytes(content)


@MANY
@given(data=st.data())
def test_damaged_tensors_with_or_without_a_fitting_checksum(checkpoint, data):
    config, path, contents = checkpoint
    name = data.draw(st.sampled_from(["model.safetensors", "optimizer.safetensors"]))
    content = data.draw(damaged(contents[name]))
    state = json.loads(contents["state.json"])
    if data.draw(st.booleans()):  # as one who means harm would leave it
        state["sha256"][name] = hashlib.sha256(content).hexdigest()
    put(path, {**contents, name: content, "state.json": json.dumps(state).encode()})
    use_everything(config, path)


@MANY
@given(data=st.data())
def test_a_damaged_state(checkpoint, data):
    config, path, contents = checkpoint
    put(path, {**contents, "state.json": data.draw(damaged(contents["state.json"]))})
    use_everything(config, path)


@MANY
@given(key=st.sampled_from(["iteration", "config", "best", "tested", "train_clips", "sha256", "versions"]), value=JSON)
def test_a_state_with_any_json_for_one_of_its_values(checkpoint, key, value):
    config, path, contents = checkpoint
    state = {**json.loads(contents["state.json"]), key: value}
    put(path, {**contents, "state.json": json.dumps(state).encode()})
    use_everything(config, path)


@MANY
@given(flag=st.sampled_from(["num_hidden", "img_width", "lr", "keep_checkpoints", "resume", "unknown"]), value=JSON)
def test_a_state_with_any_json_for_one_of_its_flags(checkpoint, flag, value):
    config, path, contents = checkpoint
    state = json.loads(contents["state.json"])
    state["config"][flag] = value
    put(path, {**contents, "state.json": json.dumps(state).encode()})
    use_everything(config, path)


@MANY
@given(
    shape=st.lists(st.integers(0, 2**40), max_size=5),
    kind=st.sampled_from(["F32", "F64", "BF16", "I8", "X"]),
    offsets=st.lists(st.integers(0, 2**62), min_size=2, max_size=2),
)
def test_a_safetensors_header_that_lies(checkpoint, shape, kind, offsets):
    config, path, contents = checkpoint
    header = json.dumps({"decoder.bias": {"dtype": kind, "shape": shape, "data_offsets": offsets}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(64)
    put(path, {"model.safetensors": content})
    (path / "state.json").unlink(missing_ok=True)
    only_user_errors(lambda: load_weights(build_model(config), str(path), config))


def test_the_checkpoint_of_these_tests_is_good_when_it_is_not_damaged(checkpoint):
    config, path, contents = checkpoint
    put(path, contents)
    assert read_checkpoint("", str(path)).optimizer
    load_weights(build_model(config), str(path), config)


def put_changed(path, contents, state=None, **tensors):
    """Write the checkpoint with other tensors (None: left out), checksums that fit, and a state changed as text."""
    changed = dict(contents)
    for key, array in tensors.items():
        name, accumulator = ("model.safetensors", key) if ":" not in key else ("optimizer.safetensors", key)
        arrays = from_bytes(changed[name])
        arrays.pop(accumulator)
        changed[name] = to_bytes({**arrays, **({} if array is None else {accumulator: array})})
    record = json.loads(contents["state.json"])
    record["sha256"] = {name: hashlib.sha256(changed[name]).hexdigest() for name in record["sha256"]}
    state = state or {}
    text = json.dumps({**record, **{key: f"<{key}>" for key in state}})
    for key, value in state.items():
        text = text.replace(f'"<{key}>"', value)
    put(path, {**changed, "state.json": text.encode()})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"decoder.bias:moment1_0": None}, "decoder.bias:moment1_0 is missing, expected float32 [16]"),
        ({"decoder.bias:moment2_0": np.zeros([3], np.float32)}, "decoder.bias:moment2_0 is float32 [3], expected"),
        ({"decoder.bias:moment2_0": np.zeros([16], np.int32)}, "decoder.bias:moment2_0 is int32 [16], expected"),
        ({"decoder.bias:beta1_pow_acc_0": np.zeros([16], np.float32)}, "beta1_pow_acc_0 is float32 [16], expected"),
        ({"decoder.bias": np.full([16], np.nan, np.float32)}, "decoder.bias is not finite, so it cannot be continued"),
    ],
)
def test_tensors_that_cannot_be_continued_are_refused_in_one_line(checkpoint, tensors, message):
    config, path, contents = checkpoint
    put_changed(path, contents, **tensors)
    model = build_model(config)
    before = weights_of(model)
    with pytest.raises(UserError) as caught:
        found = read_checkpoint(f"--resume {path}", str(path))
        restore(found, model, build_optimizer(config, build_schedule(config), model.parameters()))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "give another checkpoint" in str(caught.value)
    assert_same_weights(before, weights_of(model))


def test_an_optimizer_without_state_is_refused_but_not_where_float16_has_skipped_every_step(checkpoint):
    config, path, contents = checkpoint
    put(path, contents)
    found = read_checkpoint("", str(path))._replace(optimizer={})
    model = build_model(config)
    optimizer = build_optimizer(config, build_schedule(config), model.parameters())
    with pytest.raises(UserError, match="is missing, expected float32"):
        restore(found, model, optimizer)
    for skipped, iteration in (1, 2), (2, 2):
        found.state.update(iteration=iteration, loss_scale={"skipped": skipped})
        if skipped < iteration:
            with pytest.raises(UserError, match="is missing, expected float32"):
                restore(found, model, optimizer)
        else:
            restore(found, model, optimizer)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("best", '{"iteration": 1, "psnr": NaN}'),
        ("best", '{"iteration": 1, "psnr": 1e999}'),
        ("best", '{"iteration": 1, "psnr": 20.0, "ssim": -Infinity}'),
        ("best", '{"iteration": 1}'),
        ("best", '{"iteration": 1, "psnr": 20.0, "clips": "nine"}'),
        ("train_clips", "1" + "0" * 400),
        ("config", '{"num_hidden": ' + "[" * 900 + "]" * 900 + "}"),
        ("versions", '{"paddle": ' + "[" * 900 + "]" * 900 + "}"),
    ],
)
def test_a_state_that_cannot_be_is_refused_in_one_line(checkpoint, key, text):
    config, path, contents = checkpoint
    put_changed(path, contents, state={key: text})
    with pytest.raises(UserError, match="state.json is damaged .*; give another checkpoint") as caught:
        read_checkpoint("--resume", str(path))
    assert len(str(caught.value)) < 200


def test_flags_in_a_state_that_is_nested_deeply_are_left_to_the_reading_of_its_weights(checkpoint):
    config, path, contents = checkpoint
    for depth in range(900, 1000):
        put_changed(path, contents, state={"config": '{"num_hidden": ' + "[" * depth + "]" * depth + "}"})
        forecast = ["--predict_video", "film", "--pretrained_model", str(path)]
        assert Config.from_command_line(forecast).num_hidden == "64,64,64,64"


def picture(suffix):
    image = np.random.default_rng(0).integers(0, 256, [24, 32, 3], dtype=np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


@MANY
@given(data=st.data())
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_damaged_pictures(tmp_path, suffix, data):
    path = tmp_path / f"image_0001{suffix}"
    path.write_bytes(data.draw(damaged(picture(suffix))))
    found = only_user_errors(lambda: read_picture(str(path)))
    if found is not None:
        assert found.dtype == np.float32 and found.ndim == 2 and 0 <= found.min() and found.max() <= 255


def moving_mnist(compressed):
    clips = np.array([[[0, 2], [4, 2]], [[2, 2], [6, 2]]], dtype=np.int32)
    frames = np.random.default_rng(0).random([8, 1, 16, 16], np.float32)
    file = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(file, clips=clips, dims=np.array([[1, 16, 16]]), input_raw_data=frames)
    return file.getvalue()


def read_all(path):
    dataset = MovingMNIST([str(path)], 4, 16)
    return [dataset[index] for index in range(len(dataset))]


@MANY
@given(data=st.data())
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz(tmp_path, compressed, data):
    path = tmp_path / "data.npz"
    path.write_bytes(data.draw(damaged(moving_mnist(compressed))))
    only_user_errors(lambda: read_all(path))


@pytest.mark.filterwarnings("ignore:invalid value")  # damaged numbers are numbers
@MANY
@given(data=st.data())
@pytest.mark.parametrize("name", ["clips", "input_raw_data"])
def test_npz_with_a_damaged_array_inside(tmp_path, name, data):
    """The zip file is in order: its checksums do not catch what is inside."""
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(io.BytesIO(moving_mnist(False))) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            target.writestr(member, data.draw(damaged(content)) if member == f"{name}.npy" else content)
    only_user_errors(lambda: read_all(path))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(gs) show\n%%EOF\n"


def test_no_picture_or_gif_starts_another_program(tmp_path, monkeypatch):
    """Pillow runs Ghostscript for EPS, whatever the file is called."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr("subprocess.check_call", lambda command, **more: started.append(command))
    folder = tmp_path / "1"
    folder.mkdir()
    for name in ("image_0001.png", "x.gif", "gt01.png", "pd02.png", "forecast.gif"):
        (folder / name).write_bytes(EPS)
    with pytest.raises(UserError, match="image_0001.png: not a picture that can be read"):
        read_picture(str(folder / "image_0001.png"))
    assert count_frames(str(folder / "x.gif")) == len(list(frames_of(str(folder / "x.gif")))) == 0
    assert read_clip(str(tmp_path), 1) is None
    assert not started


DECODE = """
import sys
from src.data_provider.clips import read_picture
from src.data_provider.videos import count_frames, frames_of
for path in sys.argv[1:]:
    try:
        if path.endswith(".png"):
            read_picture(path)
        else:
            print(count_frames(path), len(list(frames_of(path))))
    except ValueError as error:
        print(error)
"""


def test_decoders_print_nothing_of_a_damaged_film_or_picture(tmp_path):
    """The line that names the file would stand below theirs."""
    write_video(tmp_path / "noise_001.avi", 5)
    content = bytearray((tmp_path / "noise_001.avi").read_bytes())
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    content[600:5000:50] = b"\xa5" * len(content[600:5000:50])
    (tmp_path / "noise_001.avi").write_bytes(content)
    (tmp_path / "random.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    stream = io.BytesIO()
    Image.new("RGB", (40, 40)).save(stream, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\0\0\0\x01\0")
    (tmp_path / "exif.png").write_bytes(stream.getvalue()[:-100])
    (tmp_path / "large.png").write_bytes(cv2.imencode(".png", np.zeros([9500, 9500], np.uint8))[1].tobytes()[:-100])
    names = ("noise_001.avi", "cut.avi", "random.mp4", "exif.png", "large.png")
    command = [sys.executable, "-c", DECODE, *(str(tmp_path / name) for name in names)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(names) and "exif.png: cannot be read" in lines[3] and "large.png" in lines[4], lines


def npz_of(path, clips, write_frames):
    """Zeros take no room when they are deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("clips.npy", "w") as file:
            np.lib.format.write_array(file, np.array(clips, np.int64))
        with archive.open("input_raw_data.npy", "w") as file:
            write_frames(file)
    return str(path)


def peak_of(read):
    """Bytes that numpy and Python take while it runs, at most."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_npz_that_would_fill_the_memory_is_named_or_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("src.data_provider.npz_frames.WHOLE", 10**6)
    zeros = np.zeros([30000, 1, 32, 32], np.uint8)  # 31 MB
    two_parts = [[[0, 15000]], [[15000, 15000]]]

    def frames(file):
        np.lib.format.write_array(file, zeros)

    def in_fortran_order(file):
        np.lib.format.write_array(file, np.asfortranarray(zeros))

    def long_header(file):  # its length claims more than there is
        file.write(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + zeros.tobytes())

    def refused(path, part):
        with pytest.raises(UserError, match=part) as found:
            MovingMNIST([path], 6, 32)
        assert path in str(found.value) and "\n" not in str(found.value)

    whole, sideways, header, many = (
        npz_of(tmp_path / "a.npz", two_parts, frames),
        npz_of(tmp_path / "b.npz", two_parts, in_fortran_order),
        npz_of(tmp_path / "c.npz", two_parts, long_header),
        npz_of(tmp_path / "d.npz", np.zeros([2, 10**6, 2]), lambda file: np.lib.format.write_array(file, zeros[:20])),
    )
    assert peak_of(lambda: MovingMNIST([whole], 6, 32)[0]) < 8 * 2**20  # of a long clip the first frames alone
    assert peak_of(lambda: refused(sideways, "input_raw_data.npy would take 29 MB of memory; save it")) < 8 * 2**20
    assert peak_of(lambda: refused(header, "cannot be read as a Moving MNIST file")) < 8 * 2**20
    assert peak_of(lambda: refused(many, "1000000 clips of 20 frames")) < 8 * 2**20


@MANY
@given(data=st.data())
def test_damaged_npy(tmp_path, data):
    file = io.BytesIO()
    np.save(file, np.zeros([4, 2, 16, 16], dtype=np.uint8))
    path = tmp_path / "mnist_test_seq.npy"
    path.write_bytes(data.draw(damaged(file.getvalue())))
    only_user_errors(lambda: read_all(path))
