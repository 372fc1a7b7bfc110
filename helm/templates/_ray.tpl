{{/* Holds a Ray pod until what it runs has drained: its driver stops the job, not Ray.
Takes {root, process}. */}}
{{- define "tandem.rayPreStop" -}}
exec:
  command:
    - sh
    - -c
    - i=0; while [ $i -lt "$1" ] && grep -qs "$2" /proc/[0-9]*/cmdline; do sleep 1; i=$((i+1)); done
    - wait-drained
    - {{ add .root.Values.drain.timeoutSeconds .root.Values.drain.endpointDelaySeconds | quote }}
    - {{ .process | quote }}
{{- end -}}

{{/* A number of `ray start`, as the string that the operator wants. Takes {fixed, further}. */}}
{{- define "tandem.rayStartParams" -}}
{{- $params := dict -}}
{{- range $name, $value := merge (dict) .fixed .further -}}
{{- $_ := set $params $name (toString $value) -}}
{{- end -}}
{{- toYaml $params -}}
{{- end -}}

{{/* The Ray nodes of a pool, which may have several of its workers, and those of pools that run on
them: how many they are, and what each has. Takes {root, name, pool}; gives JSON. */}}
{{- define "tandem.rayNodes" -}}
{{- $cpus := 0 }}{{ $gpus := 0 }}{{ $resources := dict -}}
{{- range $name, $given := .root.Values.pools -}}
{{- if $given -}}
{{- $pool := include "tandem.pool" (dict "root" $.root "name" $name) | fromJson -}}
{{- if or (eq $name $.name) (eq $pool.onNodesOf $.name) -}}
{{- $here := int $pool.workersPerNode -}}
{{- $cpus = add $cpus (mul $here (int $pool.cpus)) -}}
{{- $gpus = add $gpus (mul $here (int $pool.gpus.count)) -}}
{{- range $resource, $amount := include "tandem.rayResources" (dict "name" $name "pool" $pool) | fromJson -}}
{{- $_ := set $resources $resource (addf (get $resources $resource | default 0) (mulf $here $amount)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $here := int .pool.workersPerNode -}}
{{- $count := div (add (int .pool.replicas) (sub $here 1)) $here -}}
{{- dict "count" $count "cpus" $cpus "gpus" $gpus "resources" (toJson $resources) | toJson -}}
{{- end -}}

{{- define "tandem.rayTokenSecret" -}}
{{- default (include "tandem.rayName" .) .Values.ray.auth.secretName -}}
{{- end -}}

{{- define "tandem.headPod" -}}
{{- $head := .Values.ray.head -}}
{{- include "tandem.podBasics" (dict "root" . "account" (include "tandem.serviceAccount" (dict "root" . "of" "worker")) "grace" .Values.drain.terminationGracePeriodSeconds) }}
{{- include "tandem.where" (dict "of" $head) }}
{{- with include "tandem.modelInit" (dict "root" . "image" .Values.images.worker "tokenizer" true) }}
initContainers: {{- . | nindent 2 }}
{{- end }}
containers:
  - {{- include "tandem.withExtra" (dict "text" (include "tandem.head" .) "extra" $head.extraContainerSpec) | nindent 4 }}
volumes:
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: 1Gi}
  - name: tmp
    emptyDir: {sizeLimit: 10Gi}
  # Read by the job that the driver submits, again after each change.
  - name: cluster
    configMap:
      name: {{ include "tandem.fullname" . }}-driver
      items: [{key: cluster.yaml, path: cluster.yaml}]
  {{- include "tandem.modelVolumes" (dict "root" .) | nindent 2 }}
  {{- with $head.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "tandem.head" -}}
{{- $head := .Values.ray.head -}}
name: ray-head
image: {{ include "tandem.image" (dict "root" . "image" .Values.images.worker) }}
imagePullPolicy: {{ .Values.images.worker.pullPolicy }}
env:
  - {name: HOME, value: /tmp}
  # Time for a stopped job to end, in which workers drain.
  - {name: RAY_JOB_STOP_WAIT_TIME_S, value: {{ add .Values.drain.timeoutSeconds .Values.drain.endpointDelaySeconds | quote }}}
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
  {{- with $head.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $head.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: gcs-server, containerPort: 6379}
  - {name: dashboard, containerPort: 8265}
  - {name: client, containerPort: 10001}
  - {name: metrics, containerPort: 8080}
lifecycle:
  preStop: {{- include "tandem.rayPreStop" (dict "root" . "process" "^ray::.*JobSupervisor") | nindent 4 }}
resources: {{- toYaml $head.resources | nindent 2 }}
securityContext: {{- toYaml .Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  - {name: shm, mountPath: /dev/shm}
  - {name: tmp, mountPath: /tmp}
  - {name: cluster, mountPath: /etc/tandem, readOnly: true}
  {{- include "tandem.modelMounts" (dict "root" .) | nindent 2 }}
  {{- with $head.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* A Ray node of a pool. Takes {root, name, pool}. */}}
{{- define "tandem.rayWorkerPod" -}}
{{- include "tandem.workerPod" . }}
containers:
  - {{- include "tandem.withExtra" (dict "text" (include "tandem.rayWorker" .) "extra" .pool.extraContainerSpec) | nindent 4 }}
  {{- with .pool.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "tandem.rayWorker" -}}
{{- $root := .root }}{{ $pool := .pool -}}
name: ray-worker
image: {{ include "tandem.image" (dict "root" $root "image" $root.Values.images.worker) }}
imagePullPolicy: {{ $root.Values.images.worker.pullPolicy }}
env:
  {{- include "tandem.workerEnv" . | nindent 2 }}
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
  {{- with $pool.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $pool.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: metrics, containerPort: 8080}
  {{- if not $pool.sharesNode }}
  - {name: status, containerPort: {{ $pool.metricsPort }}}
  {{- end }}
lifecycle:
  preStop: {{- include "tandem.rayPreStop" (dict "root" $root "process" "^ray::WorkerActor") | nindent 4 }}
resources: {{- include "tandem.workerResources" . | nindent 2 }}
securityContext: {{- include "tandem.workerSecurity" . | nindent 2 }}
volumeMounts: {{- include "tandem.workerMounts" . | nindent 2 }}
{{- end -}}
