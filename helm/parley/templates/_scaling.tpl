{{/* (list $ "part" "Kind" metrics): an autoscaler of fronts, of Tritons, or of pods with both. */}}
{{- define "parley.speechScaler" }}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}{{- $scaling := $root.Values.speech.autoscaling }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "parley.metadata" (list $root $part $part) | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: {{ index . 2 }}, name: {{ include "parley.part" (list $root $part) }}}
  minReplicas: {{ int $scaling.minReplicas }}
  maxReplicas: {{ int $scaling.maxReplicas }}
  metrics:
    {{- range $name, $target := index . 3 }}
    - type: Pods
      pods:
        metric: {name: {{ $name }}}
        target: {type: AverageValue, averageValue: {{ $target | quote }}}
    {{- end }}
  behavior:
    {{- toYaml $scaling.behavior | nindent 4 }}
{{- end }}
