"""The doctor's rules over rendered manifests: rights, workloads, policies. Pure; see :mod:`scheduler.doctor.rules`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from placement.resources import DEVICES_ANNOTATION, GPU_SHARE
from scheduler.doctor.facts import Facts, Table, containers, is_ullage, list_of, path_of, pod_spec, table_of
from scheduler.doctor.rules import ERROR, WARNING, Hit, Rule
from scheduler.rights import needed

TYPED = "Object."
"""How CEL writes the type of a part of the object."""
POLICY = "ValidatingAdmissionPolicy"
Granted = tuple[str, str, str]
"""Group, resource, verb."""


def _accounts(facts: Facts) -> set[str]:
    """Service accounts that our workloads run as."""
    return {str(pod_spec(w).get("serviceAccountName", "default")) for w in facts.our_deployments}


def _bound_roles(facts: Facts) -> Iterator[Table]:
    """Roles of the file that are bound to our service accounts."""
    accounts = _accounts(facts)
    roles = {(str(r.get("kind")), _name(r)): r for r in facts.kind("Role", "ClusterRole")}
    for binding in facts.kind("RoleBinding", "ClusterRoleBinding"):
        subjects = {str(table_of(s).get("name")) for s in list_of(binding.get("subjects"))}
        reference = table_of(binding.get("roleRef"))
        role = roles.get((str(reference.get("kind")), str(reference.get("name"))))
        if subjects & accounts and role is not None:
            yield role


def _name(manifest: Table) -> str:
    return str(table_of(manifest.get("metadata")).get("name"))


def _grants(role: Table) -> Iterator[tuple[int, Granted]]:
    for i, rule in enumerate(list_of(role.get("rules"))):
        rule = table_of(rule)
        for group in list_of(rule.get("apiGroups")):
            for resource in list_of(rule.get("resources")):
                yield from ((i, (str(group), str(resource), str(verb))) for verb in list_of(rule.get("verbs")))


def _too_few_rights(facts: Facts) -> Iterator[Hit]:
    if not any(True for _ in facts.our_deployments) or not any(True for _ in facts.kind("ClusterRole")):
        return
    granted = {grant for role in _bound_roles(facts) for _, grant in _grants(role)}
    for right in needed(facts.settings):
        for verb in right.verbs:
            wild = {(g, r, v) for g in (right.group, "*") for r in (right.resource, "*") for v in (verb, "*")}
            if not wild & granted:
                group = f"{right.group}/" if right.group else ""
                yield Hit("ClusterRole.rules", f"{verb} {group}{right.resource} is not granted ({right.reason})")


def _too_many_rights(facts: Facts) -> Iterator[Hit]:
    used = {(right.group, right.resource, verb) for right in needed(facts.settings) for verb in right.verbs}
    for role in _bound_roles(facts):
        for i, (group, resource, verb) in _grants(role):
            if (group, resource, verb) not in used:
                yield Hit(f"{path_of(role)}.rules[{i}]", f"{verb} {group or 'core'}/{resource} is granted and not used")


def _host_dns(facts: Facts) -> Iterator[Hit]:
    names_service = any((s.url.hostname or "").endswith((".svc", ".svc.cluster.local")) for s in facts.stanzas)
    for workload in facts.scheduler_deployments:
        spec = pod_spec(workload)
        if names_service and spec.get("hostNetwork") and spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
            yield Hit(f"{path_of(workload)}.dnsPolicy", f"hostNetwork with dnsPolicy {spec.get('dnsPolicy', 'unset')}")


def _proxy(facts: Facts) -> Iterator[Hit]:
    for workload in facts.scheduler_deployments:
        for container in containers(workload):
            env = {
                str(table_of(e).get("name")).upper(): table_of(e).get("value") for e in list_of(container.get("env"))
            }
            is_proxied = "HTTP_PROXY" in env or "HTTPS_PROXY" in env
            if is_proxied and ".svc" not in str(env.get("NO_PROXY", "")):
                yield Hit(f"{path_of(workload)}.env", "a proxy is set and NO_PROXY does not except .svc")


def _many_without_lease(facts: Facts) -> Iterator[Hit]:
    if facts.settings is None or facts.settings.lease.enabled:
        return
    for workload in facts.our_deployments:
        replicas = table_of(workload.get("spec")).get("replicas", 1)
        if isinstance(replicas, int) and replicas > 1:
            yield Hit(f"{path_of(workload)}.replicas", f"{replicas} replicas while lease.enabled is false")


def _preemptible(facts: Facts) -> Iterator[Hit]:
    for workload in (*facts.our_deployments, *facts.scheduler_deployments):
        if not pod_spec(workload).get("priorityClassName"):
            yield Hit(f"{path_of(workload)}.priorityClassName", "no priority class: any important pod may push it out")


def _bootstrap(facts: Facts) -> Iterator[Hit]:
    names = {name for config in facts.configs if any(s.is_ours for s in config.stanzas) for name in config.names}
    for workload in (*facts.our_deployments, *facts.scheduler_deployments):
        chosen = pod_spec(workload).get("schedulerName", "default-scheduler")
        if chosen in names and chosen != "default-scheduler":
            yield Hit(f"{path_of(workload)}.schedulerName", f"{chosen} must run before it can be scheduled by {chosen}")


def _no_probe(facts: Facts) -> Iterator[Hit]:
    for workload in facts.our_deployments:
        for container in containers(workload):
            if is_ullage(container) and "readinessProbe" not in container:
                yield Hit(f"{path_of(workload)}.readinessProbe", "no readiness probe: standbys are asked too")


def _privileged(facts: Facts) -> Iterator[Hit]:
    for workload in facts.our_deployments:
        pod = table_of(pod_spec(workload).get("securityContext"))
        for container in containers(workload):
            own = table_of(container.get("securityContext"))
            lacks = [
                name
                for name, is_set in (
                    ("runAsNonRoot", own.get("runAsNonRoot", pod.get("runAsNonRoot")) is True),
                    ("readOnlyRootFilesystem", own.get("readOnlyRootFilesystem") is True),
                    ("allowPrivilegeEscalation: false", own.get("allowPrivilegeEscalation") is False),
                    ("seccompProfile", bool(own.get("seccompProfile") or pod.get("seccompProfile"))),
                    ("capabilities drop ALL", "ALL" in list_of(table_of(own.get("capabilities")).get("drop"))),
                )
                if not is_set
            ]
            if lacks:
                yield Hit(
                    f"{path_of(workload)}.securityContext",
                    f"{container.get('name')} lacks {', '.join(lacks)}",
                )


def _json_patch(facts: Facts) -> Iterator[Hit]:
    for policy in facts.kind("MutatingAdmissionPolicy"):
        spec = table_of(policy.get("spec"))
        variables = [table_of(variable).get("expression") for variable in list_of(spec.get("variables"))]
        for i, mutation in enumerate(list_of(spec.get("mutations"))):
            table = table_of(mutation)
            values = [table_of(table.get("jsonPatch")).get("expression"), *variables]
            if table.get("patchType") == "JSONPatch" and any(TYPED in str(value) for value in values):
                yield Hit(f"{path_of(policy)}.mutations[{i}]", "a JSONPatch whose values are typed objects")


def _policy_version(facts: Facts) -> Iterator[Hit]:
    if facts.kube_version is None or facts.kube_version >= (1, 36):
        return
    for policy in facts.kind("MutatingAdmissionPolicy"):
        major, minor = facts.kube_version
        yield Hit(path_of(policy), f"MutatingAdmissionPolicy is not on by default in {major}.{minor}")


def gives_shares(facts: Facts) -> bool:
    """Whether some stanza of ours manages GPU shares."""
    return any(GPU_SHARE in stanza.resources for stanza in facts.ours)


def why_unguarded(policies: Iterable[Table], bindings: Iterable[Table]) -> str:
    """Why just anybody may write which devices a pod has, empty if a policy denies it. Policies may have any name."""
    about = {_name(policy) for policy in policies if DEVICES_ANNOTATION in str(policy.get("spec"))}
    if not about:
        return f"no ValidatingAdmissionPolicy is about {DEVICES_ANNOTATION}"
    specs = [table_of(binding.get("spec")) for binding in bindings]
    if any(s.get("policyName") in about and "Deny" in list_of(s.get("validationActions")) for s in specs):
        return ""
    return f"no ValidatingAdmissionPolicyBinding denies by {' or '.join(sorted(about))}"


def _unguarded(facts: Facts) -> Iterator[Hit]:
    if gives_shares(facts) and any(True for _ in facts.our_deployments):
        policies, bindings = facts.kind(POLICY), facts.kind(f"{POLICY}Binding")
        if reason := why_unguarded(policies, bindings):
            yield Hit(POLICY, reason)


UNGUARDED = (
    "Anybody may write which GPU devices a pod has",
    f"A restart and a new leader know {DEVICES_ANNOTATION} alone: who may edit pods can have a device given twice.",
    "Apply devices-policy.yaml of the base (chart: devicesPolicy.enabled), or a policy of your own that does the same.",
)
"""Title, why and fix of the rule about manifests and of the one about the cluster."""

MANIFEST_RULES: tuple[Rule, ...] = (
    Rule(
        "UD301",
        ERROR,
        "RBAC is too short",
        "A watch that may not start keeps the view incomplete, and a replica with an incomplete view never serves.",
        "Grant the right to our service account; the base's rbac.yaml has exactly what is needed.",
        _too_few_rights,
    ),
    Rule(
        "UD302",
        WARNING,
        "RBAC is too wide",
        "What is granted and not used is what an attacker in our pod would use.",
        "Take the right away; the base's rbac.yaml has exactly what is needed.",
        _too_many_rights,
    ),
    Rule(
        "UD303",
        ERROR,
        "A scheduler on the host network cannot resolve a Service",
        "With hostNetwork the pod uses the node's resolver unless dnsPolicy says otherwise.",
        "Set dnsPolicy: ClusterFirstWithHostNet on the scheduler's pod.",
        _host_dns,
    ),
    Rule(
        "UD304",
        ERROR,
        "Calls to Ullage go through a proxy",
        "The scheduler's transport honours HTTP_PROXY and HTTPS_PROXY of its pod.",
        "Add .svc to NO_PROXY, or delete the proxy from the scheduler's pod.",
        _proxy,
    ),
    Rule(
        "UD305",
        ERROR,
        "Several replicas without an election",
        "Each would give out the same GPU devices.",
        "Set lease.enabled: true, or replicas: 1.",
        _many_without_lease,
    ),
    Rule(
        "UD306",
        WARNING,
        "The scheduler may be preempted",
        "A pod that it places could push it out.",
        "Set priorityClassName: system-cluster-critical.",
        _preemptible,
    ),
    Rule(
        "UD307",
        ERROR,
        "The scheduler waits for itself",
        "A pod that names the scheduler it is part of can never start.",
        "Delete schedulerName from the Deployment: the default scheduler places it.",
        _bootstrap,
    ),
    Rule(
        "UD308",
        ERROR,
        "No readiness probe",
        "Standbys and replicas whose view is not complete must not be asked.",
        "Add a readinessProbe on /readyz.",
        _no_probe,
    ),
    Rule(
        "UD309",
        WARNING,
        "The container has more power than it uses",
        "Ullage needs no root, no writable root file system, no capability.",
        "Set runAsNonRoot, readOnlyRootFilesystem, allowPrivilegeEscalation: false, drop ALL, seccomp RuntimeDefault.",
        _privileged,
    ),
    Rule(
        "UD310",
        ERROR,
        "A JSONPatch of typed objects",
        "A list of typed objects as value panics inside kube-apiserver 1.36.3, even with failurePolicy Ignore.",
        "Give plain maps as values, or use patchType: ApplyConfiguration.",
        _json_patch,
    ),
    Rule(
        "UD311",
        WARNING,
        "Mutating admission policies are off below 1.36",
        "They are beta and off in 1.34 and 1.35; the gate and scheduler name would not be set.",
        "Switch the feature gate and API on, set gate and schedulerName in pod templates, or upgrade.",
        _policy_version,
    ),
    Rule("UD312", WARNING, *UNGUARDED, _unguarded),
)
