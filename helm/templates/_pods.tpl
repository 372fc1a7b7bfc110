{{/* The beginning of every pod's spec. Takes {root, account, grace}. */}}
{{- define "tandem.podBasics" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Scheduling constraints of a pod. Takes {of}, which has these keys. */}}
{{- define "tandem.where" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $.of $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" "schedulerName" }}
{{- with index $.of $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Metadata of a pod. Takes {root, component, of}, where of has podLabels and podAnnotations; and
mark, labels and annotations where there are any of its own. */}}
{{- define "tandem.podMeta" -}}
labels:
  {{- include "tandem.podLabels" (dict "root" .root "component" .component) | nindent 2 }}
  {{- include "tandem.marks" (dict "root" .root "component" (default .component .mark)) | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .of.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) .of.podAnnotations .root.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A rendered spec, with whatever the user adds: mappings are merged, anything else replaces.
Takes {text, extra}. */}}
{{- define "tandem.withExtra" -}}
{{- if .extra -}}
{{- $made := fromYaml .text -}}
{{- if hasKey $made "Error" -}}{{- fail (printf "the chart made no YAML: %s" $made.Error) -}}{{- end -}}
{{- toYaml (mustMergeOverwrite $made (deepCopy .extra)) -}}
{{- else -}}
{{- .text -}}
{{- end -}}
{{- end -}}

{{/* Secrets that processes read. Takes {root, door}. */}}
{{- define "tandem.secretVolumes" -}}
{{- if .root.Values.tls.internal.enabled }}
- name: internal-tls
  secret: {secretName: {{ include "tandem.internalSecret" .root }}, defaultMode: 0440}
{{- end }}
{{- if and .door .root.Values.tls.door.enabled }}
- name: door-tls
  secret: {secretName: {{ include "tandem.doorSecret" .root }}, defaultMode: 0440}
{{- end }}
{{- if and .door .root.Values.apiKeys.secretName }}
- name: keys
  secret:
    secretName: {{ .root.Values.apiKeys.secretName }}
    defaultMode: 0440
    items: [{key: {{ .root.Values.apiKeys.key }}, path: {{ .root.Values.apiKeys.key }}}]
{{- end }}
{{- end -}}

{{- define "tandem.secretMounts" -}}
{{- if .root.Values.tls.internal.enabled }}
- {name: internal-tls, mountPath: /etc/tandem/tls/internal, readOnly: true}
{{- end }}
{{- if and .door .root.Values.tls.door.enabled }}
- {name: door-tls, mountPath: /etc/tandem/tls/door, readOnly: true}
{{- end }}
{{- if and .door .root.Values.apiKeys.secretName }}
- {name: keys, mountPath: /etc/tandem/keys, readOnly: true}
{{- end }}
{{- end -}}
