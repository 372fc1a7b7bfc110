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

{{- define "tandem.rayTokenSecret" -}}
{{- default (include "tandem.rayName" .) .Values.ray.auth.secretName -}}
{{- end -}}
