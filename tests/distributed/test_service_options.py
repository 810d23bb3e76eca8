"""What of the settings Ray Serve is told, and what is refused before any cluster is joined."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec
import pytest

from secondpass.cli import main
from secondpass.config import Config
from secondpass.distributed.service import deployment_options


def settings(text: str) -> Config:
    return msgspec.toml.decode(text, type=Config)


def test_a_number_of_replicas_or_a_range() -> None:
    plain = deployment_options(settings("[serve]\nrequests = 9\ndrain = 7\n[ray]\ncpus = 2.5\nqueued = 3\n"))
    assert plain["num_replicas"] == 1
    assert plain["ray_actor_options"] == {"num_cpus": 2.5}
    assert (plain["max_ongoing_requests"], plain["max_queued_requests"]) == (9, 3)
    assert plain["graceful_shutdown_timeout_s"] == 7
    text = "[ray]\nreplicas = [2, 5]\nongoing = 4\nscale_up_after = 1\nscale_down_after = 0\n"
    scaled = deployment_options(settings(text))
    assert "num_replicas" not in scaled
    assert scaled["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 5,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 1,
        "downscale_delay_s": 0,
    }


def test_what_cannot_be_served_is_told_at_once(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's modules, while they are imported
        pytest.importorskip("ray.serve", reason="needs the extra ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "secondpass.toml").write_text(f'[[stages]]\nmodel = "{tiny}"\n[ray]\naddress = "127.0.0.1:1"\n')
    for arguments, says in [
        (["--port", "0"], "serve.port is 0; with --ray name one"),
        (["--model", "nowhere"], "model 'nowhere': no such folder"),
        ([], "no Ray cluster answers at 127.0.0.1:1 ("),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--ray", *arguments])
        assert ended.value.code == 1
        assert says in capsys.readouterr().err
