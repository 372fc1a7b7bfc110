{{- define "tandem.modelName" -}}
{{- $m := .Values.model -}}
{{- if $m.name -}}
{{- $m.name -}}
{{- else if eq $m.source "pvc" -}}
{{- default $m.pvc.claim (base $m.pvc.subPath | trimPrefix ".") -}}
{{- else if eq $m.source "hf" -}}
{{- base $m.hf.repo -}}
{{- else -}}
{{- base $m.path -}}
{{- end -}}
{{- end -}}

{{/* The directory of `model`. */}}
{{- define "tandem.modelDir" -}}
{{- $m := .Values.model -}}
{{- if eq $m.source "pvc" -}}
/models/{{ include "tandem.modelName" . }}
{{- else if eq $m.source "hf" -}}
{{- include "tandem.hubDir" $m.hf -}}
{{- else -}}
{{- $m.path -}}
{{- end -}}
{{- end -}}

{{/* Where a revision of a repository lies. Another revision has another place, so that it can be
fetched while processes still read the one before. */}}
{{- define "tandem.hubDir" -}}
/hub/{{ .repo | replace "/" "--" }}/{{ default "main" .revision | replace "/" "-" }}
{{- end -}}

{{/* All models that come from a hub, by name, as JSON; what a further one leaves out is as model.hf
has it. */}}
{{- define "tandem.hfModels" -}}
{{- $found := dict -}}
{{- $shared := pick .Values.model.hf "endpoint" "tokenSecret" "include" "exclude" -}}
{{- if eq .Values.model.source "hf" -}}
{{- $_ := set $found (include "tandem.modelName" .) (merge (pick .Values.model.hf "repo" "revision") $shared) -}}
{{- end -}}
{{- range $name, $model := .Values.models -}}
{{- if $model.hf -}}
{{- $_ := set $found $name (mustMergeOverwrite (deepCopy $shared) (dict "revision" "main") (deepCopy $model.hf)) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* All served models, in the routers' format: {name: {path, …}}, as JSON. */}}
{{- define "tandem.models" -}}
{{- $found := dict (include "tandem.modelName" .) (dict "path" (include "tandem.modelDir" .)) -}}
{{- range $name, $model := .Values.models -}}
{{- $own := omit $model "hf" -}}
{{- if $model.hf -}}{{- $own = set $own "path" (include "tandem.hubDir" $model.hf) -}}{{- end -}}
{{- if not (hasKey $found $name) -}}{{- $_ := set $found $name $own -}}{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Name of the model that a pool serves. Takes {root, pool}. */}}
{{- define "tandem.poolModel" -}}
{{- default (include "tandem.modelName" .root) .pool.model -}}
{{- end -}}

{{/* Those of `models` that come from a hub, as JSON. Takes {root, models}; all where models is
absent. */}}
{{- define "tandem.hfModelsOf" -}}
{{- $all := include "tandem.hfModels" .root | fromJson -}}
{{- $wanted := kindIs "invalid" .models | ternary (keys $all) .models -}}
{{- $found := dict -}}
{{- range $name, $model := $all -}}
{{- if has $name $wanted -}}{{- $_ := set $found $name $model -}}{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Name of a claim: its spec is nearly immutable, so another spec makes another claim. */}}
{{- define "tandem.modelClaim" -}}
{{- $suffix := include "tandem.modelClaimSpec" . | sha256sum | trunc 8 -}}
{{- default (printf "%s-model-%s" (include "tandem.fullname" .) $suffix) .Values.model.hf.claim.existing -}}
{{- end -}}

{{- define "tandem.modelClaimSpec" -}}
{{- $claim := .Values.model.hf.claim -}}
accessModes: {{ toJson $claim.accessModes }}
{{- with $claim.storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ $claim.size }}}}
{{- end -}}

{{/* Takes {root, models}: names, or absent for all. */}}
{{- define "tandem.modelVolumes" -}}
{{- $m := .root.Values.model -}}
{{- $first := or (kindIs "invalid" .models) (has (include "tandem.modelName" .root) (default list .models)) -}}
{{- if and $first (eq $m.source "pvc") }}
- name: model
  persistentVolumeClaim: {claimName: {{ $m.pvc.claim }}, readOnly: true}
{{- else if and $first (eq $m.source "path") $m.hostPath }}
- name: model
  hostPath: {path: {{ $m.path }}, type: Directory}
{{- end }}
{{- if include "tandem.hfModelsOf" . | fromJson }}
{{- if eq $m.hf.storage "claim" }}
- name: hub
  persistentVolumeClaim: {claimName: {{ include "tandem.modelClaim" .root }}, readOnly: true}
{{- else }}
- name: hub
  emptyDir: {sizeLimit: {{ $m.hf.podLimit }}}
{{- include "tandem.downloadVolumes" .root }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Takes {root, models}: names, or absent for all. */}}
{{- define "tandem.modelMounts" -}}
{{- $m := .root.Values.model -}}
{{- $first := or (kindIs "invalid" .models) (has (include "tandem.modelName" .root) (default list .models)) -}}
{{- if and $first (eq $m.source "pvc") }}
- name: model
  mountPath: {{ include "tandem.modelDir" .root }}
  {{- with $m.pvc.subPath }}
  subPath: {{ . }}
  {{- end }}
  readOnly: true
{{- else if and $first (eq $m.source "path") $m.hostPath }}
- {name: model, mountPath: {{ $m.path }}, readOnly: true}
{{- end }}
{{- if include "tandem.hfModelsOf" . | fromJson }}
- {name: hub, mountPath: /hub, readOnly: true}
{{- end }}
{{- end -}}
