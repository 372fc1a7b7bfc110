{{/* A worker as a plain pod. Takes {root, name, pool}. */}}
{{- define "tandem.plainWorkerPod" -}}
{{- include "tandem.workerPod" . }}
containers:
  - {{- include "tandem.withExtra" (dict "text" (include "tandem.plainWorker" .) "extra" .pool.extraContainerSpec) | nindent 4 }}
  {{- with .pool.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "tandem.plainWorker" -}}
{{- $root := .root }}{{ $pool := .pool -}}
{{- $model := include "tandem.poolModel" . -}}
name: worker
image: {{ include "tandem.image" (dict "root" $root "image" $root.Values.images.worker) }}
imagePullPolicy: {{ $root.Values.images.worker.pullPolicy }}
command: [python, -m, {{ $pool.role }}_worker]
args:
  - --model={{ (index (include "tandem.models" $root | fromJson) $model).path }}
  - --name={{ $model }}
  - --worker-id=$(POD_NAME)
  - --host=$(POD_IP)
  - --port={{ $pool.port }}
  - --router={{ include "tandem.fleetAddress" $root }}
  - --settings={{ include "tandem.workerSettings" . }}
env:
  - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  {{- include "tandem.workerEnv" . | nindent 2 }}
  {{- with $pool.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $pool.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: worker, containerPort: {{ $pool.port }}}
  - {name: status, containerPort: {{ $pool.metricsPort }}}
# A worker listens once its model is loaded, and is ready once a router has accepted it.
startupProbe:
  tcpSocket: {port: worker}
  periodSeconds: 5
  failureThreshold: {{ div (add $root.Values.worker.startTimeoutSeconds 4) 5 }}
readinessProbe:
  httpGet: {path: /health, port: status}
  periodSeconds: 5
livenessProbe:
  httpGet: {path: /ping, port: status}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources: {{- include "tandem.workerResources" . | nindent 2 }}
securityContext: {{- include "tandem.workerSecurity" . | nindent 2 }}
volumeMounts: {{- include "tandem.workerMounts" . | nindent 2 }}
{{- end -}}
