"""The one door to OR-Tools for plans: linear and integer models as arrays in, plain numbers out.

A :class:`Model` is columns and rows over NumPy arrays; the same model goes to HiGHS or GLOP through MathOpt, or to
CP-SAT, whichever the caller measured to be better. :class:`Master` is the restricted master of a column generation,
kept warm between rounds. Nothing here knows Kubernetes, and no OR-Tools object leaves this file.

Every call takes its limits as arguments. With a seed and a :class:`~placement.planning.plans.WorkClock` a run
repeats whatever else the machine does; otherwise as long as no limit in seconds bites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.planning.plans import WorkClock
from placement.resources import BoolArray, FloatArray, IntArray

INFINITY = float("inf")
SMOOTHING = 0.5
"""Of a :class:`Master`: the share of the best duals so far in the prices at which columns are looked for (Wentges 1997)."""
MOST_IN_HIGHS = 1e15
"""Coefficients from here on are infinite to HiGHS (its option ``large_matrix_value``), which refuses the model."""
ENTRY_S, ROOT_NODES, CP_SAT_S = 3e-6, 20, 4.0
"""On a :class:`WorkClock`: a branch-and-bound node of HiGHS per entry of the matrix, what its root counts for in nodes,
and CP-SAT's deterministic second; all measured, and rough."""


class Status(StrEnum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"
    """No solution and no proof within the limits."""


@dataclass(frozen=True)
class Limits:
    """``time_s`` of wall clock; ``work_limit`` in CP-SAT's deterministic seconds; ``gap_share`` to stop at.

    With ``work``, ``time_s`` is counted on that clock and the wall clock plays no part: CP-SAT stops after so many
    deterministic seconds, HiGHS after a number of nodes, and linear programs run to their end.
    """

    time_s: float
    seed: int = 0
    gap_share: float = 0.0
    work_limit: float = INFINITY
    work: WorkClock | None = None
    stop: Callable[[], bool] | None = None
    """Asked at each new solution of CP-SAT; True cancels."""

    def __post_init__(self) -> None:
        if not self.time_s > 0:
            raise ConfigError(f"time limit {self.time_s} s leaves nothing to solve in; give more than 0 seconds")


@dataclass(frozen=True)
class Answer:
    """``x`` ``(V,)`` (empty without a solution), its ``value``, and the proved ``bound`` on any value."""

    status: Status
    x: FloatArray
    value: float
    bound: float
    duals: FloatArray = field(default_factory=lambda: np.zeros(0))
    """``(rows,)``, of a linear program only."""

    @property
    def has_solution(self) -> bool:
        """There is something to use."""
        return self.status in (Status.OPTIMAL, Status.FEASIBLE)


class Model:
    """Maximise ``objective · x`` under rows ``lower ≤ a · x ≤ upper``; grows by blocks of columns and rows."""

    def __init__(self) -> None:
        self._lower: list[FloatArray] = []
        self._upper: list[FloatArray] = []
        self._objective: list[FloatArray] = []
        self._integer: list[BoolArray] = []
        self._columns: list[IntArray] = []
        self._rows: list[IntArray] = []
        self._values: list[FloatArray] = []
        self._row_lower: list[float] = []
        self._row_upper: list[float] = []
        self.num_columns = 0

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return len(self._row_lower)

    def add_columns(
        self,
        upper: FloatArray | IntArray,
        *,
        objective: FloatArray | IntArray | float = 0.0,
        lower: FloatArray | IntArray | float = 0.0,
        integer: bool = True,
    ) -> IntArray:
        """Indices of ``len(upper)`` new columns."""
        size = len(upper)
        self._upper.append(np.asarray(upper, np.float64))
        self._lower.append(np.broadcast_to(np.asarray(lower, np.float64), size))
        self._objective.append(np.broadcast_to(np.asarray(objective, np.float64), size))
        self._integer.append(np.full(size, integer))
        self.num_columns += size
        return np.arange(self.num_columns - size, self.num_columns, dtype=np.int64)

    def add_row(
        self,
        columns: IntArray,
        values: FloatArray | IntArray | float,
        *,
        lower: float = -INFINITY,
        upper: float = INFINITY,
    ) -> int:
        """Index of one new row over ``columns``, which must be distinct."""
        row = self.num_rows
        self._row_lower.append(float(lower))
        self._row_upper.append(float(upper))
        self._columns.append(np.asarray(columns, np.int64))
        self._rows.append(np.full(len(columns), row, np.int64))
        self._values.append(np.broadcast_to(np.asarray(values, np.float64), len(columns)))
        return row

    def arrays(self) -> dict[str, Any]:
        """The whole model as arrays; entries sorted by row, then column."""

        def joined(parts: list[Any], dtype: type) -> Any:
            return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)

        rows, columns = joined(self._rows, np.int64), joined(self._columns, np.int64)
        values = joined(self._values, np.float64)
        order = np.lexsort((columns, rows))
        return {
            "lower": joined(self._lower, np.float64),
            "upper": joined(self._upper, np.float64),
            "objective": joined(self._objective, np.float64),
            "integer": joined(self._integer, np.bool_),
            "rows": rows[order],
            "columns": columns[order],
            "values": values[order],
            "row_lower": np.array(self._row_lower),
            "row_upper": np.array(self._row_upper),
        }


