{{- define "parley.gatewayEnv" -}}
{{- $v := .Values -}}
{{- $keys := include "parley.keysSecret" . -}}
{{- $secrets := dict -}}
{{- if $v.auth.enabled -}}
{{- $_ := set $secrets "PARLEY_AUTH__SEALING_KEY" (list $keys "sealing-key") -}}
{{- if not (include "parley.asrFromRiva" .) }}{{ $_ := set $secrets "PARLEY_ASR__API_KEY" (list $keys "internal-key") }}{{ end -}}
{{- if and (not (include "parley.ttsFromRiva" .)) (eq $v.speech.tts "riva") }}{{ $_ := set $secrets "PARLEY_TTS__API_KEY" (list $keys "internal-key") }}{{ end -}}
{{- if eq $v.llm.mode "standIn" }}{{ $_ := set $secrets "PARLEY_LLM__API_KEY" (list $keys "internal-key") }}{{ end -}}
{{- end -}}
{{- if and (eq $v.llm.mode "external") $v.llm.external.existingSecret -}}
{{- $_ := set $secrets "PARLEY_LLM__API_KEY" (list $v.llm.external.existingSecret $v.llm.external.existingSecretKey) -}}
{{- end -}}
{{- if eq $v.riva.mode "external" -}}
{{- range $half := list "asr" "tts" -}}
{{- if include (printf "parley.%sFromRiva" $half) $ -}}
{{- with $v.riva.external.existingSecret }}{{ $_ := set $secrets (printf "PARLEY_%s__API_KEY" (upper $half)) (list . "api-key") }}{{ end -}}
{{- with $v.riva.external.metadataSecret }}{{ $_ := set $secrets (printf "PARLEY_%s__METADATA" (upper $half)) (list . "metadata") }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $v.redis.existingSecret }}{{ $_ := set $secrets "PARLEY_REDIS__URL" (list $v.redis.existingSecret $v.redis.existingSecretKey) }}{{ end -}}
{{- if and (include "parley.ttsFromTriton" .) $v.speech.triton.repositoryKeySecret -}}
{{- $_ := set $secrets "PARLEY_TRITON__REPOSITORY_KEY" (list $v.speech.triton.repositoryKeySecret "repository-key") -}}
{{- end -}}
- {name: PARLEY_CONFIG, value: /etc/parley/config.yaml}
{{- include "parley.telemetryEnv" . }}
{{- include "parley.secretEnv" $secrets }}
{{- with $v.gateway.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets with the ca.crt of parts that are elsewhere. */}}
{{- define "parley.authorities" -}}
{{- $found := dict -}}
{{- with .Values.redis.caSecret }}{{ $_ := set $found "redis" . }}{{ end -}}
{{- if and (eq .Values.llm.mode "external") .Values.llm.external.caSecret }}{{ $_ := set $found "llm" .Values.llm.external.caSecret }}{{ end -}}
{{- if and (eq .Values.riva.mode "external") .Values.riva.external.caSecret }}{{ $_ := set $found "riva" .Values.riva.external.caSecret }}{{ end -}}
{{- toYaml $found -}}
{{- end -}}

{{/* With speech as a sidecar the pod must go where speech can run as well. */}}
{{- define "parley.gatewayPod" -}}
{{- $pod := deepCopy .Values.gateway -}}
{{- if include "parley.speechSidecar" . -}}
{{- $speech := .Values.speech -}}
{{- $_ := set $pod "nodeSelector" (merge (deepCopy $speech.nodeSelector) $pod.nodeSelector) -}}
{{- $_ := set $pod "tolerations" (concat $pod.tolerations $speech.tolerations | uniq) -}}
{{- $_ := set $pod "affinity" (default $speech.affinity $pod.affinity) -}}
{{- $_ := set $pod "runtimeClassName" (default $speech.runtimeClassName $pod.runtimeClassName) -}}
{{- $_ := set $pod "podSecurityContext" $speech.podSecurityContext -}}
{{- end -}}
{{- toYaml $pod -}}
{{- end -}}

{{- define "parley.telemetryEnv" -}}
{{- with .Values.telemetry.headersSecret }}
{{- include "parley.secretEnv" (dict "PARLEY_TELEMETRY__HEADERS" (list . "headers")) }}
{{- end }}
{{- end -}}

{{/* The preStop hook: (list $ port seconds). It asks the process on its own admin address and waits for the last call. */}}
{{- define "parley.drainCommand" -}}
{{- $scheme := lower (include "parley.adminScheme" (index . 0)) -}}
[parley, drain, --admin, {{ printf "%s://127.0.0.1:%d" $scheme (int (index . 1)) | quote }}, --timeout, {{ index . 2 | int | quote }}]
{{- end -}}

{{/* In one pod with the gateway, hooks begin together: what its calls need goes after it. */}}
{{- define "parley.afterGateway" -}}
{{- if include "parley.speechSidecar" . -}}
--after, {{ printf "%s://127.0.0.1:8081" (lower (include "parley.adminScheme" .)) | quote }}, --timeout, {{ add (int .Values.gateway.drainSeconds) 5 | quote }}
{{- else -}}
--timeout, {{ .Values.speech.drainSeconds | int | quote }}
{{- end -}}
{{- end -}}

{{/* Speech ends after the gateway beside it. */}}
{{- define "parley.gatewayGrace" -}}
{{- if include "parley.speechSidecar" . -}}
{{- max (int .Values.gateway.terminationGracePeriodSeconds) (int .Values.speech.terminationGracePeriodSeconds) (add (int .Values.gateway.drainSeconds) (int .Values.speech.triton.exitSeconds) 15) -}}
{{- else -}}
{{- int .Values.gateway.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}
