{{/* What `helm upgrade --reuse-values` leaves out: keys that are younger than the values it keeps. As in values.yaml; a
template that reads one of them includes this first. */}}
{{- define "ullage.defaults" -}}
{{- $younger := dict
  "devicesPolicy" (dict "enabled" true)
  "gpuShares" (dict "enabled" false)
  "rightsize" (dict "enabled" false)
  "plan" (dict "enabled" false "policy" true "managedFields" false "sweeperDeadline" 180 "sweeperGangDeadline" 1200 "apply" false)
  "expander" (dict "enabled" false "port" 9444 "prices" "" "namespace" "kube-system" "cidrs" list)
  "reclaim" (dict "enabled" false)
  "prometheusRule" (dict "enabled" false "labels" dict)
  "grafanaDashboard" (dict "enabled" false "labels" (dict "grafana_dashboard" "1")) -}}
{{- range $section, $defaults := $younger -}}
{{- $given := get $.Values $section | default dict -}}
{{- range $key, $value := $defaults -}}
{{- if not (hasKey $given $key) }}{{ $_ := set $given $key $value }}{{ end -}}
{{- end -}}
{{- $_ := set $.Values $section $given -}}
{{- end -}}
{{- end -}}

{{- define "ullage.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "ullage.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "ullage.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "ullage.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ullage.scheduler" -}}
{{ include "ullage.fullname" . }}-scheduler
{{- end -}}

{{- define "ullage.selector" -}}
app.kubernetes.io/name: {{ include "ullage.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ullage.labels" -}}
{{ include "ullage.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ullage
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ullage.image" -}}
{{- $tag := default .default .image.tag -}}
{{- if .image.digest -}}{{ .image.repository }}@{{ .image.digest }}{{- else -}}{{ .image.repository }}:{{ $tag }}{{- end -}}
{{- end -}}

{{- define "ullage.serverSecret" -}}
{{- if eq .Values.certificates.mode "existing" -}}{{ .Values.certificates.serverSecret }}{{- else -}}{{ include "ullage.fullname" . }}-tls{{- end -}}
{{- end -}}

{{- define "ullage.clientSecret" -}}
{{- if eq .Values.certificates.mode "existing" -}}{{ .Values.certificates.clientSecret }}{{- else -}}{{ include "ullage.fullname" . }}-client-tls{{- end -}}
{{- end -}}

{{- define "ullage.host" -}}
{{ include "ullage.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Our entries of `extenders`; .tls says where the scheduler finds its certificates. */}}
{{- define "ullage.extenders" -}}
{{- $url := printf "https://%s:%d/v1" (include "ullage.host" .root) (int .root.Values.service.port) -}}
- urlPrefix: {{ $url }}
  filterVerb: filter
  prioritizeVerb: prioritize
  preemptVerb: preempt
  weight: {{ .root.Values.scheduler.weight }}
  enableHTTPS: true
  tlsConfig:
    {{- .tls | nindent 4 }}
    serverName: {{ include "ullage.host" .root }}
  httpTimeout: {{ .root.Values.scheduler.httpTimeout }}
  nodeCacheCapable: true
  ignorable: true
{{- if .root.Values.scheduler.gpu.enabled }}
- urlPrefix: {{ $url }}/gpu
  filterVerb: filter
  bindVerb: bind
  enableHTTPS: true
  tlsConfig:
    {{- .tls | nindent 4 }}
    serverName: {{ include "ullage.host" .root }}
  httpTimeout: {{ .root.Values.scheduler.gpu.httpTimeout }}
  nodeCacheCapable: true
  ignorable: false
  managedResources:
    - name: ullage.dev/gpu-milli
{{- end }}
{{- end -}}

{{- define "ullage.tlsFiles" -}}
caFile: {{ . }}/ca.crt
certFile: {{ . }}/tls.crt
keyFile: {{ . }}/tls.key
{{- end -}}

{{/* The stanza for the default scheduler: authority inline, identity by file. */}}
{{- define "ullage.stanza" -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
percentageOfNodesToScore: {{ .root.Values.scheduler.percentageOfNodesToScore }}
extenders:
{{ include "ullage.extenders" . | indent 2 }}
{{- end -}}

{{- define "ullage.settings" -}}
{{- include "ullage.defaults" . -}}
{{- $own := dict
  "mode" .Values.mode
  "strategy" .Values.strategy
  "exempt_namespaces" (append .Values.exemptNamespaces .Release.Namespace | uniq)
  "http" (dict
    "port" (int .Values.service.port)
    "tls_cert" "/etc/ullage/tls/tls.crt"
    "tls_key" "/etc/ullage/tls/tls.key"
    "client_ca" "/etc/ullage/tls/ca.crt"
    "health_port" (int .Values.healthPort)
    "admin_port" (int .Values.adminPort))
  "lease" (dict "enabled" true "name" (include "ullage.fullname" .) "namespace" .Release.Namespace)
  "log" (dict "folder" "/var/lib/ullage/log")
  "plan" (dict "enabled" .Values.plan.enabled)
  "records" (dict "path" "/var/lib/ullage/records.db") -}}
{{- if .Values.expander.enabled -}}
{{- $_ := set $own "expander" (dict "port" (int .Values.expander.port) "prices" "/etc/ullage/settings/prices.csv") -}}
{{- end -}}
{{- mergeOverwrite $own (deepCopy .Values.settings) | toYaml -}}
{{- end -}}

{{- define "ullage.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "ullage.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
{{- end -}}