def solve_linear(model: Model, limits: Limits, *, relax: bool = False, hint: FloatArray | None = None) -> Answer:
    """HiGHS through MathOpt: a mixed-integer program, or with ``relax`` its linear relaxation and duals (GLOP).

    Both run on one thread. Nothing is known of what HiGHS does not take.
    """
    from concurrent.futures import ThreadPoolExecutor
    from datetime import timedelta

    from ortools.math_opt.python import mathopt

    arrays = model.arrays()
    is_lp = relax or not arrays["integer"].any()
    if not is_lp and np.abs(arrays["values"]).max(initial=0.0) >= MOST_IN_HIGHS:
        return Answer(Status.UNKNOWN, np.zeros(0), -INFINITY, INFINITY)
    proto = _math_opt_proto(arrays, relax)
    built = mathopt.Model.from_model_proto(proto)
    parameters = mathopt.SolveParameters(random_seed=limits.seed % 2**31)
    node_s = ENTRY_S * max(len(arrays["values"]), 1)
    if limits.work is None:
        parameters.time_limit = timedelta(seconds=limits.time_s)
    elif not is_lp:
        parameters.node_limit = 1 + int(limits.time_s / node_s)
    if not is_lp and limits.gap_share > 0:
        parameters.relative_gap_tolerance = limits.gap_share
    hints = []
    if hint is not None and not is_lp:
        variables = list(built.variables())
        hints = [mathopt.SolutionHint(variable_values=dict(zip(variables, hint.tolist(), strict=True)))]
    engine = mathopt.SolverType.GLOP if is_lp else mathopt.SolverType.HIGHS
    hinted = mathopt.ModelSolveParameters(solution_hints=hints)
    # MathOpt swallows what a listener to Ctrl-C raises. In a thread of its own it hears none: the wait for it does, and
    # leaves when the solve has ended.
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(mathopt.solve, built, engine, params=parameters, model_params=hinted).result()
    if limits.work is not None:
        limits.work.spend(node_s * (ROOT_NODES + int(result.solve_stats.node_count)))
    return _read_math_opt(result, is_lp, model)


