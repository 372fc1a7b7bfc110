{{/* The address to listen on: all of the pod's, IPv4 and IPv6. */}}
{{- define "tandem.anyAddress" -}}
{{ .Values.network.listen }}
{{- end -}}

{{/* RouterConfig, beyond what has a flag of its own, as JSON. */}}
{{- define "tandem.routerSettings" -}}
{{- $settings := deepCopy .Values.router.settings -}}
{{- $_ := set $settings "models" (include "tandem.models" . | fromJson) -}}
{{- $_ := set $settings "admin_host" (include "tandem.anyAddress" .) -}}
{{- $_ := set $settings "drain_timeout_s" (int .Values.drain.timeoutSeconds) -}}
{{- $_ := set $settings "admin_port" (int .Values.router.ports.admin) -}}
{{- if .Values.apiKeys.secretName -}}
{{- $_ := set $settings "keys_file" (printf "/etc/tandem/keys/%s" .Values.apiKeys.key) -}}
{{- end -}}
{{- if .Values.tls.door.enabled -}}
{{- $door := dict "cert" "/etc/tandem/tls/door/tls.crt" "key" "/etc/tandem/tls/door/tls.key" -}}
{{- if .Values.tls.door.clientAuth -}}{{- $_ := set $door "client_ca" "/etc/tandem/tls/door/ca.crt" -}}{{- end -}}
{{- $_ := set $settings "door_tls" $door -}}
{{- end -}}
{{- if .Values.tls.internal.enabled -}}
{{- $_ := set $settings "tls" (include "tandem.internalTls" . | fromJson) -}}
{{- end -}}
{{- toJson $settings -}}
{{- end -}}

{{- define "tandem.internalTls" -}}
{{- dict "ca" "/etc/tandem/tls/internal/ca.crt" "cert" "/etc/tandem/tls/internal/tls.crt" "key" "/etc/tandem/tls/internal/tls.key" | toJson -}}
{{- end -}}

{{/* WorkerConfig of a pool, as JSON. Takes {root, pool}. */}}
{{- define "tandem.workerSettings" -}}
{{- $settings := mustMergeOverwrite (deepCopy .root.Values.worker.settings) (deepCopy .pool.settings) -}}
{{- if not .pool.sharesNode -}}{{- $_ := set $settings "metrics_port" (int .pool.metricsPort) -}}{{- end -}}
{{- $_ := set $settings "drain_timeout_s" (int .root.Values.drain.timeoutSeconds) -}}
{{- if not (hasKey $settings "threads") -}}{{- $_ := set $settings "threads" (int .pool.cpus) -}}{{- end -}}
{{- if and (gt (int .pool.gpus.count) 0) (not (hasKey $settings "device")) -}}{{- $_ := set $settings "device" "cuda" -}}{{- end -}}
{{- if .root.Values.tls.internal.enabled -}}
{{- $_ := set $settings "tls" (include "tandem.internalTls" .root | fromJson) -}}
{{- end -}}
{{- toJson $settings -}}
{{- end -}}

{{/* The configuration file of `python -m cluster up`. */}}
{{- define "tandem.clusterFile" -}}
{{- $root := . -}}
models: {{ include "tandem.models" . }}
name: {{ include "tandem.fullname" . }}
num_routers: 0
start_timeout_s: {{ .Values.worker.startTimeoutSeconds }}
drain_timeout_s: {{ .Values.drain.timeoutSeconds }}
ray:
  place_timeout_s: {{ .Values.ray.placeTimeoutSeconds }}
worker:
  routers: [{{ include "tandem.fleetAddress" . | quote }}]
pools:
{{- range $name, $given := .Values.pools }}
{{- if $given }}
{{- $pool := include "tandem.pool" (dict "root" $root "name" $name) | fromJson }}
  {{ $name }}:
    role: {{ $pool.role }}
    model: {{ include "tandem.poolModel" (dict "root" $root "pool" $pool) | quote }}
    replicas: {{ $pool.replicas }}
    num_cpus: {{ $pool.cpus }}
    num_gpus: {{ $pool.gpus.count }}
    resources: {{ include "tandem.rayResources" (dict "name" $name "pool" $pool) }}
    worker: {{ include "tandem.workerSettings" (dict "root" $root "pool" $pool) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Custom resources of a pool's Ray node, which its worker reserves, as JSON. Takes {name, pool}. */}}
{{- define "tandem.rayResources" -}}
{{- set (deepCopy .pool.rayResources) (printf "tandem-%s" .name) 1 | toJson -}}
{{- end -}}
