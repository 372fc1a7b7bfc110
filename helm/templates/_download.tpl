{{/* Containers that fetch the models, or wait until the download Jobs have.
Takes {root, image, tokenizer, models}: names, or absent for all. */}}
{{- define "tandem.modelInit" -}}
{{- $root := .root }}{{ $image := .image }}{{ $tokenizer := .tokenizer -}}
{{- $pod := eq $root.Values.model.hf.storage "pod" -}}
{{- range $name, $model := include "tandem.hfModelsOf" . | fromJson }}
- name: {{ include "tandem.downloadName" (dict "root" $root "name" $name "verb" ($pod | ternary "download" "await")) }}
  image: {{ include "tandem.image" (dict "root" $root "image" $image) }}
  imagePullPolicy: {{ $image.pullPolicy }}
  {{- if $pod }}
  {{- include "tandem.download" (dict "root" $root "model" $model "tokenizer" $tokenizer) | nindent 2 }}
  {{- else }}
  command: [sh, -c]
  args:
    - until test -e "$1"; do echo "waiting for $1"; sleep 5; done
    - await-model
    - {{ include "tandem.downloadMark" $model }}
  env:
    - {name: HOME, value: /tmp}
  {{- end }}
  resources: {{- toYaml $root.Values.download.resources | nindent 4 }}
  securityContext: {{- toYaml $root.Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: hub, mountPath: /hub{{ $pod | ternary "" ", readOnly: true" }}}
    {{- if $pod }}
    {{- include "tandem.downloadMounts" $root | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}

{{/* Name of a container. Takes {root, name, verb}. */}}
{{- define "tandem.downloadName" -}}
{{- if eq .name (include "tandem.modelName" .root) -}}
{{ .verb }}-model
{{- else -}}
{{- include "tandem.dnsName" (dict "name" (printf "%s-%s" .verb .name) "max" 60) -}}
{{- end -}}
{{- end -}}

{{/* The file that says that a model is complete: other files wanted of it, another mark. */}}
{{- define "tandem.downloadMark" -}}
{{- printf "%s.%s.complete" (include "tandem.hubDir" .) (list .include .exclude | toJson | sha256sum | trunc 8) -}}
{{- end -}}

{{/* Command, arguments and environment of a download. Takes {root, model, tokenizer}. */}}
{{- define "tandem.download" -}}
{{- $hf := .model -}}
{{- $download := .root.Values.download -}}
command: [sh, -ec]
args:
  - repo=$1; revision=$2; folder=$3; mark=$4; shift 4; hf download "$repo" --revision "$revision" --local-dir "$folder" "$@";
    touch "$mark"
  - download-model
  - {{ $hf.repo | quote }}
  - {{ $hf.revision | quote }}
  - {{ include "tandem.hubDir" $hf }}
  - {{ include "tandem.downloadMark" $hf }}
  {{- range (.tokenizer | ternary (list "*.json" "*.jinja") $hf.include) }}
  - {{ printf "--include=%s" . | quote }}
  {{- end }}
  {{- range $hf.exclude }}
  - {{ printf "--exclude=%s" . | quote }}
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
  {{- include "tandem.downloadEnv" .root | nindent 2 }}
{{- with $download.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How the outside is reached: programs differ in the case of a proxy's variable, and in the
variable of a file of authorities. */}}
{{- define "tandem.downloadEnv" -}}
{{- $download := .Values.download -}}
{{- range $scheme, $url := dict "HTTP" $download.proxy.http "HTTPS" $download.proxy.https "NO" $download.proxy.noProxy }}
{{- if $url }}
- {name: {{ $scheme }}_PROXY, value: {{ $url | quote }}}
- {name: {{ lower $scheme }}_proxy, value: {{ $url | quote }}}
{{- end }}
{{- end }}
{{- if include "tandem.downloadCa" . }}
{{- range $name := list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "CURL_CA_BUNDLE" }}
- {name: {{ $name }}, value: {{ printf "/etc/tandem/download-ca/%s" $download.caBundle.key }}}
{{- end }}
{{- end }}
{{- with $download.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volume with authorities; empty without one. */}}
{{- define "tandem.downloadCa" -}}
{{- $bundle := .Values.download.caBundle -}}
{{- if $bundle.configMap -}}
configMap: {name: {{ $bundle.configMap }}}
{{- else if $bundle.secret -}}
secret: {secretName: {{ $bundle.secret }}, defaultMode: 0440}
{{- end -}}
{{- end -}}

{{- define "tandem.downloadVolumes" -}}
{{- with include "tandem.downloadCa" . }}
- name: download-ca
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.download.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tandem.downloadMounts" -}}
{{- if include "tandem.downloadCa" . }}
- {name: download-ca, mountPath: /etc/tandem/download-ca, readOnly: true}
{{- end }}
{{- with .Values.download.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The pod template of a download Job. Takes {root, model}. */}}
{{- define "tandem.downloadTemplate" -}}
{{- $root := .root }}{{ $download := .root.Values.download -}}
metadata: {{- include "tandem.podMeta" (dict "root" $root "component" "model" "of" $download) | nindent 2 }}
spec: {{- include "tandem.withExtra" (dict "text" (include "tandem.downloadPod" .) "extra" $download.extraPodSpec) | nindent 2 }}
{{- end -}}

{{- define "tandem.downloadPod" -}}
{{- $root := .root }}{{ $download := .root.Values.download -}}
restartPolicy: OnFailure
{{ include "tandem.podBasics" (dict "root" $root "account" (include "tandem.serviceAccount" (dict "root" $root "of" "router")) "grace" 30) }}
{{- include "tandem.where" (dict "of" $download) }}
containers:
  - name: download-model
    image: {{ include "tandem.image" (dict "root" $root "image" $root.Values.images.router) }}
    imagePullPolicy: {{ $root.Values.images.router.pullPolicy }}
    {{- include "tandem.download" (dict "root" $root "model" .model "tokenizer" false) | nindent 4 }}
    resources: {{- toYaml $download.resources | nindent 6 }}
    securityContext: {{- toYaml $root.Values.containerSecurityContext | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: hub, mountPath: /hub}
      {{- include "tandem.downloadMounts" $root | nindent 6 }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  - name: hub
    persistentVolumeClaim: {claimName: {{ include "tandem.modelClaim" $root }}}
  {{- include "tandem.downloadVolumes" $root | nindent 2 }}
{{- end -}}
