"""Every step of a plan judged on raw Kubernetes objects, one pod at a time and in order of execution.

Shares no code with the planners, nor with what reads objects for them: quantities, labels, terms and marks are read here
a second time from the JSON that a cluster lists. Covers what :mod:`tests.cluster_objects` draws.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations, takewhile
from typing import Any

from placement.planning.plans import Plan

Object = dict[str, Any]
NEVER = (
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
    ("karpenter.sh/do-not-disrupt", "true"),
)
GATE = "ullage.dev/plan"
GANG = "scheduling.x-k8s.io/pod-group"
GANG_LABELS = ("pod-group.scheduling.sigs.k8s.io/name", GANG, "volcano.sh/group-name")
SIZE = "ullage.dev/gang-size"
MEMBERS, GROUP, WORKLOAD = "scheduling.x-k8s.io/v1alpha1", "scheduling.k8s.io/v1alpha2", "scheduling.k8s.io/v1alpha1"
"""API versions of what says how many pods a gang needs."""
SUFFIXES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1000, "M": 10**6}


def amount(name: str, text: str) -> int:
    """A quantity as an integer: millicores, bytes, counts."""
    factor = 1000 if name == "cpu" else 1
    if text.endswith("m"):
        return -(-int(text[:-1]) * factor // 1000)
    for suffix, size in SUFFIXES.items():
        if text.endswith(suffix):
            return int(text[: -len(suffix)]) * size
    return int(text) * factor


def needs(pod: Object) -> Counter[str]:
    """What a pod asks for, one of ``pods`` included."""
    total = Counter({"pods": 1})
    for container in pod["spec"]["containers"]:
        total.update({k: amount(k, q) for k, q in container["resources"]["requests"].items()})
    return total


def labels_of(thing: Object) -> dict[str, str]:
    return dict(thing["metadata"].get("labels") or {})


def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    """Whether a label selector (nil = nobody) covers these labels."""
    if selector is None:
        return False
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    return all(expression_holds(e, labels) for e in selector.get("matchExpressions") or ())


def expression_holds(e: Object, labels: dict[str, str]) -> bool:
    value, operator = labels.get(e["key"]), e["operator"]
    if operator == "In":
        return value in e["values"]
    if operator == "NotIn":
        return value not in e["values"]
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if value is None or not value.lstrip("-").isdigit():
        return False
    return int(value) > int(e["values"][0]) if operator == "Gt" else int(value) < int(e["values"][0])


def chosen(pod: Object, node: Object) -> bool:
    """Node selector and required node affinity."""
    spec, labels = pod["spec"], labels_of(node)
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity")
    if affinity is None:
        return True
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    name = {"metadata.name": node["metadata"]["name"]}
    return any(
        (t.get("matchExpressions") or t.get("matchFields"))
        and all(expression_holds(e, labels) for e in t.get("matchExpressions") or ())
        and all(expression_holds(e, name) for e in t.get("matchFields") or ())
        for t in terms
    )


def tolerates(pod: Object, key: str, value: str, effect: str) -> bool:
    for t in pod["spec"].get("tolerations") or ():
        if t.get("effect") not in (None, "", effect):
            continue
        if t.get("operator") == "Exists" and t.get("key") in (None, "", key):
            return True
        if t.get("operator", "Equal") == "Equal" and (t.get("key"), t.get("value", "")) == (key, value):
            return True
    return False


def tainted(pod: Object, node: Object) -> bool:
    taints = node["spec"].get("taints") or ()
    hard = [t for t in taints if t["effect"] != "PreferNoSchedule"]
    return not all(tolerates(pod, t["key"], t.get("value", ""), t["effect"]) for t in hard)


def terms_of(pod: Object, side: str) -> list[Object]:
    affinity = pod["spec"].get("affinity", {}).get(side) or {}
    return list(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or ())


def covers(term: Object, by: Object, pod: Object) -> bool:
    namespaces = term.get("namespaces") or [by["metadata"]["namespace"]]
    return pod["metadata"]["namespace"] in namespaces and selects(term.get("labelSelector"), labels_of(pod))


def ports_of(pod: Object) -> list[tuple[int, str]]:
    return [
        (p["hostPort"], p.get("protocol", "TCP"))
        for c in pod["spec"]["containers"]
        for p in c.get("ports") or ()
        if p.get("hostPort")
    ]


def owner_of(pod: Object) -> str:
    return next((o["kind"] for o in pod["metadata"].get("ownerReferences") or () if o.get("controller")), "")


def size_of(pod: Object) -> int:
    """How many pods its gang has, by its annotation; 0 = it does not say."""
    text = (pod["metadata"].get("annotations") or {}).get(SIZE, "")
    return int(text) if text.isdigit() else 0


class Gangs:
    """Who belongs together, and how many that must be, read from pods and from the objects that they name."""

    def __init__(self, objects: list[Object]) -> None:
        self.needs: dict[tuple[str, ...], int] = {}
        """Gang → pods at least, where an object says it; 0 = its pods come one by one."""
        self.listed: set[str] = set()
        """API versions of which objects are listed: then there are no others."""
        for thing in objects:
            version, spec, place = thing.get("apiVersion", ""), thing.get("spec") or {}, thing["metadata"]
            where = place.get("namespace", ""), place["name"]
            if thing["kind"] == "PodGroup" and version == MEMBERS:
                self.needs["label", *where] = max(1, spec.get("minMember", 1))
            elif thing["kind"] == "PodGroup" and version == GROUP:
                self.needs["group", *where] = self._count(spec.get("schedulingPolicy") or {})
            elif thing["kind"] == "Workload" and version == WORKLOAD:
                for part in spec.get("podGroups") or ():
                    self.needs["workload", *where, part["name"]] = self._count(part.get("policy") or {})
            else:
                continue
            self.listed.add(version)

    @staticmethod
    def _count(policy: Object) -> int:
        return max(1, policy["gang"].get("minCount", 1)) if policy.get("gang") else 0

    def of(self, pod: Object) -> tuple[str, ...]:
        """Its gang; empty when it is alone."""
        meta, spec = pod["metadata"], pod["spec"]
        space = meta["namespace"]
        named: tuple[str, ...] = ()
        if name := (spec.get("schedulingGroup") or {}).get("podGroupName"):
            named = ("group", space, name)
        elif (ref := spec.get("workloadRef")) and ref.get("name"):
            named = ("workload", space, ref["name"], ref.get("podGroup", ""), ref.get("podGroupReplicaKey", ""))
        if named and self.needs.get(named[:4]) != 0:
            return named
        for key in GANG_LABELS:
            if name := labels_of(pod).get(key):
                return ("volcano" if key.startswith("volcano") else "label", space, name)
        owner = next((o.get("uid", "") for o in meta.get("ownerReferences") or () if o.get("controller")), "")
        return ("owner", space, owner) if not named and owner and size_of(pod) > 1 else ()

    def least(self, gang: tuple[str, ...], members: list[Object]) -> int | None:
        """How many must be there before any of it is placed; None = nobody is, the object that says it is missing."""
        if (told := self.needs.get(gang[:4])) is not None:
            return told
        size = max(size_of(pod) for pod in members)
        version = {"label": MEMBERS, "group": GROUP, "workload": WORKLOAD}.get(gang[0])
        return None if not size and version in self.listed else size


class Referee:
    """A cluster as lists of objects; :meth:`judge` says what is wrong with a plan, step by step."""

    def __init__(self, objects: list[Object]) -> None:
        by_kind: dict[str, list[Object]] = {"Node": [], "Pod": [], "PodDisruptionBudget": []}
        for thing in objects:
            by_kind.setdefault(thing["kind"], []).append(thing)
        self.gangs = Gangs(objects)
        self.nodes = {n["metadata"]["name"]: n for n in by_kind["Node"]}
        self.pods = {p["metadata"]["uid"]: p for p in by_kind["Pod"]}
        self.budgets = by_kind["PodDisruptionBudget"]
        self.where = {uid: p["spec"]["nodeName"] for uid, p in self.pods.items() if p["spec"].get("nodeName")}
        self.pending = set(self.pods) - set(self.where)
        self.waited = frozenset(self.pending)
        self.down: set[str] = set()
        """Evicted and not back yet."""
        self.closed: set[str] = set()
        self.devices: Counter[tuple[str, int]] = Counter()
        self.hidden: dict[str, list[int]] = {}
        """Shares of pods that run on nobody knows which device of a node."""
        for uid, node in self.where.items():
            marks = self.pods[uid]["metadata"].get("annotations") or {}
            share = needs(self.pods[uid])["ullage.dev/gpu-milli"]
            if index := marks.get("ullage.dev/devices"):
                self.devices[node, int(index)] += share
            elif share:
                self.hidden.setdefault(node, []).append(share)

    # ── one pod, one node, now ────────────────────────────────────────────────────────────────

    def why_not(self, uid: str, name: str) -> list[str]:
        """Rules that keep a pod off a node now."""
        pod, node = self.pods[uid], self.nodes[name]
        there = [self.pods[u] for u, n in self.where.items() if n == name]
        wrong = []
        offered = Counter({k: amount(k, q) for k, q in node["status"]["allocatable"].items()})
        taken: Counter[str] = Counter()
        for other in there:
            taken += needs(other)
        wrong += [f"{k} exceeded" for k, n in needs(pod).items() if n and taken[k] + n > offered[k]]
        cordoned = node["spec"].get("unschedulable")
        if name in self.closed or (
            cordoned and not tolerates(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule")
        ):
            wrong.append("unschedulable")
        if needs(pod)["ullage.dev/gpu-milli"] and self.free_device(uid, name) is None:
            wrong.append("no device has so much left")
        wrong += [] if chosen(pod, node) else ["node affinity"]
        wrong += ["taint"] if tainted(pod, node) else []
        taken_ports = {p for other in there for p in ports_of(other)}
        wrong += ["host port"] if taken_ports & set(ports_of(pod)) else []
        return wrong + self._why_not_near(pod, node) + self._why_not_spread(pod, node)

    def free_device(self, uid: str, node: str) -> str | None:
        """The fullest device of a node with room for a pod's share; None when it asks for none, or there is none."""
        share = needs(self.pods[uid])["ullage.dev/gpu-milli"]
        number = int(self.nodes[node]["status"]["allocatable"].get("ullage.dev/gpu-milli", "0")) // 1000
        fits = [i for i in range(number) if share and self.devices[node, i] + share <= 1000]
        return str(max(fits, key=lambda i: self.devices[node, i])) if fits else None

    def _placed(self) -> list[tuple[Object, dict[str, str]]]:
        return [(self.pods[u], labels_of(self.nodes[n])) for u, n in self.where.items()]

    def _why_not_near(self, pod: Object, node: Object) -> list[str]:
        labels, wrong = labels_of(node), []
        for other, there in self._placed():
            for one, its in ((pod, other), (other, pod)):
                for term in terms_of(one, "podAntiAffinity"):
                    key = term["topologyKey"]
                    if key in labels and labels[key] == there.get(key) and covers(term, one, its):
                        wrong.append("anti-affinity")
        terms = terms_of(pod, "podAffinity")
        if not terms:
            return wrong
        if any(t["topologyKey"] not in labels for t in terms):
            return [*wrong, "affinity key"]
        friends = [(o, there) for o, there in self._placed() if all(covers(t, pod, o) for t in terms)]
        met = all(any(there.get(t["topologyKey"]) == labels[t["topologyKey"]] for _, there in friends) for t in terms)
        first = not any(t["topologyKey"] in there for t in terms for _, there in friends)
        if not met and not (first and all(covers(t, pod, pod) for t in terms)):
            wrong.append("affinity")
        return wrong

    def _why_not_spread(self, pod: Object, node: Object) -> list[str]:
        hard = [
            c
            for c in pod["spec"].get("topologySpreadConstraints") or ()
            if c.get("whenUnsatisfiable") == "DoNotSchedule"
        ]
        wrong = []
        for c in hard:
            key = c["topologyKey"]
            if key not in labels_of(node):
                wrong.append("spread key")
                continue
            counts: Counter[str] = Counter()
            for other in self.nodes.values():
                its = labels_of(other)
                if all(k["topologyKey"] in its for k in hard) and chosen(pod, other):
                    counts[its[key]] += 0
                    for uid, n in self.where.items():
                        there = self.pods[uid]["metadata"]
                        same = there["namespace"] == pod["metadata"]["namespace"]
                        if n == other["metadata"]["name"] and same and not there.get("deletionTimestamp"):
                            counts[its[key]] += selects(c["labelSelector"], labels_of(self.pods[uid]))
            least = min(counts.values(), default=0) if len(counts) >= c.get("minDomains", 1) else 0
            own = counts[labels_of(node)[key]] + selects(c["labelSelector"], labels_of(pod))
            if own - least > c["maxSkew"]:
                wrong.append("spread")
        return wrong

    # ── one pod that leaves its node ──────────────────────────────────────────────────────────

    def why_stays(self, uid: str) -> list[str]:
        """What forbids touching a running pod."""
        pod = self.pods[uid]
        annotations = pod["metadata"].get("annotations") or {}
        wrong = [key for key, value in NEVER if annotations.get(key) == value]
        wrong += ["being deleted"] if pod["metadata"].get("deletionTimestamp") else []
        wrong += ["no controller"] if not owner_of(pod) else []
        wrong += ["its node's"] if owner_of(pod) in ("DaemonSet", "Node") else []
        volumes = pod["spec"].get("volumes") or ()
        wrong += ["volume"] if any("persistentVolumeClaim" in v or "ephemeral" in v for v in volumes) else []
        wrong += ["two budgets"] if sum(uid in self._covered(budget) for budget in self.budgets) > 1 else []
        wrong += ["claim"] if pod["spec"].get("resourceClaims") else []
        return wrong

    def _take_off(self, uid: str) -> list[str]:
        wrong = self.why_stays(uid)
        self.where.pop(uid, None)
        self.down.add(uid)
        for budget in self.budgets:
            covered = self._covered(budget)
            if uid in covered and len(self.down & covered) > budget["status"]["disruptionsAllowed"]:
                wrong.append(f"budget {budget['metadata']['name']} exceeded")
        return wrong

    def _covered(self, budget: Object) -> set[str]:
        return {
            uid
            for uid, pod in self.pods.items()
            if pod["metadata"]["namespace"] == budget["metadata"]["namespace"]
            and selects(budget["spec"]["selector"], labels_of(pod))
        }

    def _waits(self, uid: str) -> list[str]:
        """What forbids placing a pending pod."""
        pod = self.pods[uid]
        wrong = ["being deleted"] if pod["metadata"].get("deletionTimestamp") else []
        gates = [g["name"] for g in pod["spec"].get("schedulingGates") or ()]
        wrong += ["gated by others"] if [g for g in gates if g != GATE] else []
        volumes = pod["spec"].get("volumes") or ()
        unmodelled = any("persistentVolumeClaim" in v for v in volumes) or bool(pod["spec"].get("resourceClaims"))
        return wrong + (["nominated with volumes or claims"] if unmodelled else [])

    # ── a plan ────────────────────────────────────────────────────────────────────────────────

    def judge(self, plan: Plan, max_moves: int | None = None) -> list[str]:
        """What is wrong, with the step where it goes wrong."""
        wrong: list[str] = []
        evicted: set[str] = set()
        ahead: set[str] = set()
        """Left with the first of their gang, before their own steps."""
        leavers: dict[object, int] = {}
        """Gang → the step where the last one of it left so far."""
        for number, step in enumerate(plan.steps):
            found: list[str] = []
            if step.action in ("move", "evict"):
                gang = self.gangs.of(self.pods[step.pod])
                if gang and leavers.get(gang, number - 1) != number - 1:
                    found.append("its gang is moved in pieces")
                leaves = takewhile(lambda s: s.action in ("move", "evict"), plan.steps[number:])
                of_it = list(takewhile(lambda s, gang=gang: self.gangs.of(self.pods[s.pod]) == gang, leaves))
                first, *others = of_it if gang else of_it[:1]
                for other in () if first.pod in ahead else (first, *others):
                    found += [] if self.where.get(other.pod) == other.source else [f"not on {other.source}"]
                    found += self._take_off(other.pod)
                    evicted.add(other.pod)
                ahead = (ahead | {s.pod for s in others}) - {first.pod}
                leavers[gang] = number
            if step.action in ("move", "place"):
                if step.action == "place" and step.pod not in self.down:
                    found += [] if step.pod in self.pending else ["not pending"]
                    found += self._waits(step.pod)
                found += self.why_not(step.pod, step.target)
                found += self._give_devices(step.pod, step.target, step.devices)
                self.where[step.pod] = step.target
                self.down.discard(step.pod)
                self.pending.discard(step.pod)
            if step.action == "cordon":
                self.closed.add(step.source)
            if step.action == "delete":
                found += self._delete(step.source)
            wrong += [f"step {number} {step.action} {step.name} {step.source}>{step.target}: {w}" for w in found]
        if max_moves is not None and len(evicted) > max_moves:
            wrong.append("more moves than allowed")
        if plan.kind == "consolidate" and self.down:
            wrong.append("pods are lost")
        plain = {name for name, node in self.nodes.items() if not self._is_barred(node["spec"])}
        if plain and plain <= self.closed:
            wrong.append("pods that come next find no node")
        return wrong + self._judge_end(plan)

    @staticmethod
    def _is_barred(spec: Object) -> bool:
        """Whether a node takes no pod without tolerations."""
        taints = [taint for taint in spec.get("taints") or () if taint["effect"] != "PreferNoSchedule"]
        return bool(spec.get("unschedulable") or taints)

    def _give_devices(self, uid: str, node: str, text: str) -> list[str]:
        asked = needs(self.pods[uid]).get("ullage.dev/gpu-milli", 0)
        given = [int(i) for i in text.split(",") if i]
        if not asked:
            return ["devices for nobody"] if given else []
        count = int((self.pods[uid]["metadata"].get("annotations") or {}).get("ullage.dev/gpu-count", "1"))
        if len(set(given)) != count:
            return ["wrong number of devices"]
        offered = amount("gpu", self.nodes[node]["status"]["allocatable"].get("ullage.dev/gpu-milli", "0")) // 1000
        worst = [f"device {i} may be exceeded" for i in given if self._may_overflow(node, i, asked // count)]
        for index in given:
            self.devices[node, index] += asked // count
        if worst:
            return worst
        return [f"device {i} exceeded" for i in given if i >= offered or self.devices[node, i] > 1000]

    def _may_overflow(self, node: str, index: int, share: int) -> bool:
        """Whether a device that had room for some of those nobody knows where has none any more."""
        shares, known = self.hidden.get(node, []), self.devices[node, index]
        some = [sum(chosen) for n in range(1, len(shares) + 1) for chosen in combinations(shares, n)]
        return any(known + extra <= 1000 < known + extra + share for extra in some)

    def _delete(self, node: str) -> list[str]:
        annotations = self.nodes[node]["metadata"].get("annotations") or {}
        wrong = [key for key, value in NEVER if annotations.get(key) == value]
        labels = self.nodes[node]["metadata"].get("labels") or {}
        wrong += [key for key in labels if key == "node-role.kubernetes.io/control-plane"]
        left = [u for u, n in self.where.items() if n == node and owner_of(self.pods[u]) not in ("DaemonSet", "Node")]
        return wrong + (["not empty"] if left else [])

    def _who_should_have_got(self, placed: set[str], plan: Plan) -> list[str]:
        """Whoever has no place in a batch, but would where less important pods of it, of no gang, have theirs."""
        wrong = []
        rank = {uid: pod["spec"].get("priority", 0) for uid, pod in self.pods.items()}
        for uid in sorted(self.pending):
            meta = self.pods[uid]["metadata"]
            told = f"pod {meta['namespace']}/{meta['name']} fits on no node within this plan: "
            is_covered = any(reason.startswith(told) for reason in plan.reasons)
            if self.gangs.of(self.pods[uid]) or not is_covered:
                continue
            for node in sorted({self.where[u] for u in placed if rank[u] < rank[uid]}):
                lower = {
                    u: self.where.pop(u)
                    for u in placed & set(self.where)
                    if self.where[u] == node and rank[u] < rank[uid] and not self.gangs.of(self.pods[u])
                }
                if lower and not self.why_not(uid, node):
                    wrong.append(f"{uid} has no place, and {sorted(lower)} have")
                self.where |= lower
        return wrong

    def _judge_end(self, plan: Plan) -> list[str]:
        """Gangs all or none; who lost a place lost it to somebody more important that may take it."""
        wrong = []
        placed = {s.pod for s in plan.steps if s.action == "place"} - self.down
        if plan.kind == "batch":
            wrong += self._who_should_have_got(placed, plan)
        for gang in sorted({self.gangs.of(self.pods[u]) for u in placed & self.waited} - {()}):
            members = {u for u, p in self.pods.items() if self.gangs.of(p) == gang}
            there = {u for u in members if not self.pods[u]["metadata"].get("deletionTimestamp")}
            least = self.gangs.least(gang, [self.pods[u] for u in members])
            if least is None or len(there) < least:
                wrong.append(f"gang {gang} is begun without all that it needs")
            if not there <= set(self.where) | self.down:
                wrong.append(f"gang {gang} is in pieces")
        for gang in sorted({self.gangs.of(self.pods[u]) for u in self.down} - {()}):
            there = {u for u, p in self.pods.items() if self.gangs.of(p) == gang and u not in self.waited}
            if not there <= self.down:
                wrong.append(f"gang {gang} is evicted in part")
        for uid in self.down:
            rank = self.pods[uid]["spec"].get("priority", 0)
            winners = [self.pods[u]["spec"] for u in placed if self.pods[u]["spec"].get("priority", 0) > rank]
            if not [w for w in winners if w.get("preemptionPolicy") != "Never"]:
                wrong.append(f"{uid} lost its place to nobody more important")
        return wrong
