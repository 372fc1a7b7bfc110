{{/* A HorizontalPodAutoscaler of a Deployment, unless somebody else scales it.
Takes {root, name, component, scaling}. */}}
{{- define "tandem.autoscaler" -}}
{{- if and .scaling.enabled (not .scaling.external) }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .name }}
  labels: {{- include "tandem.labels" (dict "root" .root "component" .component) | nindent 4 }}
  {{- include "tandem.annotations" .root | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ .name }}}
  minReplicas: {{ .scaling.minReplicas }}
  maxReplicas: {{ .scaling.maxReplicas }}
  metrics: {{- toYaml .scaling.metrics | nindent 4 }}
  {{- with .scaling.behavior }}
  behavior: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}
