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

{{/* Where a pod may run. Takes {of}, which has these keys. */}}
{{- define "tandem.where" -}}
{{- range $key := list "nodeSelector" "tolerations" "topologySpreadConstraints" }}
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

{{/* What a worker's container may take. Takes {pool}. */}}
{{- define "tandem.workerResources" -}}
{{- $devices := dict -}}
{{- if gt (int .pool.gpus.count) 0 -}}
{{- $_ := set $devices .pool.gpus.resourceName (int .pool.gpus.count) -}}
{{- end -}}
{{- if .pool.rdma.enabled -}}
{{- range $name, $count := .pool.rdma.resources -}}
{{- $_ := set $devices $name $count -}}
{{- end -}}
{{- end -}}
{{- $resources := deepCopy .pool.resources -}}
{{- $_ := set $resources "requests" (merge (dict) (default dict $resources.requests) $devices) -}}
{{- $_ := set $resources "limits" (merge (dict) (default dict $resources.limits) $devices) -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Takes {root, pool}. */}}
{{- define "tandem.workerSecurity" -}}
{{- $context := deepCopy .root.Values.containerSecurityContext -}}
{{- if .pool.rdma.enabled -}}
{{- $capabilities := default dict $context.capabilities -}}
{{- $_ := set $context "capabilities" (set $capabilities "add" .pool.rdma.capabilities) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* Takes {root, pool}. */}}
{{- define "tandem.workerEnv" -}}
- {name: HOME, value: /tmp}
- {name: TANDEM_CACHE_DIR, value: /cache/tandem}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- if .pool.rdma.enabled }}
{{- range $name, $value := .pool.rdma.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of workers in both launchers. Takes {root, pool}. */}}
{{- define "tandem.workerVolumes" -}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .pool.shmSize }}}
- name: tmp
  emptyDir: {sizeLimit: {{ .pool.scratchSize }}}
- name: cache
  emptyDir: {sizeLimit: {{ .pool.scratchSize }}}
{{- include "tandem.modelVolume" .root }}
{{- include "tandem.secretVolumes" (dict "root" .root "door" false) }}
{{- with .pool.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tandem.workerMounts" -}}
- {name: shm, mountPath: /dev/shm}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
{{- include "tandem.modelMount" .root }}
{{- include "tandem.secretMounts" (dict "root" .root "door" false) }}
{{- with .pool.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Pods that share a rack, a node group or whatever the key names. Takes {root, pool}. */}}
{{- define "tandem.workerAffinity" -}}
{{- if .pool.affinity }}
affinity: {{- toYaml .pool.affinity | nindent 2 }}
{{- else if .pool.colocateKey }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: {{ .pool.colocateKey }}
        labelSelector:
          matchLabels: {{- include "tandem.marks" (dict "root" .root "component" "worker") | nindent 12 }}
{{- end }}
{{- end -}}

{{/* Metadata of a worker's pod. Takes {root, name, pool}. */}}
{{- define "tandem.workerMeta" -}}
labels:
  {{- include "tandem.podLabels" (dict "root" .root "component" (printf "worker-%s" .name)) | nindent 2 }}
  {{- include "tandem.marks" (dict "root" .root "component" "worker") | nindent 2 }}
  tandem/pool: {{ .name }}
  tandem/role: {{ .pool.role }}
  {{- with .pool.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := merge (dict) .pool.podAnnotations (ternary .pool.rdma.annotations (dict) .pool.rdma.enabled) .root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The end of a worker's pod: everything but its containers. Takes {root, name, pool}. */}}
{{- define "tandem.workerPod" -}}
{{- $root := .root }}{{ $pool := .pool -}}
{{- include "tandem.podBasics" (dict "root" $root "account" (include "tandem.serviceAccount" (dict "root" $root "of" "worker")) "grace" $root.Values.drain.terminationGracePeriodSeconds) }}
{{- if $pool.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- include "tandem.where" (dict "of" $pool) }}
{{- include "tandem.workerAffinity" (dict "root" $root "pool" $pool) }}
{{- $init := include "tandem.modelInit" (dict "root" $root "image" $root.Values.images.worker "tokenizer" false) }}
{{- if or $init $pool.extraInitContainers }}
initContainers:
  {{- with $pool.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- $init | nindent 2 }}
{{- end }}
volumes:
  {{- include "tandem.workerVolumes" (dict "root" $root "pool" $pool) | nindent 2 }}
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
