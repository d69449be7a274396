from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PlanKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLAN_KIND_UNSPECIFIED: _ClassVar[PlanKind]
    PLAN_KIND_RESCUE: _ClassVar[PlanKind]
    PLAN_KIND_BATCH: _ClassVar[PlanKind]
    PLAN_KIND_CONSOLIDATE: _ClassVar[PlanKind]
    PLAN_KIND_PURCHASE: _ClassVar[PlanKind]

class PlanEnding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLAN_ENDING_UNSPECIFIED: _ClassVar[PlanEnding]
    PLAN_ENDING_OPTIMAL: _ClassVar[PlanEnding]
    PLAN_ENDING_DEADLINE: _ClassVar[PlanEnding]
    PLAN_ENDING_CANCELLED: _ClassVar[PlanEnding]
    PLAN_ENDING_INFEASIBLE: _ClassVar[PlanEnding]
PLAN_KIND_UNSPECIFIED: PlanKind
PLAN_KIND_RESCUE: PlanKind
PLAN_KIND_BATCH: PlanKind
PLAN_KIND_CONSOLIDATE: PlanKind
PLAN_KIND_PURCHASE: PlanKind
PLAN_ENDING_UNSPECIFIED: PlanEnding
PLAN_ENDING_OPTIMAL: PlanEnding
PLAN_ENDING_DEADLINE: PlanEnding
PLAN_ENDING_CANCELLED: PlanEnding
PLAN_ENDING_INFEASIBLE: PlanEnding

class NodeShape(_message.Message):
    __slots__ = ("name", "amounts", "usd_per_hour", "limit", "spot", "interruption_usd_per_hour", "num_gpus", "gpu_model", "term_hours", "pool")
    class AmountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SPOT_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTION_USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    NUM_GPUS_FIELD_NUMBER: _ClassVar[int]
    GPU_MODEL_FIELD_NUMBER: _ClassVar[int]
    TERM_HOURS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    name: str
    amounts: _containers.ScalarMap[str, int]
    usd_per_hour: float
    limit: int
    spot: bool
    interruption_usd_per_hour: float
    num_gpus: int
    gpu_model: str
    term_hours: float
    pool: str
    def __init__(self, name: _Optional[str] = ..., amounts: _Optional[_Mapping[str, int]] = ..., usd_per_hour: _Optional[float] = ..., limit: _Optional[int] = ..., spot: _Optional[bool] = ..., interruption_usd_per_hour: _Optional[float] = ..., num_gpus: _Optional[int] = ..., gpu_model: _Optional[str] = ..., term_hours: _Optional[float] = ..., pool: _Optional[str] = ...) -> None: ...

class MakePlanRequest(_message.Message):
    __slots__ = ("kind", "time_seconds", "seed", "max_moves", "usd_per_hour", "usd_per_move", "shapes", "interruptions_per_hour", "usd_per_interruption", "usd_per_pod_interrupted", "hours_of_use", "max_nodes", "ahead_seconds", "quantile", "history_days")
    class UsdPerHourEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_MOVES_FIELD_NUMBER: _ClassVar[int]
    USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    USD_PER_MOVE_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTIONS_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    USD_PER_INTERRUPTION_FIELD_NUMBER: _ClassVar[int]
    USD_PER_POD_INTERRUPTED_FIELD_NUMBER: _ClassVar[int]
    HOURS_OF_USE_FIELD_NUMBER: _ClassVar[int]
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    AHEAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_DAYS_FIELD_NUMBER: _ClassVar[int]
    kind: PlanKind
    time_seconds: float
    seed: int
    max_moves: int
    usd_per_hour: _containers.ScalarMap[str, float]
    usd_per_move: float
    shapes: _containers.RepeatedCompositeFieldContainer[NodeShape]
    interruptions_per_hour: float
    usd_per_interruption: float
    usd_per_pod_interrupted: float
    hours_of_use: float
    max_nodes: int
    ahead_seconds: int
    quantile: float
    history_days: float
    def __init__(self, kind: _Optional[_Union[PlanKind, str]] = ..., time_seconds: _Optional[float] = ..., seed: _Optional[int] = ..., max_moves: _Optional[int] = ..., usd_per_hour: _Optional[_Mapping[str, float]] = ..., usd_per_move: _Optional[float] = ..., shapes: _Optional[_Iterable[_Union[NodeShape, _Mapping]]] = ..., interruptions_per_hour: _Optional[float] = ..., usd_per_interruption: _Optional[float] = ..., usd_per_pod_interrupted: _Optional[float] = ..., hours_of_use: _Optional[float] = ..., max_nodes: _Optional[int] = ..., ahead_seconds: _Optional[int] = ..., quantile: _Optional[float] = ..., history_days: _Optional[float] = ...) -> None: ...

