{{/* The line `replicas` of a Deployment. Where an autoscaler chooses, the number is whatever the
cluster has now: an upgrade that left the line out would have one pod until the autoscaler looks
again. Takes {root, name, replicas}; replicas is absent where somebody else chooses. */}}
{{- define "tandem.replicas" -}}
{{- if not (kindIs "invalid" .replicas) -}}
replicas: {{ .replicas }}
{{- else -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace .name -}}
{{- if $live }}
replicas: {{ $live.spec.replicas }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Minimum number of pods of a pool or of routers. Takes {of}; of has replicas or autoscaling. */}}
{{- define "tandem.fewest" -}}
{{- if .of.autoscaling.enabled -}}
{{- .of.autoscaling.minReplicas -}}
{{- else -}}
{{- kindIs "invalid" .of.replicas | ternary 2 .of.replicas -}}
{{- end -}}
{{- end -}}

{{/* Timeout for a worker to serve, in seconds: download, load, and with Ray the node's start. */}}
{{- define "tandem.loadBudget" -}}
{{- $seconds := add .Values.worker.startTimeoutSeconds .Values.imagePullSeconds -}}
{{- if include "tandem.hfModels" . | fromJson -}}
{{- $seconds = add $seconds .Values.download.timeoutSeconds -}}
{{- end -}}
{{- if eq .Values.launcher "ray" -}}
{{- $seconds = add $seconds .Values.ray.placeTimeoutSeconds -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}
