{{/* What follows from the values; "true" or "". */}}

{{- define "parley.asrFromRiva" -}}
{{- if and (ne .Values.riva.mode "none") .Values.riva.asr }}true{{ end -}}
{{- end -}}
{{- define "parley.ttsFromRiva" -}}
{{- if and (ne .Values.riva.mode "none") .Values.riva.tts }}true{{ end -}}
{{- end -}}
{{- define "parley.ownSpeech" -}}
{{- if not (and (include "parley.asrFromRiva" .) (include "parley.ttsFromRiva" .)) }}true{{ end -}}
{{- end -}}
{{- define "parley.speechPods" -}}
{{- if and (include "parley.ownSpeech" .) (ne .Values.speech.topology "sidecar") }}true{{ end -}}
{{- end -}}
{{- define "parley.speechSidecar" -}}
{{- if and (include "parley.ownSpeech" .) (eq .Values.speech.topology "sidecar") }}true{{ end -}}
{{- end -}}
{{- define "parley.sharedTriton" -}}
{{- if and (include "parley.ownSpeech" .) (eq .Values.speech.topology "shared") }}true{{ end -}}
{{- end -}}
{{/* The gateway streams voices from Triton itself. */}}
{{- define "parley.ttsFromTriton" -}}
{{- if and (not (include "parley.ttsFromRiva" .)) (eq .Values.speech.tts "triton") }}true{{ end -}}
{{- end -}}
{{/* Whether Triton's gRPC must be reached from outside its pod. */}}
{{- define "parley.tritonOpen" -}}
{{- if or (eq .Values.speech.topology "shared") (and (include "parley.ttsFromTriton" .) (eq .Values.speech.topology "pod")) }}true{{ end -}}
{{- end -}}

{{- define "parley.makesKeys" -}}
{{- if and .Values.auth.enabled (not .Values.auth.existingSecret) }}true{{ end -}}
{{- end -}}
{{- define "parley.keysSecret" -}}
{{- default (include "parley.part" (list . "api-keys")) .Values.auth.existingSecret -}}
{{- end -}}
{{- define "parley.hashesSecret" -}}
{{- default (include "parley.part" (list . "key-hashes")) .Values.auth.existingHashesSecret -}}
{{- end -}}
{{- define "parley.tlsSecret" -}}
{{- default (include "parley.part" (list . "tls")) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "parley.llmUrl" -}}
{{- if eq .Values.llm.mode "external" -}}{{ .Values.llm.external.baseUrl }}
{{- else if eq .Values.llm.mode "standIn" -}}{{ if .Values.tls.enabled }}https{{ else }}http{{ end }}://{{ include "parley.host" (list . "llm") }}:8090/v1
{{- else -}}http://{{ include "parley.host" (list . "llm") }}:8000/v1{{- end -}}
{{- end -}}
{{- define "parley.llmModel" -}}
{{- if .Values.llm.model -}}{{ .Values.llm.model }}
{{- else if eq .Values.llm.mode "standIn" -}}stand-in
{{- else if eq .Values.llm.mode "external" -}}
{{- fail "llm.mode external needs llm.model: the name that the server at llm.external.baseUrl knows its model by" -}}
{{- else -}}{{ .Values.llm.nim.servedModel }}{{- end -}}
{{- end -}}

{{/* Port of a URL: (list "https://x/v1") */}}
{{- define "parley.urlPort" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- if $port -}}{{ $port }}{{- else if has $url.scheme (list "https" "rediss") -}}443{{- else -}}80{{- end -}}
{{- end -}}

{{/* Least pods that are asked for: (dict of a part with replicas and autoscaling) */}}
{{- define "parley.leastReplicas" -}}
{{- if .autoscaling.enabled }}{{ .autoscaling.minReplicas }}{{ else }}{{ .replicas }}{{ end -}}
{{- end -}}

{{/* A quantity of memory in MiB, rounded down: bytes, or as in 512Mi, 2Gi, 4G. */}}
{{- define "parley.mebibytes" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[a-zA-Z]+$" $text -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- $bytes := ternary (trimSuffix $unit $text | float64 | mulf (default 1.0 (get $units $unit))) ($text | float64) (ne $unit "") -}}
{{- divf $bytes 1048576.0 | floor | int64 -}}
{{- end -}}

{{/* Deployments that stand in for our speech, as a YAML list. */}}
{{- define "parley.rivaParts" -}}
{{- $parts := list -}}
{{- if and (eq .Values.riva.mode "riva") (or .Values.riva.asr .Values.riva.tts) }}{{ $parts = list "riva" }}{{ end -}}
{{- if eq .Values.riva.mode "nim" -}}
{{- if .Values.riva.asr }}{{ $parts = append $parts "riva-asr" }}{{ end -}}
{{- if .Values.riva.tts }}{{ $parts = append $parts "riva-tts" }}{{ end -}}
{{- end -}}
{{- toYaml $parts -}}
{{- end -}}

{{/* The LLM's pods; those of a NIMService carry the operator's own label. */}}
{{- define "parley.llmPeer" -}}
{{- if eq .Values.llm.mode "nimService" -}}
- podSelector: {matchLabels: {app: {{ include "parley.part" (list . "llm") }}}}
{{- else -}}
{{- include "parley.peer" (list . "llm") -}}
{{- end -}}
{{- end -}}
