{{/* A name of at most `max` characters that starts with a letter and has no dots, as services' names
must. What had to be changed for that ends with a hash of the whole, so that two names never become
one. Takes {name, max}. */}}
{{- define "tandem.dnsName" -}}
{{- $clean := .name | lower | replace "." "-" | replace "_" "-" | replace "/" "-" -}}
{{- if not (regexMatch "^[a-z]" $clean) -}}{{- $clean = printf "t-%s" $clean -}}{{- end -}}
{{- if and (eq $clean .name) (le (len $clean) (int .max)) (not (hasSuffix "-" $clean)) -}}
{{- $clean -}}
{{- else -}}
{{- printf "%s-%s" ($clean | trunc (int (sub .max 9)) | trimSuffix "-") (sha256sum .name | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/* Prefix of names, short enough that suffixes of the chart and the operator stay within 63. */}}
{{- define "tandem.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name = contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- end -}}
{{- include "tandem.dnsName" (dict "name" $name "max" 40) -}}
{{- end -}}

{{/* Name of a pool's objects. Takes {root, name}. */}}
{{- define "tandem.poolName" -}}
{{- include "tandem.dnsName" (dict "name" (printf "%s-%s" (include "tandem.fullname" .root) .name) "max" 52) -}}
{{- end -}}

{{/* Labels of objects. Takes {root, component}. */}}
{{- define "tandem.labels" -}}
{{ include "tandem.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* Labels of pods: without versions, for a pod whose label changes is another pod.
Takes {root, component}. */}}
{{- define "tandem.podLabels" -}}
{{ include "tandem.selector" . }}
app.kubernetes.io/part-of: tandem
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels for selectors, which upgrades cannot change, so they depend on no value. Takes {root, component}. */}}
{{- define "tandem.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels by which network policies select pods. */}}
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

{{/* Name of the RayCluster: two of its fields are immutable, so other values make another cluster. */}}
{{- define "tandem.rayName" -}}
{{- $fixed := list (dig "managedBy" "" .Values.ray.extraSpec) (dig "gcsFaultToleranceOptions" "backend" "" .Values.ray.extraSpec) -}}
{{- $suffix := eq (join "" $fixed) "" | ternary "" (printf "-%s" (toJson $fixed | sha256sum | trunc 6)) -}}
{{- printf "%s-ray%s" (include "tandem.fullname" .) $suffix -}}
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

{{/* A pool's values over the defaults. Without replicas somebody else chooses their number.
sharesNode is true where a Ray node has more than one worker, whose ports must differ. Takes {root, name}; gives JSON. */}}
{{- define "tandem.pool" -}}
{{- $given := index .root.Values.pools .name -}}
{{- $merged := mustMergeOverwrite (deepCopy .root.Values.poolDefaults) (deepCopy $given) -}}
{{- if or $merged.autoscaling.enabled (and (hasKey $given "replicas") (kindIs "invalid" $given.replicas)) -}}
{{- $merged = unset $merged "replicas" -}}
{{- end -}}
{{- if not $merged.port -}}{{- $_ := set $merged "port" (int .root.Values.worker.port) -}}{{- end -}}
{{- if not $merged.metricsPort -}}{{- $_ := set $merged "metricsPort" (int .root.Values.worker.metricsPort) -}}{{- end -}}
{{- $shares := gt (int $merged.workersPerNode) 1 -}}
{{- if $merged.onNodesOf -}}{{- $shares = true -}}{{- end -}}
{{- range $name, $other := .root.Values.pools -}}
{{- if and $other (eq $.name (dig "onNodesOf" $.root.Values.poolDefaults.onNodesOf $other)) -}}{{- $shares = true -}}{{- end -}}
{{- end -}}
{{- $_ := set $merged "sharesNode" $shares -}}
{{- toJson $merged -}}
{{- end -}}
