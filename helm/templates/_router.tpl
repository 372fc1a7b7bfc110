{{- define "tandem.routerPod" -}}
{{- $root := . }}{{ $router := .Values.router -}}
{{- include "tandem.podBasics" (dict "root" . "account" (include "tandem.serviceAccount" (dict "root" . "of" "router")) "grace" .Values.drain.terminationGracePeriodSeconds) }}
{{- include "tandem.routerWhere" . }}
{{- $init := include "tandem.modelInit" (dict "root" . "image" .Values.images.router "tokenizer" true) }}
{{- if or $init $router.extraInitContainers }}
initContainers:
  {{- with $router.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- $init | nindent 2 }}
{{- end }}
containers:
  - {{- include "tandem.withExtra" (dict "text" (include "tandem.router" .) "extra" $router.extraContainerSpec) | nindent 4 }}
  {{- with $router.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  {{- include "tandem.modelVolumes" (dict "root" .) | nindent 2 }}
  {{- include "tandem.secretVolumes" (dict "root" . "door" true) | nindent 2 }}
  {{- with $router.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Default affinity of routers: preferably on different nodes. */}}
{{- define "tandem.routerWhere" -}}
{{- $of := deepCopy .Values.router -}}
{{- if not $of.affinity -}}
{{- $others := dict "matchLabels" (include "tandem.selector" (dict "root" . "component" "router") | fromYaml) -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" $others -}}
{{- $away := dict "weight" 100 "podAffinityTerm" $term -}}
{{- $_ := set $of "affinity" (dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $away))) -}}
{{- end -}}
{{- include "tandem.where" (dict "of" $of) -}}
{{- end -}}

{{- define "tandem.router" -}}
{{- $router := .Values.router -}}
name: router
image: {{ include "tandem.image" (dict "root" . "image" .Values.images.router) }}
imagePullPolicy: {{ .Values.images.router.pullPolicy }}
command: [python, -m, router]
args:
  - {{ include "tandem.anyAddress" . | printf "--host=%s" | quote }}
  - --http-port={{ $router.ports.http }}
  - --grpc-port={{ $router.ports.grpc }}
  - --fleet-port={{ $router.ports.fleet }}
  - --settings={{ include "tandem.routerSettings" . }}
  {{- with $router.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  - {name: HOME, value: /tmp}
  {{- with $router.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $router.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: http, containerPort: {{ $router.ports.http }}}
  - {name: grpc, containerPort: {{ $router.ports.grpc }}}
  - {name: fleet, containerPort: {{ $router.ports.fleet }}}
  - {name: admin, containerPort: {{ $router.ports.admin }}}
# Probes use the admin port, where health needs no key. A router is live as soon as it answers,
# and ready while it has workers and does not drain.
startupProbe:
  {{- include "tandem.routerProbe" (dict "root" . "path" "/ping") | nindent 2 }}
  periodSeconds: 2
  failureThreshold: {{ div (add $router.startTimeoutSeconds 1) 2 }}
readinessProbe:
  {{- include "tandem.routerProbe" (dict "root" . "path" "/health") | nindent 2 }}
  periodSeconds: 3
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  {{- include "tandem.routerProbe" (dict "root" . "path" "/ping") | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
lifecycle:
  preStop: {exec: {command: [sleep, {{ .Values.drain.endpointDelaySeconds | quote }}]}}
resources: {{- toYaml $router.resources | nindent 2 }}
securityContext: {{- toYaml .Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- include "tandem.modelMounts" (dict "root" .) | nindent 2 }}
  {{- include "tandem.secretMounts" (dict "root" . "door" true) | nindent 2 }}
  {{- with $router.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* How a router is asked. The kubelet has no certificate to show: where doors want one, the router
shows its own. Takes {root, path}. */}}
{{- define "tandem.routerProbe" -}}
{{- if and .root.Values.tls.door.enabled .root.Values.tls.door.clientAuth -}}
exec:
  command:
    - python
    - -c
    - |
      import ssl, sys, urllib.request
      context = ssl.create_default_context()
      context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
      context.load_cert_chain("/etc/tandem/tls/door/tls.crt", "/etc/tandem/tls/door/tls.key")
      urllib.request.urlopen(sys.argv[1], context=context, timeout=4)
    - https://127.0.0.1:{{ .root.Values.router.ports.admin }}{{ .path }}
{{- else -}}
httpGet: {path: {{ .path }}, port: admin, scheme: {{ .root.Values.tls.door.enabled | ternary "HTTPS" "HTTP" }}}
{{- end -}}
{{- end -}}
