"""What the doctor looks at: kube-scheduler's configuration, manifests around it, and our own settings, read once.

A file may hold one KubeSchedulerConfiguration, or a whole rendered set of manifests (``kustomize build``, ``helm
template``): configurations inside ConfigMaps are found, and roles, bindings and workloads become facts too. Nothing
here judges; :mod:`scheduler.doctor.rules` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import yaml

from placement.errors import ConfigError, why, yaml_fault
from scheduler.settings import Settings, parse_settings, read_table

KIND = "KubeSchedulerConfiguration"
OUR_PATHS = ("/v1", "/v1/gpu")
"""Paths below which Ullage answers verbs: the stanza for all pods, and the one for GPU shares."""
SETTINGS_KEY = "ullage.yaml"
"""Key of our settings in a ConfigMap."""
DEFAULT_SCHEDULER = "default-scheduler"
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"^(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")

Table = dict[str, Any]


def duration_s(text: object) -> float | None:
    """Seconds of a Go duration (``300ms``, ``1m30s``), None if it is none."""
    if text in (0, "0"):
        return 0.0
    if not isinstance(text, str) or not _DURATION.match(text):
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))


def table_of(value: object) -> Table:
    """``value`` if it is a table, else an empty one: rules never fail on odd shapes."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class Stanza:
    """One entry of ``extenders``."""

    table: Table
    path: str
    """Where it stands, for findings."""
    index: int
    config: SchedulerConfig = field(repr=False)

    def get(self, key: str, default: Any = None) -> Any:
        """A field as written."""
        return self.table.get(key, default)

    @property
    def url(self) -> SplitResult:
        """``urlPrefix``, taken apart."""
        try:
            return urlsplit(str(self.get("urlPrefix") or ""))
        except ValueError:
            return urlsplit("")

    @property
    def is_ours(self) -> bool:
        """Whether it names Ullage: by host or by path."""
        return "ullage" in (self.url.hostname or "") or self.url.path.rstrip("/") in OUR_PATHS

    @property
    def resources(self) -> list[str]:
        """Names in ``managedResources``; empty means every pod is sent."""
        return [str(table_of(entry).get("name", "")) for entry in list_of(self.get("managedResources"))]

    @property
    def is_for_all_pods(self) -> bool:
        """Whether every pod is sent to it."""
        return not self.resources

    @property
    def timeout_s(self) -> float | None:
        """``httpTimeout`` as kube-scheduler takes it (5 s when unset or 0), None if it does not parse."""
        given = duration_s(self.get("httpTimeout", 0))
        return given if given is None else given or 5.0

    @property
    def tls(self) -> Table:
        """``tlsConfig``."""
        return table_of(self.get("tlsConfig"))

    @property
    def has_ca(self) -> bool:
        """Whether the server's certificate is verified against a given authority."""
        return bool(self.tls.get("caFile") or self.tls.get("caData"))


@dataclass(frozen=True)
class SchedulerConfig:
    """One KubeSchedulerConfiguration and where it was found."""

    table: Table
    where: str = ""
    """Prefix of paths: the ConfigMap that carries it; empty for a plain file."""

    def path(self, key: str) -> str:
        """A key's path for findings."""
        return f"{self.where}{key}"

    @property
    def stanzas(self) -> tuple[Stanza, ...]:
        """Entries of ``extenders``."""
        entries = list_of(self.table.get("extenders"))
        return tuple(Stanza(table_of(e), self.path(f"extenders[{i}]"), i, self) for i, e in enumerate(entries))

    @property
    def profiles(self) -> tuple[Table, ...]:
        """Entries of ``profiles``; without any, kube-scheduler has one of defaults."""
        return tuple(table_of(profile) for profile in list_of(self.table.get("profiles")) or [{}])

    @property
    def names(self) -> tuple[str, ...]:
        """``schedulerName`` of each profile; kube-scheduler's own default where none is given."""
        return tuple(str(profile.get("schedulerName") or DEFAULT_SCHEDULER) for profile in self.profiles)

    @property
    def serves_default(self) -> bool:
        """Whether pods that name no scheduler are its own."""
        return DEFAULT_SCHEDULER in self.names


@dataclass(frozen=True)
class Facts:
    """Everything that offline rules may look at. Whatever is absent switches off the rules that need it."""

    configs: tuple[SchedulerConfig, ...] = ()
    settings: Settings | None = None
    setting_problems: tuple[str, ...] = ()
    """What is wrong in the settings' own terms."""
    kube_version: tuple[int, int] | None = None
    """(major, minor) of kube-scheduler."""
    objects: tuple[Table, ...] = ()
    """Every manifest of the file."""

    @property
    def stanzas(self) -> Iterator[Stanza]:
        """Entries of all configurations."""
        return (stanza for config in self.configs for stanza in config.stanzas)

    @property
    def ours(self) -> Iterator[Stanza]:
        """Entries that name Ullage."""
        return (stanza for stanza in self.stanzas if stanza.is_ours)

    def kind(self, *kinds: str) -> Iterator[Table]:
        """Manifests of these kinds."""
        return (o for o in self.objects if o.get("kind") in kinds)

    @property
    def our_deployments(self) -> Iterator[Table]:
        """Workloads that run ``ullage serve``."""
        return (o for o in self.kind("Deployment", "StatefulSet") if any(is_ullage(c) for c in containers(o)))

    @property
    def scheduler_deployments(self) -> Iterator[Table]:
        """Workloads and static pods that run kube-scheduler."""
        kinds = self.kind("Deployment", "StatefulSet", "DaemonSet", "Pod")
        return (o for o in kinds if any("kube-scheduler" in str(c.get("image", "")) for c in containers(o)))


