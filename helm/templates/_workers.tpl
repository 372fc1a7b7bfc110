{{/* Resources of a worker's container. Takes {pool}. */}}
{{- define "tandem.workerResources" -}}
{{- $devices := dict -}}
{{- if and .pool.gpus.resourceName (gt (int .pool.gpus.count) 0) -}}
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
{{- if .pool.resourceClaims -}}
{{- $claims := list -}}
{{- range .pool.resourceClaims -}}{{- $claims = append $claims (dict "name" .name) -}}{{- end -}}
{{- $_ := set $resources "claims" $claims -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Takes {root, pool}. */}}
{{- define "tandem.workerSecurity" -}}
{{- $context := deepCopy .root.Values.containerSecurityContext -}}
{{- if and .pool.rdma.enabled .pool.rdma.capabilities -}}
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

{{/* The part of a worker's container that both launchers share. Takes {root, pool}. */}}
{{- define "tandem.workerVolumes" -}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .pool.shmSize }}}
- name: tmp
  emptyDir: {sizeLimit: {{ .pool.scratchSize }}}
- name: cache
  emptyDir: {sizeLimit: {{ .pool.scratchSize }}}
{{- include "tandem.modelVolumes" (dict "root" .root "models" (include "tandem.poolModel" . | list)) }}
{{- include "tandem.secretVolumes" (dict "root" .root "door" false) }}
{{- with .pool.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tandem.workerMounts" -}}
- {name: shm, mountPath: /dev/shm}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
{{- include "tandem.modelMounts" (dict "root" .root "models" (include "tandem.poolModel" . | list)) }}
{{- include "tandem.secretMounts" (dict "root" .root "door" false) }}
{{- with .pool.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where a pool's pods may run: by its affinity, or in a rack, a node group or whatever colocateKey
names, all workers of the release together. Takes {root, pool}. */}}
{{- define "tandem.workerWhere" -}}
{{- $of := deepCopy .pool -}}
{{- if and .pool.colocateKey (not .pool.affinity) -}}
{{- $peers := dict "matchLabels" (include "tandem.marks" (dict "root" .root "component" "worker") | fromYaml) -}}
{{- $term := dict "topologyKey" .pool.colocateKey "labelSelector" $peers -}}
{{- $_ := set $of "affinity" (dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term))) -}}
{{- end -}}
{{- include "tandem.where" (dict "of" $of) -}}
{{- end -}}

{{/* Metadata of a worker's pod. Takes {root, name, pool}. */}}
{{- define "tandem.workerMeta" -}}
{{- $labels := dict "tandem/pool" .name "tandem/role" .pool.role -}}
{{- $annotations := ternary .pool.rdma.annotations (dict) .pool.rdma.enabled -}}
{{- include "tandem.podMeta" (dict "root" .root "component" (printf "worker-%s" .name) "mark" "worker" "of" .pool "labels" $labels "annotations" $annotations) -}}
{{- end -}}

{{/* A worker's pod: everything but its containers. Takes {root, name, pool}. */}}
{{- define "tandem.workerPod" -}}
{{- $root := .root }}{{ $pool := .pool -}}
{{- include "tandem.podBasics" (dict "root" $root "account" (include "tandem.serviceAccount" (dict "root" $root "of" "worker")) "grace" $root.Values.drain.terminationGracePeriodSeconds) }}
{{- if $pool.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- if $pool.hostIPC }}
hostIPC: true
{{- end }}
{{- if $pool.hostPID }}
hostPID: true
{{- end }}
{{- with $pool.resourceClaims }}
resourceClaims: {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "tandem.workerWhere" (dict "root" $root "pool" $pool) }}
{{- $init := include "tandem.modelInit" (dict "root" $root "image" $root.Values.images.worker "tokenizer" false "models" (include "tandem.poolModel" . | list)) }}
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
