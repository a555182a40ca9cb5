{{/* Parley's own settings, as config.yaml. Nothing secret: keys come as environment or as files of Secrets. */}}

{{- define "parley.commonSettings" -}}
{{- $v := .Values -}}
log_level: {{ $v.telemetry.logLevel }}
auth:
  insecure: {{ not $v.auth.enabled }}
  {{- if $v.auth.enabled }}
  keys: /etc/parley/keys/keys.yaml
  {{- end }}
  client_secret_s: {{ int $v.auth.clientSecretSeconds }}
  max_sessions: {{ int $v.auth.maxSessions }}
  requests_per_min: {{ int $v.auth.requestsPerMinute }}
  open_metrics: {{ $v.auth.openMetrics }}
  trusted_proxies: {{ toJson $v.auth.trustedProxies }}
  jwt_issuer: {{ $v.auth.jwt.issuer | quote }}
  jwt_audience: {{ $v.auth.jwt.audience | quote }}
  jwks: {{ $v.auth.jwt.jwks | quote }}
  jwt_scope_claim: {{ $v.auth.jwt.scopeClaim | quote }}
{{- if $v.tls.enabled }}
tls:
  cert: /etc/parley/tls/tls.crt
  key: /etc/parley/tls/tls.key
  client_auth: {{ $v.tls.clientAuth | quote }}
  {{- if ne $v.tls.clientAuth "off" }}
  client_ca: /etc/parley/tls/ca.crt
  {{- end }}
  admin: {{ $v.tls.admin }}
{{- end }}
telemetry:
  otlp: {{ $v.telemetry.otlp | quote }}
  sample: {{ $v.telemetry.sample }}
  slow_turn_ms: {{ int $v.telemetry.slowTurnMs }}
{{- end -}}

{{/* Its probes come to the port that the gateway calls, and a kubelet shows no certificate: its key guards it. */}}
{{- define "parley.standInSettings" -}}
{{- include "parley.commonSettings" . | replace "client_auth: \"required\"" "client_auth: \"optional\"" -}}
{{- end -}}

{{/* Every address of a headless Service's name is a server of its own. */}}
{{- define "parley.several" -}}
{{- if hasPrefix "127." . }}{{ . }}{{ else }}dns:///{{ . }}{{ end -}}
{{- end -}}

{{/* TLS towards a part of ours: (list $ "host") */}}
{{- define "parley.clientTls" -}}
{{- $root := index . 0 -}}
ca: /etc/parley/tls/ca.crt
{{- if ne $root.Values.tls.clientAuth "off" }}
cert: /etc/parley/tls/tls.crt
key: /etc/parley/tls/tls.key
{{- end }}
name: {{ index . 1 }}
{{- end -}}

{{- define "parley.gatewaySettings" -}}
{{- $v := .Values -}}
{{- $speech := include "parley.host" (list . "speech-headless") -}}
{{- $triton := ternary (include "parley.host" (list . "triton-headless")) $speech (eq $v.speech.topology "shared") -}}
{{- if include "parley.speechSidecar" . }}{{ $speech = "127.0.0.1" }}{{ $triton = "127.0.0.1" }}{{ end -}}
{{- $named := ternary (include "parley.host" (list . "speech")) $speech (eq $speech "127.0.0.1") -}}
{{ include "parley.commonSettings" . }}
listen:
  grpc: {{ printf "%s:50050" $v.listenHost | quote }}
  http: {{ printf "%s:8080" $v.listenHost | quote }}
  admin: {{ printf "%s:8081" $v.listenHost | quote }}
  workers: {{ int $v.gateway.workers }}
session:
  drain_s: {{ int $v.gateway.drainSeconds }}
