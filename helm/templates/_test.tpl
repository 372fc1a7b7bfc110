{{/* Sends one request that must use both pools. */}}
{{- define "tandem.testPod" -}}
{{- $doorTls := .Values.tls.door.enabled -}}
{{- $clientTls := and $doorTls .Values.tls.door.clientAuth -}}
restartPolicy: Never
activeDeadlineSeconds: {{ .Values.test.timeoutSeconds }}
{{ include "tandem.podBasics" (dict "root" . "account" (include "tandem.serviceAccount" (dict "root" . "of" "router")) "grace" 5) }}
{{- include "tandem.where" (dict "of" .Values.test) }}
containers:
  - name: test
    image: {{ include "tandem.image" (dict "root" . "image" .Values.images.router) }}
    imagePullPolicy: {{ .Values.images.router.pullPolicy }}
    command: [python, /etc/tandem/both_pools.py]
    env:
      - {name: HOME, value: /tmp}
      - {name: PYTHONPATH, value: /app}
      - {name: TANDEM_HTTP, value: "{{ $doorTls | ternary "https" "http" }}://{{ include "tandem.fullname" . }}.{{ .Release.Namespace }}.svc:{{ .Values.router.service.httpPort }}"}
      - {name: TANDEM_GRPC, value: "{{ include "tandem.fullname" . }}-grpc.{{ .Release.Namespace }}.svc:{{ .Values.router.service.grpcPort }}"}
      - {name: TANDEM_MODEL, value: {{ include "tandem.modelName" . | quote }}}
      - {name: TANDEM_TIMEOUT_S, value: {{ sub .Values.test.timeoutSeconds 10 | quote }}}
      {{- if $doorTls }}
      - {name: TANDEM_CA, value: /etc/tandem/tls/door/ca.crt}
      {{- end }}
      {{- if $clientTls }}
      - {name: TANDEM_CLIENT_CERT, value: /etc/tandem/tls/client/tls.crt}
      - {name: TANDEM_CLIENT_KEY, value: /etc/tandem/tls/client/tls.key}
      {{- end }}
      {{- if .Values.apiKeys.secretName }}
      - name: TANDEM_API_KEY
        valueFrom: {secretKeyRef: {name: {{ .Values.test.keySecret.name }}, key: {{ .Values.test.keySecret.key }}}}
      {{- end }}
    resources: {{- toYaml .Values.test.resources | nindent 6 }}
    securityContext: {{- toYaml .Values.containerSecurityContext | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: script, mountPath: /etc/tandem/both_pools.py, subPath: both_pools.py, readOnly: true}
      {{- if $doorTls }}
      - {name: door-ca, mountPath: /etc/tandem/tls/door, readOnly: true}
      {{- end }}
      {{- if $clientTls }}
      - {name: client-tls, mountPath: /etc/tandem/tls/client, readOnly: true}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 100Mi}
  - name: script
    configMap: {name: {{ include "tandem.fullname" . }}-test}
  {{- if $doorTls }}
  - name: door-ca
    secret:
      secretName: {{ include "tandem.doorSecret" . }}
      defaultMode: 0440
      items: [{key: ca.crt, path: ca.crt}]
  {{- end }}
  {{- if $clientTls }}
  - name: client-tls
    secret: {secretName: {{ .Values.test.clientSecret }}, defaultMode: 0440}
  {{- end }}
{{- end -}}
