{{- define "tandem.dnsRule" -}}
{{- $dns := .Values.networkPolicy.dns -}}
- ports:
    {{- range $dns.ports }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $dns.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Peers of a rule. Pods on their node's network have its address and none of their labels:
networkPolicy.nodes are they, or everybody. Takes {root, way, components}. */}}
{{- define "tandem.workerPeers" -}}
{{- $root := .root -}}
{{- $nodes := $root.Values.networkPolicy.nodes -}}
{{- if and (include "tandem.onNodes" $root) (not $nodes) -}}
{{ .way }}: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}]
{{- else -}}
{{ .way }}:
  {{- range .components }}
  - podSelector:
      matchLabels: {{- include "tandem.marks" (dict "root" $root "component" .) | nindent 8 }}
  {{- end }}
  {{- if include "tandem.onNodes" $root }}
  {{- toYaml $nodes | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Not empty if any pool uses its nodes' network. */}}
{{- define "tandem.onNodes" -}}
{{- range $name, $given := .Values.pools -}}
{{- if $given -}}
{{- if (include "tandem.pool" (dict "root" $ "name" $name) | fromJson).hostNetwork -}}yes{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tandem.metricsPorts" -}}
{{- $ports := ternary (list 8080) list (eq .Values.launcher "ray") -}}
{{- range $name, $given := .Values.pools -}}
{{- if $given -}}
{{- $ports = append $ports (int (include "tandem.pool" (dict "root" $ "name" $name) | fromJson).metricsPort) -}}
{{- end -}}
{{- end -}}
{{- range $ports | uniq }}
- port: {{ . }}
{{- end }}
{{- end -}}

{{/* Where models come from: at the ports of whatever the downloads are told of, hubs, proxies and
other addresses in their environment; at 443 where they are told of none. Takes {root, wanted}. */}}
{{- define "tandem.downloadRule" -}}
{{- if .wanted -}}
{{- $root := .root -}}
- ports:
    {{- range include "tandem.downloadPorts" $root | fromJsonArray }}
    - port: {{ . }}
    {{- end }}
  {{- with $root.Values.networkPolicy.download }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if $root.Values.networkPolicy.cloudIdentity }}
# Identity services of clouds: instance metadata, EKS pod identity, GKE workload identity.
- ports: [{port: 80}, {port: 987}, {port: 988}]
  to:
    {{- range list "169.254.169.254/32" "169.254.170.23/32" "169.254.169.252/32" "fd00:ec2::254/128" "fd00:ec2::23/128" }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* As a JSON list. */}}
{{- define "tandem.downloadPorts" -}}
{{- $urls := list .Values.download.proxy.http .Values.download.proxy.https -}}
{{- range $name, $model := include "tandem.hfModels" . | fromJson -}}
{{- $urls = append $urls (default "https://the.default" $model.endpoint) -}}
{{- end -}}
{{- range .Values.download.extraEnv -}}
{{- $urls = append $urls (default "" .value) -}}
{{- end -}}
{{- $ports := .Values.networkPolicy.downloadPorts -}}
{{- range $url := $urls -}}
{{- if regexMatch "^(https?|socks5h?)://" (toString $url) -}}
{{- $parts := urlParse (toString $url) -}}
{{- $port := regexFind ":[0-9]+$" $parts.host | trimPrefix ":" -}}
{{- $ports = append $ports (default (get (dict "http" 80 "https" 443 "socks5" 1080 "socks5h" 1080) $parts.scheme) $port | int) -}}
{{- end -}}
{{- end -}}
{{- $unique := list -}}
{{- range $ports -}}{{- $unique = append $unique (int .) -}}{{- end -}}
{{- $unique | uniq | toJson -}}
{{- end -}}

{{/* The user's own rules for all pods and for some. Takes {root, way: extraIngress or extraEgress, of}. */}}
{{- define "tandem.extraRules" -}}
{{- $rules := index .root.Values.networkPolicy .way -}}
{{- with concat $rules.all (index $rules .of) -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* A whole list of them, which may be empty. */}}
{{- define "tandem.onlyExtraRules" -}}
{{- default "[]" (include "tandem.extraRules" .) -}}
{{- end -}}