def pod_spec(workload: Table) -> Table:
    """The pod spec of a Deployment (or of a Pod)."""
    spec = table_of(workload.get("spec"))
    return spec if workload.get("kind") == "Pod" else table_of(table_of(spec.get("template")).get("spec"))


def containers(workload: Table) -> list[Table]:
    """Containers of a workload."""
    return [table_of(c) for c in list_of(pod_spec(workload).get("containers"))]


def is_ullage(container: Table) -> bool:
    """Whether a container runs our server."""
    words = [str(w) for w in list_of(container.get("command")) + list_of(container.get("args"))]
    return "serve" in words and any("ullage" in text for text in (str(container.get("image", "")), *words))


def path_of(manifest: Table) -> str:
    """``Kind/name`` of a manifest."""
    return f"{manifest.get('kind', '?')}/{table_of(manifest.get('metadata')).get('name', '?')}"


def parse_version(text: str) -> tuple[int, int]:
    """(1, 36) from ``1.36``, ``v1.36.3`` or an image tag.

    Raises
    ------
    ConfigError : it is no version.
    """
    match = re.match(r"^v?(\d+)\.(\d+)", text.strip())
    if match is None:
        raise ConfigError(f"Kubernetes version {text!r} does not parse; write it like 1.36")
    return int(match[1]), int(match[2])


def read_facts(path: str | None, settings_path: str | None = None, kube_version: str = "") -> Facts:
    """Facts from a file of YAML or JSON documents and one of our settings; None reads none.

    Settings inside the manifests (a ConfigMap with a key ``ullage.yaml``) are used when none are given apart.

    Raises
    ------
    ConfigError : the file cannot be read or parsed, or holds nothing that the doctor knows.
    """
    documents = [] if path is None else _documents(Path(path))
    configs = tuple(c for document in documents for c in _configs(document))
    objects = tuple(d for d in documents if d.get("kind") and d.get("kind") != KIND)
    if path is not None and not configs and not objects:
        raise ConfigError(
            f"{path}: holds no {KIND} and no manifest; give kube-scheduler's --config file or rendered manifests, and our "
            "own settings with --settings"
        )
    version = parse_version(kube_version) if kube_version else _version_of(objects)
    table = _settings_in(objects) if settings_path is None else read_table(Path(settings_path))
    settings, problems = (None, []) if table is None else parse_settings(table)
    return Facts(configs, settings, tuple(problems), version, objects)


def _settings_in(objects: tuple[Table, ...]) -> Table | None:
    """Our settings inside a ConfigMap, None if there are none."""
    for config_map in Facts(objects=objects).kind("ConfigMap"):
        text = table_of(config_map.get("data")).get(SETTINGS_KEY)
        if text is not None:
            try:
                return table_of(yaml.safe_load(str(text)))
            except yaml.YAMLError as error:
                raise ConfigError(f"{path_of(config_map)}.{SETTINGS_KEY}: is not YAML: {yaml_fault(error)}") from error
    return None


def _documents(path: Path) -> list[Table]:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; render it first: kubectl kustomize {path}, or helm template")
    try:
        loaded = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({why(error)}); check the path and its rights") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: is not YAML: {yaml_fault(error)}; correct it") from error
    flat: list[Table] = []
    for document in loaded:
        inner = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
        flat += [d for d in list_of(inner) if isinstance(d, dict)]
    return flat


def _configs(document: Table) -> Iterator[SchedulerConfig]:
    """The configuration that a document is or carries."""
    if document.get("kind") in (KIND, "Policy"):
        yield SchedulerConfig(document)
    elif document.get("kind") == "ConfigMap":
        for key, text in table_of(document.get("data")).items():
            if KIND not in str(text):
                continue
            try:
                inner = yaml.safe_load(str(text))
            except yaml.YAMLError:
                inner = {"kind": KIND, "apiVersion": "(the text is not YAML)"}
            if table_of(inner).get("kind") == KIND:
                yield SchedulerConfig(inner, f"{path_of(document)}.{key}:")


def _version_of(objects: tuple[Table, ...]) -> tuple[int, int] | None:
    """kube-scheduler's version by its image tag, None if no manifest tells."""
    for workload in Facts(objects=objects).scheduler_deployments:
        for container in containers(workload):
            match = re.search(r"kube-scheduler:v?(\d+\.\d+)", str(container.get("image", "")))
            if match:
                return parse_version(match[1])
    return None
