{{/* Submits the cluster as a Ray job and watches it. */}}
{{- define "tandem.driverPod" -}}
{{- $driver := .Values.ray.driver -}}
{{- include "tandem.podBasics" (dict "root" . "account" (include "tandem.serviceAccount" (dict "root" . "of" "worker")) "grace" .Values.drain.terminationGracePeriodSeconds) }}
{{- include "tandem.where" (dict "of" $driver) }}
containers:
  - name: driver
    image: {{ include "tandem.image" (dict "root" . "image" .Values.images.worker) }}
    imagePullPolicy: {{ .Values.images.worker.pullPolicy }}
    command: [python, /etc/tandem/driver.py]
    env:
      - {name: HOME, value: /tmp}
      - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
      - {name: TANDEM_RAY_JOBS, value: "http://{{ include "tandem.headService" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:8265"}
      - {name: TANDEM_CLUSTER, value: {{ include "tandem.fullname" . }}}
      # On Ray's head, where the job runs.
      - {name: TANDEM_CLUSTER_FILE, value: /etc/tandem/cluster.yaml}
      - {name: TANDEM_STATE_DIR, value: /tmp/driver}
      - {name: TANDEM_STOP_S, value: {{ add .Values.drain.timeoutSeconds .Values.drain.endpointDelaySeconds | quote }}}
      {{- if .Values.ray.auth.enabled }}
      - {name: RAY_AUTH_MODE, value: token}
      - name: RAY_AUTH_TOKEN
        valueFrom: {secretKeyRef: {name: {{ include "tandem.rayTokenSecret" . }}, key: auth_token}}
      {{- end }}
      {{- with $driver.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $driver.extraEnvFrom }}
    envFrom: {{- toYaml . | nindent 6 }}
    {{- end }}
    # The driver's files show that the job runs, and that the driver still watches it.
    readinessProbe:
      exec: {command: [test, -e, /tmp/driver/running]}
      periodSeconds: 5
    livenessProbe:
      exec: {command: [sh, -c, 'test -n "$(find /tmp/driver/alive -mmin -2)"']}
      initialDelaySeconds: 60
      periodSeconds: 30
    resources: {{- toYaml $driver.resources | nindent 6 }}
    securityContext: {{- toYaml .Values.containerSecurityContext | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: program, mountPath: /etc/tandem, readOnly: true}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  - name: program
    configMap:
      name: {{ include "tandem.fullname" . }}-driver
      items: [{key: driver.py, path: driver.py}]
{{- end -}}
