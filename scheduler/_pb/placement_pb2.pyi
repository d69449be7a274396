import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PodQuestion(_message.Message):
    __slots__ = ("pod_json", "plain", "candidates")
    POD_JSON_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    pod_json: str
    plain: PlainPod
    candidates: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pod_json: _Optional[str] = ..., plain: _Optional[_Union[PlainPod, _Mapping]] = ..., candidates: _Optional[_Iterable[str]] = ...) -> None: ...

class PlainPod(_message.Message):
    __slots__ = ("namespace", "cpu_millicores", "memory_bytes", "extended", "gpu_count", "gpu_milli", "gpu_models", "node_selector")
    class ExtendedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class NodeSelectorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXTENDED_FIELD_NUMBER: _ClassVar[int]
    GPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    GPU_MILLI_FIELD_NUMBER: _ClassVar[int]
    GPU_MODELS_FIELD_NUMBER: _ClassVar[int]
    NODE_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    cpu_millicores: int
    memory_bytes: int
    extended: _containers.ScalarMap[str, int]
    gpu_count: int
    gpu_milli: int
    gpu_models: _containers.RepeatedScalarFieldContainer[str]
    node_selector: _containers.ScalarMap[str, str]
    def __init__(self, namespace: _Optional[str] = ..., cpu_millicores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., extended: _Optional[_Mapping[str, int]] = ..., gpu_count: _Optional[int] = ..., gpu_milli: _Optional[int] = ..., gpu_models: _Optional[_Iterable[str]] = ..., node_selector: _Optional[_Mapping[str, str]] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("question", "draw")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    question: PodQuestion
    draw: int
    def __init__(self, question: _Optional[_Union[PodQuestion, _Mapping]] = ..., draw: _Optional[int] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("node", "devices", "score", "version", "strategy", "strategy_digest", "knowledge_digest")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    node: str
    devices: _containers.RepeatedScalarFieldContainer[int]
    score: int
    version: int
    strategy: str
    strategy_digest: str
    knowledge_digest: str
    def __init__(self, node: _Optional[str] = ..., devices: _Optional[_Iterable[int]] = ..., score: _Optional[int] = ..., version: _Optional[int] = ..., strategy: _Optional[str] = ..., strategy_digest: _Optional[str] = ..., knowledge_digest: _Optional[str] = ...) -> None: ...

class DecideResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("question",)
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    question: PodQuestion
    def __init__(self, question: _Optional[_Union[PodQuestion, _Mapping]] = ...) -> None: ...

class NodeScore(_message.Message):
    __slots__ = ("node", "score", "priority")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    node: str
    score: int
    priority: int
    def __init__(self, node: _Optional[str] = ..., score: _Optional[int] = ..., priority: _Optional[int] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("nodes", "version")
    NODES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeScore]
    version: int
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeScore, _Mapping]]] = ..., version: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("question", "draw")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    question: PodQuestion
    draw: int
    def __init__(self, question: _Optional[_Union[PodQuestion, _Mapping]] = ..., draw: _Optional[int] = ...) -> None: ...

class ScoreParts(_message.Message):
    __slots__ = ("node", "score", "parts")
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    node: str
    score: int
    parts: _containers.ScalarMap[str, int]
    def __init__(self, node: _Optional[str] = ..., score: _Optional[int] = ..., parts: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("reason", "nodes")
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    reason: str
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reason: _Optional[str] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("decision", "runner_up", "top", "rejected")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    RUNNER_UP_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    runner_up: str
    top: _containers.RepeatedCompositeFieldContainer[ScoreParts]
    rejected: _containers.RepeatedCompositeFieldContainer[Rejected]
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., runner_up: _Optional[str] = ..., top: _Optional[_Iterable[_Union[ScoreParts, _Mapping]]] = ..., rejected: _Optional[_Iterable[_Union[Rejected, _Mapping]]] = ...) -> None: ...

class WatchDecisionsRequest(_message.Message):
    __slots__ = ("namespace",)
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    def __init__(self, namespace: _Optional[str] = ...) -> None: ...

class DecisionEvent(_message.Message):
    __slots__ = ("id", "asked", "pod_uid", "pod_name", "namespace", "verb", "mode", "outcome", "decision", "candidates", "duration_seconds", "missed")
    ID_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    id: str
    asked: _timestamp_pb2.Timestamp
    pod_uid: str
    pod_name: str
    namespace: str
    verb: str
    mode: str
    outcome: str
    decision: Decision
    candidates: int
    duration_seconds: float
    missed: int
    def __init__(self, id: _Optional[str] = ..., asked: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pod_uid: _Optional[str] = ..., pod_name: _Optional[str] = ..., namespace: _Optional[str] = ..., verb: _Optional[str] = ..., mode: _Optional[str] = ..., outcome: _Optional[str] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., candidates: _Optional[int] = ..., duration_seconds: _Optional[float] = ..., missed: _Optional[int] = ...) -> None: ...