def _math_opt_proto(arrays: dict[str, Any], relax: bool) -> Any:
    from ortools.math_opt import model_pb2

    proto = model_pb2.ModelProto()
    size, rows = len(arrays["lower"]), len(arrays["row_lower"])
    proto.variables.ids.extend(range(size))
    proto.variables.lower_bounds.extend(arrays["lower"])
    proto.variables.upper_bounds.extend(arrays["upper"])
    proto.variables.integers.extend(np.zeros(size, bool) if relax else arrays["integer"])
    proto.objective.maximize = True
    nonzero = np.flatnonzero(arrays["objective"])
    proto.objective.linear_coefficients.ids.extend(nonzero)
    proto.objective.linear_coefficients.values.extend(arrays["objective"][nonzero])
    proto.linear_constraints.ids.extend(range(rows))
    proto.linear_constraints.lower_bounds.extend(arrays["row_lower"])
    proto.linear_constraints.upper_bounds.extend(arrays["row_upper"])
    proto.linear_constraint_matrix.row_ids.extend(arrays["rows"])
    proto.linear_constraint_matrix.column_ids.extend(arrays["columns"])
    proto.linear_constraint_matrix.coefficients.extend(arrays["values"])
    return proto


def _read_math_opt(result: Any, is_lp: bool, model: Model) -> Answer:
    from ortools.math_opt.python import mathopt

    reason = result.termination.reason
    if reason in (mathopt.TerminationReason.INFEASIBLE, mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED):
        return Answer(Status.INFEASIBLE, np.zeros(0), -INFINITY, -INFINITY)
    bound = float(result.termination.objective_bounds.dual_bound) + 0.0  # no negative zero
    if not result.has_primal_feasible_solution():
        return Answer(Status.UNKNOWN, np.zeros(0), -INFINITY, bound)
    values = result.variable_values()
    x = np.fromiter(values.values(), np.float64, model.num_columns)
    optimal = reason == mathopt.TerminationReason.OPTIMAL
    value = float(result.objective_value()) + 0.0
    duals = np.zeros(0)
    if is_lp and optimal:
        duals = np.fromiter(result.dual_values().values(), np.float64, model.num_rows)
        bound = value
    return Answer(Status.OPTIMAL if optimal else Status.FEASIBLE, x, value, bound, duals)


def solve_integer(model: Model, limits: Limits, *, hint: IntArray | None = None) -> Answer:
    """CP-SAT: all columns integer, all coefficients integer, finite bounds on every column."""
    from ortools.sat.python import cp_model

    arrays = model.arrays()
    built = cp_model.CpModel()
    lower, upper = arrays["lower"].astype(np.int64), arrays["upper"].astype(np.int64)
    variables = [built.new_int_var(low, high, "") for low, high in zip(lower.tolist(), upper.tolist(), strict=True)]
    starts = np.searchsorted(arrays["rows"], np.arange(model.num_rows + 1))
    columns, values = arrays["columns"].tolist(), arrays["values"].astype(np.int64).tolist()
    for row in range(model.num_rows):
        span = slice(starts[row], starts[row + 1])
        total = cp_model.LinearExpr.weighted_sum([variables[c] for c in columns[span]], values[span])
        domain = cp_model.Domain(_floor(arrays["row_lower"][row]), _floor(arrays["row_upper"][row]))
        built.add_linear_expression_in_domain(total, domain)
    goal = np.flatnonzero(arrays["objective"])
    weights = arrays["objective"][goal].astype(np.int64).tolist()
    built.maximize(cp_model.LinearExpr.weighted_sum([variables[c] for c in goal.tolist()], weights))
    if hint is not None:
        for variable, value in zip(variables, hint.tolist(), strict=True):
            built.add_hint(variable, value)
    return _run_cp_sat(built, variables, limits)


def _floor(limit: float) -> int:
    """A row limit as CP-SAT wants it: an integer, with ±2^62 for none."""
    return int(np.clip(limit, -(2.0**62), 2.0**62))


