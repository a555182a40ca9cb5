{{/* (list $ "speech"), (list $ "triton"): the metrics that this part is scaled by; none where it is not scaled.
With Tritons on their own, calls open at the fronts scale the fronts, and the rest the Tritons. */}}
{{- define "parley.speechMetrics" -}}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}{{- $found := dict -}}
{{- $shared := include "parley.sharedTriton" $root -}}
{{- if $root.Values.speech.autoscaling.enabled -}}
{{- range $name, $target := include "parley.plain" $root.Values.speech.autoscaling.metrics | fromYaml -}}
{{- if eq $part (ternary "speech" "triton" (or (not $shared) (contains "streams" $name))) -}}
{{- $_ := set $found $name $target -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $found -}}{{- toYaml $found -}}{{- end -}}
{{- end -}}

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
    {{- include "parley.plain" $scaling.behavior | nindent 4 }}
{{- end }}

{{/* (list $ "speech" replicas): least pods that are asked for. */}}
{{- define "parley.leastOfSpeech" -}}
{{- if include "parley.speechMetrics" . }}{{ (index . 0).Values.speech.autoscaling.minReplicas }}{{ else }}{{ index . 2 }}{{ end -}}
{{- end -}}