class MakePlanEvent(_message.Message):
    __slots__ = ("id", "progress", "plan")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    id: str
    progress: PlanProgress
    plan: Plan
    def __init__(self, id: _Optional[str] = ..., progress: _Optional[_Union[PlanProgress, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class PlanProgress(_message.Message):
    __slots__ = ("value", "bound", "unit", "seconds")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    value: float
    bound: float
    unit: str
    seconds: float
    def __init__(self, value: _Optional[float] = ..., bound: _Optional[float] = ..., unit: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class PlanStep(_message.Message):
    __slots__ = ("action", "pod_uid", "name", "source", "target", "devices", "gang")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    GANG_FIELD_NUMBER: _ClassVar[int]
    action: str
    pod_uid: str
    name: str
    source: str
    target: str
    devices: str
    gang: str
    def __init__(self, action: _Optional[str] = ..., pod_uid: _Optional[str] = ..., name: _Optional[str] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., devices: _Optional[str] = ..., gang: _Optional[str] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("id", "kind", "ending", "unit", "value", "bound", "gap_share", "usd_per_hour", "payback_seconds", "seconds", "details", "reasons", "steps")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    GAP_SHARE_FIELD_NUMBER: _ClassVar[int]
    USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    PAYBACK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: PlanKind
    ending: PlanEnding
    unit: str
    value: float
    bound: float
    gap_share: float
    usd_per_hour: float
    payback_seconds: float
    seconds: float
    details: _containers.ScalarMap[str, float]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    steps: _containers.RepeatedCompositeFieldContainer[PlanStep]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[PlanKind, str]] = ..., ending: _Optional[_Union[PlanEnding, str]] = ..., unit: _Optional[str] = ..., value: _Optional[float] = ..., bound: _Optional[float] = ..., gap_share: _Optional[float] = ..., usd_per_hour: _Optional[float] = ..., payback_seconds: _Optional[float] = ..., seconds: _Optional[float] = ..., details: _Optional[_Mapping[str, float]] = ..., reasons: _Optional[_Iterable[str]] = ..., steps: _Optional[_Iterable[_Union[PlanStep, _Mapping]]] = ...) -> None: ...

class FinishPlanRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class FinishPlanResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ApplyPlanRequest(_message.Message):
    __slots__ = ("id", "confirmed", "abandon", "max_evictions")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    ABANDON_FIELD_NUMBER: _ClassVar[int]
    MAX_EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    confirmed: bool
    abandon: bool
    max_evictions: int
    def __init__(self, id: _Optional[str] = ..., confirmed: _Optional[bool] = ..., abandon: _Optional[bool] = ..., max_evictions: _Optional[int] = ...) -> None: ...

class ApplyPlanEvent(_message.Message):
    __slots__ = ("step", "message", "outcome", "reason", "evictions")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    step: int
    message: str
    outcome: str
    reason: str
    evictions: int
    def __init__(self, step: _Optional[int] = ..., message: _Optional[str] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., evictions: _Optional[int] = ...) -> None: ...

class ListAdherenceRequest(_message.Message):
    __slots__ = ("differs",)
    DIFFERS_FIELD_NUMBER: _ClassVar[int]
    differs: bool
    def __init__(self, differs: _Optional[bool] = ...) -> None: ...

class PodAdherence(_message.Message):
    __slots__ = ("pod", "planned", "actual", "reason", "planned_devices", "actual_devices")
    POD_FIELD_NUMBER: _ClassVar[int]
    PLANNED_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLANNED_DEVICES_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_DEVICES_FIELD_NUMBER: _ClassVar[int]
    pod: str
    planned: str
    actual: str
    reason: str
    planned_devices: str
    actual_devices: str
    def __init__(self, pod: _Optional[str] = ..., planned: _Optional[str] = ..., actual: _Optional[str] = ..., reason: _Optional[str] = ..., planned_devices: _Optional[str] = ..., actual_devices: _Optional[str] = ...) -> None: ...

class ListAdherenceResponse(_message.Message):
    __slots__ = ("pods",)
    PODS_FIELD_NUMBER: _ClassVar[int]
    pods: _containers.RepeatedCompositeFieldContainer[PodAdherence]
    def __init__(self, pods: _Optional[_Iterable[_Union[PodAdherence, _Mapping]]] = ...) -> None: ...
