"""Settings: good ones are read, bad ones are all named at once with their fix."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from placement.errors import ConfigError
from scheduler.settings import Settings, read_settings
from scheduler.settings_toml import settings_to_toml


def write(folder: Path, text: str, name: str = "ullage.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    toml = write(tmp_path, 'mode = "score"\n[http]\nport = 9000\nidle_timeout_s = 200\n')
    yaml = write(tmp_path, "mode: score\nhttp: {port: 9000, idle_timeout_s: 200}\n", "ullage.yaml")
    assert read_settings(toml) == read_settings(yaml)
    assert read_settings(toml).http.idle_timeout_s == 200


def test_an_option_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, 'strategy = "first-fit"\n[http]\nport = 9000\n')
    settings = read_settings(path, {"http.port": 0})
    assert (settings.strategy, settings.http.port, settings.mode) == ("first-fit", 0, "shadow")


@pytest.mark.parametrize("text", ["http:\n", "http: 5\n"])
def test_an_option_of_a_section_that_is_no_table_is_wrong_as_the_section_is(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"1 to mend:\n  - http = (None|5): must be a table"):
        read_settings(write(tmp_path, text, "ullage.yaml"), {"http.port": 1})


def test_nothing_given_is_the_careful_default() -> None:
    assert read_settings(None) == Settings()
    assert Settings().mode == "shadow"
    assert Settings().http.idle_timeout_s > 90


def test_a_file_that_does_not_parse_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(write(tmp_path, '[http]\nport = "1"\n', "ullage.yaml"))
    assert str(caught.value).endswith("does not parse: line 2: expected '<document start>', but found '<scalar>'")


def test_every_problem_is_named_with_path_value_rule_and_fix(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'mode = "decid"\nstratgy = "x"\nignored_wishes = ["hope"]\n'
        '[http]\nport = 99999\ndeadline_ms = "fast"\ntls_key = "/no/k"\n[grpc]\nclient_ca = "c"\n'
        "[lease]\nrenew_s = true\nduration_s = 2\n[kube]\npage_sze = 1\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    text = str(caught.value)
    for part in (
        "mode = 'decid': must be one of off, shadow, score, decide",
        "stratgy = 'x': no such setting; did you mean strategy?",
        "http.port = 99999: must be at most 65535",
        "http.deadline_ms = 'fast': must be a float",
        "lease.renew_s = True",
        "kube.page_sze = 1: no such setting; did you mean kube.page_size?",
        "http.tls_cert = '', http.tls_key = '/no/k': one is set without the other; give both",
        "http.tls_key = '/no/k': no such file; mount",
        "grpc.client_ca = 'c': set without grpc.tls_cert",
        "grpc.client_ca = 'c': no such file",
        "ignored_wishes has 'hope'",
    ):
        assert part in text
    assert "11 to mend" in text
    assert "at most a third" not in text, "what contradicts a value that is wrong itself would mislead"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[http]\ntls_cert = "c"\n', "one is set without the other"),
        ('[http]\nclient_ca = "c"\n', "set without http.tls_cert"),
        ('[http]\ntls_cert = "/no/c"\ntls_key = "/no/k"\n', "no such file"),
        ("[lease]\nrenew_s = 10\n", "at most a third"),
        (
            "[kube]\nbind_timeout_s = 2.6\n[lease]\nenabled = true\n",
            r"kube.bind_timeout_s = 2.6: must be at most a sixth of lease.duration_s \(15\), or a Binding could outlive",
        ),
        ("assume_timeout_s = 4\n", r"assume_timeout_s = 4: must be at least twice kube.bind_timeout_s \(2.5\)"),
        ('ignored_wishes = ["hope"]\n', "ignored_wishes has 'hope'"),
        ('strategy = "prised"\n', "strategy = 'prised': unknown strategy 'prised'; did you mean 'priced'"),
        ('fallback_strategy = "/no/own.toml"\n', "cannot be read"),
        ('knowledge = "/no/workload"\n', "knowledge = '/no/workload': no such file"),
        ('[usage]\nprometheus_ca = "/no/ca"\n', "usage.prometheus_ca = '/no/ca': no such file"),
        ("[usage]\nfresh_s = 10\nstale_s = 5\n", "must be above usage.fresh_s"),
        ('[plan]\napplies = true\n[grpc]\nport = 0\nhost = "0.0.0.0"\n', "callers without a certificate"),
        ("http = 3\n", r"must be a table; write \[http\]"),
        ("mode = \n", "does not parse"),
        ("[secret]\npassword = 'x'\n", "secret = …: no such setting"),
        (
            "apiVersion = 'kubescheduler.config.k8s.io/v1'\nkind = 'KubeSchedulerConfiguration'\nextenders = []\n",
            "holds a KubeSchedulerConfiguration, not settings of `ullage serve`; .* for `ullage doctor --config`$",
        ),
    ],
)
def test_contradictions_are_named(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        read_settings(write(tmp_path, text))


def test_no_setting_may_be_nan(tmp_path: Path) -> None:
    """Whatever is compared with it is false: time that is never over, and a lead that is never had."""
    sections = {"": Settings(), **{f.name: f.default for f in fields(Settings) if is_dataclass(f.default)}}
    numbers = {
        f"{name}.{f.name}".strip("."): section
        for name, section in sections.items()
        for f in fields(section)
        if isinstance(f.default, int | float) and not isinstance(f.default, bool)
    }
    assert len(numbers) > 40
    for key in numbers:
        with pytest.raises(ConfigError, match=rf"{key} = nan: must be"):
            read_settings(write(tmp_path, f"{key} = nan\n"))


@pytest.mark.parametrize("address", ["http://me:secret@prometheus:9090", "me:secret@prometheus:9090/x"])
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path, address: str) -> None:
    """Settings are part of a bundle, and addresses of what the log says."""
    with pytest.raises(ConfigError, match=r"usage\.prometheus: names a user") as caught:
        read_settings(write(tmp_path, f'[usage]\nprometheus = "{address}"\n'))
    assert "secret" not in str(caught.value)


def test_who_is_alone_may_wait_for_a_binding_as_long_as_he_likes(tmp_path: Path) -> None:
    assert read_settings(write(tmp_path, "[kube]\nbind_timeout_s = 30\n")).kube.bind_timeout_s == 30


def test_a_missing_file_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings("/nowhere/ullage.toml")


def test_every_default_keeps_its_own_rule() -> None:
    def check(section: object) -> None:
        for field in fields(section):  # type: ignore[arg-type]  # a dataclass
            value = getattr(section, field.name)
            if hasattr(value, "__dataclass_fields__"):
                check(value)
            elif "rule" in field.metadata:
                assert field.metadata["rule"].broken(value) == "", field.name

    check(Settings())


def test_what_is_printed_says_what_each_setting_means_and_is_read_back(tmp_path: Path) -> None:
    chosen = read_settings(
        None, {"mode": "score", "ignored_wishes": ["node-affinity"], "usage.prometheus": "http://p:9090/ü\x7f"}
    )
    text = settings_to_toml(chosen)
    assert read_settings(write(tmp_path, text)) == chosen
    elsewhere = write(tmp_path, '[http]\ntls_cert = "/not/here"\n', "pod.toml")
    assert 'tls_cert = "/not/here"' in settings_to_toml(read_settings(elsewhere, here=False))
    assert (
        '# Shadow changes nothing: the right way to begin. One of off, shadow, score, decide.\nmode = "score"' in text
    )
    bare = [after for before, after in pairwise(text.splitlines()) if " = " in after and not before.startswith("#")]
    assert [line for line in bare if not line.startswith("#")] == []