def _run_cp_sat(built: Any, variables: list[Any], limits: Limits) -> Answer:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.catch_sigint_signal = False  # it would leave the process without its own listener to Ctrl-C
    work_limit = limits.work_limit
    if limits.work is None:
        solver.parameters.max_time_in_seconds = limits.time_s
    else:
        work_limit = min(work_limit, limits.time_s / CP_SAT_S)
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = limits.seed % 2**31
    solver.parameters.relative_gap_limit = limits.gap_share
    if work_limit < INFINITY:
        solver.parameters.max_deterministic_time = work_limit
    watch = _stopper(limits.stop) if limits.stop is not None else None
    status = solver.solve(built, watch) if watch is not None else solver.solve(built)
    if limits.work is not None:
        limits.work.spend(CP_SAT_S * float(solver.response_proto.deterministic_time))
    if status == cp_model.INFEASIBLE:
        return Answer(Status.INFEASIBLE, np.zeros(0), -INFINITY, -INFINITY)
    if status == cp_model.MODEL_INVALID:
        raise ConfigError(f"the model is not valid for CP-SAT: {built.validate()}; amounts may be too large to add up")
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(Status.UNKNOWN, np.zeros(0), -INFINITY, INFINITY)  # its bound is 0 before there is one
    x = np.array([solver.value(v) for v in variables], np.float64)
    ended = Status.OPTIMAL if status == cp_model.OPTIMAL else Status.FEASIBLE
    return Answer(ended, x, float(solver.objective_value), float(solver.best_objective_bound))


def _stopper(stop: Callable[[], bool]) -> Any:
    from ortools.sat.python import cp_model

    class Stopper(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]  # untyped base
        def on_solution_callback(self) -> None:
            if stop():
                self.stop_search()

    return Stopper()


class Master:
    """Restricted master problem of a column generation: a maximisation over a fixed set of rows, kept warm (GLOP)."""

    def __init__(self, row_lower: FloatArray, row_upper: FloatArray) -> None:
        from ortools.linear_solver import pywraplp

        self._lp = pywraplp.Solver.CreateSolver("GLOP")
        self._rows = [
            self._lp.Constraint(float(low), float(high)) for low, high in zip(row_lower, row_upper, strict=True)
        ]
        self._goal = self._lp.Objective()
        self._goal.SetMaximization()
        self._columns: list[Any] = []

    def add(self, rows: IntArray, values: FloatArray | IntArray, *, objective: float, upper: float = INFINITY) -> None:
        """One new column between 0 and ``upper``."""
        column = self._lp.NumVar(0.0, upper, "")
        self._goal.SetCoefficient(column, float(objective))
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            self._rows[row].SetCoefficient(column, float(value))
        self._columns.append(column)

    def require(self, row: int, lower: float) -> None:
        """Change the lower limit of a row."""
        self._rows[row].SetLb(float(lower))

    def solve(self) -> Answer:
        """Optimum of the restricted program, with duals; ``UNKNOWN`` when GLOP gives up."""
        status = self._lp.Solve()
        if status == self._lp.INFEASIBLE:
            return Answer(Status.INFEASIBLE, np.zeros(0), -INFINITY, -INFINITY)
        if status != self._lp.OPTIMAL:
            return Answer(Status.UNKNOWN, np.zeros(0), -INFINITY, INFINITY)
        x = np.array([column.solution_value() for column in self._columns])
        value = float(self._goal.Value())
        duals = np.array([row.dual_value() for row in self._rows])
        return Answer(Status.OPTIMAL, x, value, value, duals)


def assign(cost: IntArray) -> IntArray:
    """``(N,)`` column of each row of a square ``(N, N)`` cost matrix, at the least total cost."""
    from ortools.graph.python import linear_sum_assignment

    size = len(cost)
    problem = linear_sum_assignment.SimpleLinearSumAssignment()
    left, right = np.divmod(np.arange(size * size, dtype=np.int64), max(size, 1))
    problem.add_arcs_with_cost(left.astype(np.int32), right.astype(np.int32), cost.ravel())
    status = problem.solve()
    assert status == problem.OPTIMAL, "a full square matrix always has an assignment"
    return np.array([problem.right_mate(i) for i in range(size)], np.int64)
