"Options of the test run, and a fixture that several files need."
import pytest


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=100, help="damaged files to try of each kind in test_fuzz.py")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    "A cache of its own, and a hub at a port where nobody listens."
    from huggingface_hub import constants, file_download
    monkeypatch.setenv("MMAD_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for place in constants, file_download:   # older versions keep a copy of the name
        monkeypatch.setattr(place, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
