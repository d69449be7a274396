"""Examples that help ends with, of every command that needs one, in one table.

The command line adds them (:func:`scheduler.__main__._finish`); tests hold each line against the commands, so that none
names what does not exist.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "serve": (
        "ullage serve --print-settings > ullage.toml",
        "ullage serve --check --config ullage.yaml",
        "ullage serve --config ullage.yaml --mode shadow --records records.db",
    ),
    "simulate": (
        "ullage simulate demo -s priced",
        "ullage simulate mine.ullage -s priced --delivery score --log log",
    ),
    "compare": (
        "ullage compare demo -s kube-default -s priced --seeds 3 --report out/report.html",
        "ullage compare mine.ullage -s priced -s mine.toml --fleet elastic -o json",
    ),
    "strategies show": ("ullage strategies show priced > mine.toml",),
    "trace info": ("ullage trace info demo", "ullage trace info openb:DIR:default -o json"),
    "trace slice": ("ullage trace slice mine.ullage monday.ullage --from 24h --to 48h",),
    "trace synth": ("ullage trace synth --days 1 --load 1.1 made-up.ullage",),
    "trace validate": (
        "ullage trace validate mine.ullage --fix mended.ullage",
        "ullage trace validate explain T005",
    ),
    "record": ("ullage record mine.ullage -p http://localhost:9090 --days 28",),
    "train": ("ullage train mine.ullage -m model",),
    "evaluate": ("ullage evaluate mine.ullage -m model --report accuracy.html",),
    "rightsize": (
        "ullage rightsize -p http://localhost:9090 -n shop",
        "ullage rightsize -p http://localhost:9090 -m model --apply",
    ),
    "plan": (
        "ullage plan consolidate demo --at 4h --report plan.html",
        "ullage plan consolidate --live --max-moves 20 -o json > plan.json",
        "ullage plan apply plan.json",
    ),
    "plan rescue": ("ullage plan rescue --live --report plan.html", "ullage plan rescue --live -o json > plan.json"),
    "plan batch": (
        "ullage plan batch --snapshot cluster.json --report plan.html",
        "helm template mine ./chart | ullage plan batch --live --with -",
    ),
    "plan consolidate": (
        "ullage plan consolidate demo --at 4h --report plan.html",
        "ullage plan consolidate --live --max-moves 20 -o json > plan.json",
    ),
    "plan purchase": (
        "ullage plan purchase --live --prices prices.csv",
        "ullage plan purchase --live --ahead 24h -p http://localhost:9090",
    ),
    "plan fleet": ("ullage plan fleet mine.ullage --prices prices.csv",),
    "plan apply": ("ullage plan apply plan.json", "ullage plan apply plan.json --yes"),
    "snapshot": (
        "ullage snapshot --live -f cluster.json",
        "kubectl get nodes,pods,namespaces,pdb -A -o json | ullage snapshot - -f cluster.json",
    ),
    "doctor": (
        "ullage doctor --config scheduler.yaml --settings ullage.yaml",
        "ullage doctor --config rendered.yaml --live --address localhost:8443 --certificates tls",
        "ullage doctor explain UD103",
    ),
    "explain": ("ullage explain pod/web-0 -n shop --node node-17",),
    "decisions list": ("ullage decisions list -n shop --differs --since -2h",),
    "decisions from-log": ("ullage decisions from-log log --records records.db",),
    "shadow report": ("ullage shadow report --since -7d --report shadow.html",),
    "bundle": ("ullage bundle /var/lib/ullage/log --config ullage.yaml", "ullage bundle --verify ullage-bundle.tar.gz"),
}
"""Command → command lines, the commonest first."""


def epilog(path: str) -> str | None:
    """The examples of a command as the end of its help; None if it has none."""
    lines = EXAMPLES.get(path)
    if lines is None:
        return None
    head = "Examples:" if len(lines) > 1 else "Example:"
    return "\n".join(["\b", head, *(f"  {line}" for line in lines)])
