{{- define "candor.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "candor.selector" -}}
app.kubernetes.io/name: candor
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "candor.labels" -}}
{{ include "candor.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "candor.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" .Values.gpu.enabled)) }}
{{- end -}}
{{- end -}}

{{/* SQLite bears one process: a StatefulSet never runs two pods at once. */}}
{{- define "candor.kind" -}}
{{- ternary "StatefulSet" "Deployment" (eq .Values.store.type "sqlite") -}}
{{- end -}}

{{- define "candor.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "candor.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "candor.claim" -}}
{{- default (include "candor.fullname" .) .Values.persistence.existingClaim -}}
{{- end -}}

{{/* TOML of a section: its options, then its subsections. JSON's scalars and lists of them are TOML's. */}}
{{- define "candor.section" -}}
{{- $name := index . 0 -}}
{{- $options := index . 1 -}}
[{{ $name }}]
{{ range $option, $value := $options -}}
{{- if not (kindIs "map" $value) -}}
{{ $option }} = {{ toJson $value }}
{{ end -}}
{{- end -}}
{{- range $option, $value := $options -}}
{{- if kindIs "map" $value -}}
{{ include "candor.section" (list (printf "%s.%s" $name $option) $value) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the chart decides goes over what the values say; values.schema.json refuses values for these options. */}}
{{- define "candor.config" -}}
{{- $own := dict "server" (dict "listen" "0.0.0.0:8080" "operations_listen" "0.0.0.0:9090" "drain_deadline_s" .Values.drainDeadlineSeconds) -}}
{{- if eq .Values.images.type "s3" -}}
{{- $_ := set $own "feedback" (dict "images" (printf "s3://%s/%s" .Values.images.s3.bucket .Values.images.s3.prefix)) -}}
{{- end -}}
{{- if .Values.gpu.enabled -}}
{{- $_ := set $own "model" (dict "device" "cuda:0") -}}
{{- end -}}
{{- if .Values.inferencePool.enabled -}}
{{- $_ := set $own "metrics" (dict "vllm_names" true) -}}
{{- end -}}
{{- range $name, $options := mergeOverwrite (deepCopy .Values.config) $own -}}
{{ include "candor.section" (list $name $options) }}
{{ end -}}
{{- range .Values.keys -}}
[[keys]]
{{ range $option, $value := . -}}
{{- if not (kindIs "map" $value) -}}
{{ $option }} = {{ toJson $value }}
{{ end -}}
{{- end -}}
{{- range $option, $value := . -}}
{{- if kindIs "map" $value -}}
[keys.{{ $option }}]
{{ range $class, $threshold := $value -}}
{{ $class }} = {{ toJson $threshold }}
{{ end -}}
{{- end -}}
{{- end }}
{{ end -}}
{{- end -}}
