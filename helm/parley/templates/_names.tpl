{{/* Names and labels. Components are given as (list $ "gateway"). */}}

{{- define "parley.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for "-speech-headless" behind it, and for the hash of a StatefulSet's pods. */}}
{{- define "parley.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "parley.part" -}}
{{- printf "%s-%s" (include "parley.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{- define "parley.selector" -}}
app.kubernetes.io/name: {{ include "parley.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "parley.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{ include "parley.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: parley
{{- with $root.Values.commonLabels }}
{{ include "parley.plain" . }}
{{- end -}}
{{- end -}}

{{/* Labels of pods: no version of the chart, so that a new chart alone rolls nothing. (list $ "gateway" $values) */}}
{{- define "parley.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "parley.selector" (list $root (index . 1)) }}
app.kubernetes.io/part-of: parley
{{- with $root.Values.commonLabels }}
{{ include "parley.plain" . }}
{{- end -}}
{{- with (index . 2).podLabels }}
{{ include "parley.plain" . }}
{{- end -}}
{{- end -}}

{{/* metadata of an object: (list $ "gateway" "name-suffix") */}}
{{- define "parley.metadata" -}}
name: {{ include "parley.part" (list (index . 0) (index . 2)) }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "parley.labels" (list (index . 0) (index . 1)) | nindent 2 }}
{{- end -}}

{{/* Full name of a Service of ours: (list $ "speech-headless") */}}
{{- define "parley.host" -}}
{{- printf "%s.%s.svc.%s" (include "parley.part" .) (index . 0).Release.Namespace (index . 0).Values.clusterDomain -}}
{{- end -}}

{{- define "parley.serviceAccountName" -}}
{{- $values := index . 2 -}}
{{- if $values.serviceAccount.create -}}
{{- default (include "parley.part" (list (index . 0) (index . 1))) $values.serviceAccount.name -}}
{{- else -}}
{{- default "default" $values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* (list $ $image "-cpu"): ours, with the registry in front; a digest wins over the tag; the suffix is of the default tag. */}}
{{- define "parley.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with $root.Values.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if $image.digest -}}{{ $name }}@{{ $image.digest }}{{- else -}}{{ $name }}:{{ default (printf "%s%s" $root.Chart.AppVersion (index . 2)) $image.tag }}{{- end -}}
{{- end -}}

{{/* An image that is not ours: its repository is whole. */}}
{{- define "parley.foreignImage" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}
