"""Published formats of weights, downloads and the cache: real files, a real server."""

import functools
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading

import pytest
import torch
from safetensors import safe_open

from rlhive.core.errors import LoadError
from rlhive.core.files import file_sha256
from rlhive.policy_fn import encoder_weights, r3m
from rlhive.policy_fn.r3m import R3M, load_r3m
from rlhive.policy_fn.resnet import fold
from tests.policy_fn.resnets import r3m_module, torchvision_resnet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def r3m_file(tmp_path):
    """As the authors publish theirs."""
    state = {**r3m_module(18).state_dict(), "module.lang_enc.model.weight": torch.zeros(3)}
    torch.save({"r3m": state, "global_step": 7}, tmp_path / "r3m_18.pt")
    return tmp_path / "r3m_18.pt"


@pytest.fixture
def torchvision_file(tmp_path):
    """As torchvision publishes its, with a head."""
    state = {
        **torchvision_resnet(18).state_dict(),
        "fc.weight": torch.zeros(9, 512),
        "fc.bias": torch.zeros(9),
    }
    torch.save(state, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_both_published_formats_and_the_module_are_the_same_weights(r3m_file, torchvision_file, tmp_path):
    expected = encoder_weights.module_weights(torchvision_resnet(18))
    sha256 = encoder_weights.weights_sha256(expected)
    for path in (r3m_file, torchvision_file):
        params = encoder_weights.load_weights(path)
        assert (params == expected).all() and encoder_weights.weights_sha256(params) == sha256
    assert encoder_weights.write_weights(tmp_path / "out.safetensors", expected, "a test") == sha256
    again = encoder_weights.load_weights(tmp_path / "out.safetensors")
    assert list(again.keys()) == list(expected.keys()) and (again == expected).all()
    again["conv1", "weight"][0, 0, 0, 0] += 1.0
    assert encoder_weights.weights_sha256(again) != sha256
    assert encoder_weights.depth_of(again) == 18


def test_the_command_converts_a_file_that_the_name_then_finds(r3m_file, cache):
    target = cache / "encoders" / "r3m18.safetensors"
    command = [sys.executable, "-m", "rlhive.policy_fn.r3m", "convert", str(r3m_file), str(target)]
    output = subprocess.check_output(command, text=True)
    encoder = load_r3m("r3m18")
    assert encoder.weights in output and "ResNet-18" in output
    assert (encoder.init(torch.Generator()) == fold(encoder_weights.load_weights(r3m_file))).all()
    with safe_open(target, framework="pt") as file:
        assert file.metadata()["sha256"] == encoder.weights
        assert file_sha256(r3m_file) in file.metadata()["source"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert"], "usage: python -m rlhive.policy_fn.r3m convert IN OUT"),
        (["convert", "missing.pt", "out.safetensors"], "missing.pt: there is no such file"),
        (["convert", "missing.pt", "out.pt"], "out.pt: the name of what is written must end in .safetensors"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as refused:
        r3m.main(["r3m.py", *arguments])
    assert str(refused.value) == message


def test_given_weights_are_kept_for_those_who_have_only_their_hash(r3m_file):
    encoder = load_r3m("r3m18", weights=str(r3m_file))
    r3m_file.unlink()
    params = R3M("r3m18", encoder.weights, frozen=False).init(torch.Generator())
    assert (params == encoder_weights.module_weights(torchvision_resnet(18))).all()


def test_a_pickle_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"r3m": Attack()}, tmp_path / "attack.pt")
    with pytest.raises(LoadError, match="cannot be read as plain tensors") as refused:
        encoder_weights.load_weights(tmp_path / "attack.pt")
    assert "\n" not in str(refused.value) and not (tmp_path / "ran").exists()


def test_other_files_are_refused_in_one_line(tmp_path, r3m_file):
    path = tmp_path / "weights.pt"
    for content, message in (
        ({"r3m": 3}, "neither a checkpoint of R3M nor a state_dict"),
        (torch.zeros(3), "neither a checkpoint of R3M nor a state_dict"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "keys do not fit: missing"),
        ({**torchvision_resnet(18).state_dict(), "conv1.weight": torch.zeros(1)}, "conv1/weight has shape"),
        ({**torchvision_resnet(18).state_dict(), "bn1.bias": torch.full((64,), torch.nan)}, "not finite"),
    ):
        torch.save(content, path)
        with pytest.raises(LoadError, match=message):
            encoder_weights.load_weights(path)
    path.write_bytes(r3m_file.read_bytes()[:1000])
    with pytest.raises(LoadError, match="cannot be read"):
        encoder_weights.load_weights(path)


def test_a_damaged_file_in_the_cache_is_not_taken_for_the_weights(r3m_file, cache):
    encoder = load_r3m("r3m18", weights=str(r3m_file))
    (kept,) = (cache / "encoders").glob("*.safetensors")
    other = encoder_weights.load_weights(kept)
    other["bn1", "bias"][0] += 1.0
    encoder_weights.write_weights(kept, other, "a test")
    with pytest.raises(LoadError, match=encoder.weights):
        encoder.init(torch.Generator())


@pytest.mark.parametrize("length", [0, 1000])
def test_a_damaged_file_in_the_cache_is_mended_when_the_weights_are_given_again(r3m_file, cache, length):
    encoder = load_r3m("r3m18", weights=str(r3m_file))
    (kept,) = (cache / "encoders").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:length])
    with pytest.raises(
        LoadError, match=f"{kept} is damaged: delete it, and run .* convert FILE {kept}$"
    ) as no:
        encoder.init(torch.Generator())
    assert "\n" not in str(no.value)
    load_r3m("r3m18", weights=str(r3m_file))
    assert encoder_weights.weights_sha256(encoder_weights.load_weights(kept)) == encoder.weights


