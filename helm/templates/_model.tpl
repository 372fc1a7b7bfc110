{{/* The directory that processes are given. Another revision has another, so that it can be
     fetched while processes still read the one before. */}}
{{- define "tandem.modelDir" -}}
{{- $m := .Values.model -}}
{{- if eq $m.source "pvc" -}}
/models/{{ include "tandem.modelName" . }}
{{- else if eq $m.source "hf" -}}
/models/{{ $m.hf.repo | replace "/" "--" }}/{{ $m.hf.revision | replace "/" "-" }}
{{- else -}}
{{- $m.path -}}
{{- end -}}
{{- end -}}

{{- define "tandem.modelName" -}}
{{- $m := .Values.model -}}
{{- if $m.name -}}
{{- $m.name -}}
{{- else if eq $m.source "pvc" -}}
{{- default $m.pvc.claim (base $m.pvc.subPath | trimPrefix ".") -}}
{{- else if eq $m.source "hf" -}}
{{- base $m.hf.repo -}}
{{- else -}}
{{- base $m.path -}}
{{- end -}}
{{- end -}}

{{/* All that are served, as routers have it: {name: {path, …}}, as JSON. */}}
{{- define "tandem.models" -}}
{{- $first := dict (include "tandem.modelName" .) (dict "path" (include "tandem.modelDir" .)) -}}
{{- merge $first (deepCopy .Values.models) | toJson -}}
{{- end -}}

{{/* Name of the model that a pool serves. Takes {root, pool}. */}}
{{- define "tandem.poolModel" -}}
{{- default (include "tandem.modelName" .root) .pool.model -}}
{{- end -}}

{{- define "tandem.modelClaim" -}}
{{- default (printf "%s-model" (include "tandem.fullname" .)) .Values.model.hf.claim.existing -}}
{{- end -}}

{{- define "tandem.modelVolume" -}}
{{- $m := .Values.model -}}
{{- if eq $m.source "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ $m.pvc.claim }}, readOnly: true}
{{- else if and (eq $m.source "path") $m.hostPath }}
- name: model
  hostPath: {path: {{ $m.path }}, type: Directory}
{{- else if and (eq $m.source "hf") (eq $m.hf.storage "claim") }}
- name: model
  persistentVolumeClaim: {claimName: {{ include "tandem.modelClaim" . }}, readOnly: true}
{{- else if eq $m.source "hf" }}
- name: model
  emptyDir: {sizeLimit: {{ $m.hf.podLimit }}}
{{- end }}
{{- end -}}

{{- define "tandem.modelMount" -}}
{{- $m := .Values.model -}}
{{- if eq $m.source "pvc" }}
- name: model
  mountPath: {{ include "tandem.modelDir" . }}
  {{- with $m.pvc.subPath }}
  subPath: {{ . }}
  {{- end }}
  readOnly: true
{{- else if or (eq $m.source "hf") (and (eq $m.source "path") $m.hostPath) }}
- name: model
  mountPath: {{ eq $m.source "hf" | ternary "/models" $m.path }}
  readOnly: true
{{- end }}
{{- end -}}

{{/* Fetches the model, or waits until the download Job has. Takes {root, image, tokenizer}. */}}
{{- define "tandem.modelInit" -}}
{{- $m := .root.Values.model -}}
{{- if eq $m.source "hf" }}
{{- $pod := eq $m.hf.storage "pod" }}
- name: {{ $pod | ternary "download-model" "await-model" }}
  image: {{ include "tandem.image" (dict "root" .root "image" .image) }}
  imagePullPolicy: {{ .image.pullPolicy }}
  {{- if $pod }}
  {{- include "tandem.download" (dict "root" .root "tokenizer" .tokenizer) | nindent 2 }}
  {{- else }}
  command: [sh, -c]
  args:
    - until test -e "$1"; do echo "waiting for $1"; sleep 5; done
    - await-model
    - {{ include "tandem.modelDir" .root }}.complete
  env:
    - {name: HOME, value: /tmp}
  {{- end }}
  resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 2Gi}}
  securityContext: {{- toYaml .root.Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: model, mountPath: /models{{ $pod | ternary "" ", readOnly: true" }}}
{{- end }}
{{- end -}}

{{/* Command, arguments and environment of a download. Takes {root, tokenizer}. */}}
{{- define "tandem.download" -}}
{{- $hf := .root.Values.model.hf -}}
command: [sh, -ec]
args:
  - repo=$1; revision=$2; folder=$3; shift 3; hf download "$repo" --revision "$revision" --local-dir "$folder" "$@";
    touch "$folder.complete"
  - download-model
  - {{ $hf.repo | quote }}
  - {{ $hf.revision | quote }}
  - {{ include "tandem.modelDir" .root }}
  {{- if .tokenizer }}
  - --include=*.json
  - --include=*.jinja
  {{- end }}
env:
  - {name: HOME, value: /tmp}
  - {name: HF_HUB_DISABLE_TELEMETRY, value: "1"}
  {{- with $hf.endpoint }}
  - {name: HF_ENDPOINT, value: {{ . | quote }}}
  {{- end }}
  {{- if $hf.tokenSecret.name }}
  - name: HF_TOKEN
    valueFrom: {secretKeyRef: {name: {{ $hf.tokenSecret.name }}, key: {{ $hf.tokenSecret.key }}}}
  {{- end }}
{{- end -}}
