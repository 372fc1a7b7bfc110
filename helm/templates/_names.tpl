{{- define "tandem.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that whatever is appended here, and by the operator, stays within 63. */}}
{{- define "tandem.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "tandem.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of objects. Takes {root, component}. */}}
{{- define "tandem.labels" -}}
{{ include "tandem.selector" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: tandem
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods. Not the chart's version: another label is another template, and replaces every pod.
Takes {root, component}. */}}
{{- define "tandem.podLabels" -}}
{{ include "tandem.selector" . }}
app.kubernetes.io/part-of: tandem
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What never changes, for selectors. Labels of our own, because the operator writes others. */}}
{{- define "tandem.selector" -}}
app.kubernetes.io/name: {{ include "tandem.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels by which network policies know pods, whatever else labels them. */}}
{{- define "tandem.marks" -}}
tandem/instance: {{ .root.Release.Name }}
tandem/component: {{ .component }}
{{- end -}}

{{- define "tandem.annotations" -}}
{{- with .Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Takes {root, image}. */}}
{{- define "tandem.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Takes {root, of: "worker" or "router"}. */}}
{{- define "tandem.serviceAccount" -}}
{{- $account := (index .root.Values .of).serviceAccount -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if $account.create -}}
{{- printf "%s-%s" (include "tandem.fullname" .root) .of -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "tandem.rayName" -}}
{{- printf "%s-ray" (include "tandem.fullname" .) -}}
{{- end -}}

{{- define "tandem.headService" -}}
{{- printf "%s-head-svc" (include "tandem.rayName" .) -}}
{{- end -}}

{{- define "tandem.doorSecret" -}}
{{- default (printf "%s-door-tls" (include "tandem.fullname" .)) .Values.tls.door.secretName -}}
{{- end -}}

{{- define "tandem.internalSecret" -}}
{{- default (printf "%s-internal-tls" (include "tandem.fullname" .)) .Values.tls.internal.secretName -}}
{{- end -}}

{{- define "tandem.fleetAddress" -}}
{{- printf "%s-fleet.%s.svc.%s:%d" (include "tandem.fullname" .) .Release.Namespace .Values.clusterDomain (int .Values.router.ports.fleet) -}}
{{- end -}}

{{/* A pool's settings over the defaults. Takes {root, name}; gives JSON. */}}
{{- define "tandem.pool" -}}
{{- $merged := mustMergeOverwrite (deepCopy .root.Values.poolDefaults) (deepCopy (index .root.Values.pools .name)) -}}
{{- toJson $merged -}}
{{- end -}}