asr:
  language: {{ $v.speech.language }}
{{- if include "parley.asrFromRiva" . }}
  uri: {{ include "parley.rivaUri" (list . "asr") | quote }}
  model: {{ $v.riva.asrModel | quote }}
  ssl: {{ and (eq $v.riva.mode "external") $v.riva.external.ssl }}
  {{- if and (eq $v.riva.mode "external") $v.riva.external.caSecret }}
  tls: {ca: /etc/parley/riva/ca.crt}
  {{- end }}
{{- else }}
  uri: {{ printf "%s:50051" $speech | include "parley.several" | quote }}
  {{- if $v.tls.enabled }}
  ssl: true
  tls:
    {{- include "parley.clientTls" (list . $named) | nindent 4 }}
  {{- end }}
{{- end }}
tts:
  language: {{ $v.speech.language }}
{{- if include "parley.ttsFromRiva" . }}
  kind: riva
  uri: {{ include "parley.rivaUri" (list . "tts") | quote }}
  voice: {{ $v.riva.voice | quote }}
  ssl: {{ and (eq $v.riva.mode "external") $v.riva.external.ssl }}
  {{- if and (eq $v.riva.mode "external") $v.riva.external.caSecret }}
  tls: {ca: /etc/parley/riva/ca.crt}
  {{- end }}
{{- else if eq $v.speech.tts "riva" }}
  kind: riva
  uri: {{ printf "%s:50051" $speech | include "parley.several" | quote }}
  {{- if $v.tls.enabled }}
  ssl: true
  tls:
    {{- include "parley.clientTls" (list . $named) | nindent 4 }}
  {{- end }}
{{- else }}
  kind: triton
  uri: {{ printf "%s:8001" $triton | include "parley.several" | quote }}
  model: {{ $v.speech.ttsModel | quote }}
  {{- if and $v.tls.enabled $v.tls.triton }}
  ssl: true
  tls:
    {{- include "parley.clientTls" (list . $named) | nindent 4 }}
  {{- end }}
{{- end }}
llm:
  base_url: {{ include "parley.llmUrl" . | quote }}
  model: {{ include "parley.llmModel" . | quote }}
  {{- if and (eq $v.llm.mode "external") $v.llm.external.caSecret }}
  tls: {ca: /etc/parley/llm/ca.crt}
  {{- else if and $v.tls.enabled (eq $v.llm.mode "standIn") }}
  tls:
    {{- include "parley.clientTls" (list . (include "parley.host" (list . "llm"))) | nindent 4 }}
  {{- end }}
{{- if $v.gateway.policies }}
models:
  policy: /etc/parley/policies.yaml
{{- end }}
{{- if or $v.redis.url $v.redis.caSecret }}
redis:
  {{- with $v.redis.url }}
  url: {{ . | quote }}
  {{- end }}
  {{- if $v.redis.caSecret }}
  ca: /etc/parley/redis/ca.crt
  {{- end }}
{{- end }}
{{- end -}}

{{- define "parley.speechSettings" -}}
{{- $v := .Values -}}
{{- $local := ternary "127.0.0.1" $v.listenHost (eq $v.speech.topology "sidecar") -}}
{{- $triton := ternary (include "parley.host" (list . "triton-headless")) "127.0.0.1" (eq $v.speech.topology "shared") -}}
{{ include "parley.commonSettings" . }}
listen:
  riva: {{ printf "%s:50051" $local | quote }}
  speech_http: {{ printf "%s:8082" $v.listenHost | quote }}
session:
  drain_s: {{ int $v.speech.drainSeconds }}
triton:
  uri: {{ printf "%s:8001" $triton | include "parley.several" | quote }}
  metrics: {{ printf "%s:8002" $triton | quote }}
  repositories: [{{ include "parley.repository" . | quote }}]
  {{- if and $v.tls.enabled $v.tls.triton }}
  ssl: true
  tls:
    {{- include "parley.clientTls" (list . (include "parley.host" (list . "speech"))) | nindent 4 }}
  {{- end }}
models:
  asr: {{ ternary "none" $v.speech.asrModel (eq (include "parley.asrFromRiva" .) "true") | quote }}
  tts: {{ ternary "none" $v.speech.ttsModel (eq (include "parley.ttsFromRiva" .) "true") | quote }}
  preload: {{ toJson $v.speech.preload }}
  {{- if $v.speech.voicePacks }}
  voice_packs: [/etc/parley/voices]
  {{- end }}
{{- end -}}

{{/* (list $generated $further): the user's settings over ours; null is as if it were not there. */}}
{{- define "parley.mergedSettings" -}}
{{- $settings := fromYaml (index . 0) -}}
{{- range $section, $further := index . 1 -}}
{{- if kindIs "map" $further -}}
{{- $ours := default (dict) (get $settings $section) -}}
{{- range $key, $value := include "parley.plain" $further | fromYaml }}{{ $_ := set $ours $key $value }}{{ end -}}
{{- $_ := set $settings $section $ours -}}
{{- else if not (kindIs "invalid" $further) -}}
{{- $_ := set $settings $section $further -}}
{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "parley.rivaUri" -}}
{{- $root := index . 0 -}}{{- $half := index . 1 -}}
{{- $riva := $root.Values.riva -}}
{{- if eq $riva.mode "external" -}}{{ index $riva.external (printf "%sUri" $half) }}
{{- else if eq $riva.mode "riva" -}}{{ include "parley.host" (list $root "riva") }}:50051
{{- else -}}{{ include "parley.host" (list $root (printf "riva-%s" $half)) }}:50051{{- end -}}
{{- end -}}

{{/* The model repository as Triton and its front see it. */}}
{{- define "parley.repository" -}}
{{- $r := .Values.speech.modelRepository -}}
{{- if eq $r.kind "image" -}}/opt/parley/model_repository
{{- else if eq $r.kind "objectStore" -}}{{ $r.source }}
{{- else -}}/models{{- end -}}
{{- end -}}