def test_a_damaged_file_in_the_cache_does_not_stand_in_the_way_of_a_whole_one(r3m_file, cache):
    encoder = load_r3m("r3m18", weights=str(r3m_file))
    (kept,) = (cache / "encoders").glob("*.safetensors")
    kept.rename(kept.with_name("r3m18.safetensors"))
    kept.write_bytes(b"")
    encoder.init(torch.Generator())


def test_damaged_published_weights_are_named_with_what_to_do(cache):
    target = cache / "encoders" / "r3m18.safetensors"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    with pytest.raises(
        LoadError,
        match=rf"{target}: is not a safetensors file .*; delete it, and download .* convert FILE {target}$",
    ):
        load_r3m("r3m18")


@pytest.mark.parametrize("path", ["", "."])
def test_what_is_no_file_of_weights_is_said_to_be_none(path):
    with pytest.raises(LoadError, match=f"weights='{path}': must be 'published', 'random' or a file"):
        load_r3m("r3m18", weights=path)


@pytest.fixture
def server(tmp_path):
    """A web server of `tmp_path`; its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_download_counts_once_its_checksum_is_right(server, torchvision_file, tmp_path):
    target = tmp_path / "cache" / "file.pth"
    published = encoder_weights.Published(f"{server}/{torchvision_file.name}", file_sha256(torchvision_file))
    with pytest.raises(LoadError, match=f"has sha256 {published.sha256}, expected 00"):
        encoder_weights.download(encoder_weights.Published(published.url, "00"), target)
    assert not any(target.parent.iterdir())
    encoder_weights.download(published, target)
    assert target.read_bytes() == torchvision_file.read_bytes()


def test_a_connection_that_breaks_is_named_and_not_the_local_file(tmp_path):
    class Breaking(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            # Closed like this, the connection is reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    with http.server.HTTPServer(("127.0.0.1", 0), Breaking) as httpd:
        url = f"http://127.0.0.1:{httpd.server_port}/file.pth"
        thread = threading.Thread(target=httpd.handle_request)
        thread.start()
        with pytest.raises(OSError, match=f"^{url}: .*reset by peer$"):
            encoder_weights.download(encoder_weights.Published(url, "00"), tmp_path / "file.pth")
        thread.join()
    assert not any(tmp_path.iterdir())


def test_published_weights_are_downloaded_and_converted_once(server, torchvision_file, monkeypatch, cache):
    published = encoder_weights.Published(f"{server}/{torchvision_file.name}", file_sha256(torchvision_file))
    monkeypatch.setitem(encoder_weights.SOURCES, "rrl18", published)
    encoder = load_r3m("rrl18")
    assert [path.name for path in (cache / "encoders").iterdir()] == ["rrl18.safetensors"]
    torchvision_file.unlink()
    assert load_r3m("rrl18") == encoder
    encoder.init(torch.Generator())


def test_no_network_is_one_line_that_says_where_to_put_the_file(monkeypatch, cache):
    monkeypatch.setitem(
        encoder_weights.SOURCES, "rrl18", encoder_weights.Published("http://127.0.0.1:9/resnet18.pth", "00")
    )
    with pytest.raises(
        LoadError, match=r"rrl18: cannot be downloaded .* convert FILE .*rrl18\.safetensors"
    ) as no:
        load_r3m("rrl18")
    assert "\n" not in str(no.value)
