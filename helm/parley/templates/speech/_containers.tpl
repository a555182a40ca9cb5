{{/* The two containers of speech, and what they need. */}}

{{- define "parley.speechContainers" -}}
{{- include "parley.frontContainer" . }}
{{ include "parley.tritonContainer" . }}
{{- end -}}

{{- define "parley.frontContainer" -}}
{{- $v := .Values -}}{{- $speech := $v.speech -}}
- name: speech
  {{- include "parley.image-of-parley" . | nindent 2 }}
  command: [parley, serve, speech, --log-json]
  env:
    {{- include "parley.speechEnv" . | nindent 4 }}
  ports:
    - {name: riva, containerPort: 50051}
    - {name: speech-http, containerPort: 8082}
  {{- include "parley.probes" (dict "values" $speech "port" "speech-http" "scheme" (include "parley.adminScheme" .) "live" "/healthz" "ready" "/readyz") | nindent 2 }}
  lifecycle:
    preStop:
      exec:
        command: [parley, drain, --admin, {{ printf "%s://127.0.0.1:8082" (lower (include "parley.adminScheme" .)) | quote }}, {{ include "parley.afterGateway" . }}]
  securityContext:
    {{- include "parley.plain" $speech.securityContext | nindent 4 }}
  resources:
    {{- include "parley.plain" $speech.resources | nindent 4 }}
  volumeMounts:
    {{- include "parley.mounts" (list . "speech-config") | nindent 4 }}
    {{- if $speech.voicePacks }}
    # No subPath: a voice that is changed here is changed without a restart.
    - {name: voices, mountPath: /etc/parley/voices, readOnly: true}
    {{- end }}
    {{- if has $speech.modelRepository.kind (list "pvc" "sync") }}
    {{- include "parley.modelMount" . | nindent 4 }}
    {{- end }}
    {{- with $speech.extraVolumeMounts }}
    {{- include "parley.plain" . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "parley.speechEnv" -}}
{{- $v := .Values -}}
{{- $secrets := dict -}}
{{- if $v.auth.enabled }}{{ $_ := set $secrets "PARLEY_AUTH__SEALING_KEY" (list (include "parley.keysSecret" .) "sealing-key") }}{{ end -}}
{{- with $v.speech.triton.repositoryKeySecret }}{{ $_ := set $secrets "PARLEY_TRITON__REPOSITORY_KEY" (list . "repository-key") }}{{ end -}}
- {name: PARLEY_CONFIG, value: /etc/parley/config.yaml}
{{- if ne $v.speech.topology "sidecar" }}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
# Clients of parley.v1.Tts come back to the pod that holds their session.
- {name: PARLEY_TTS_API__ADDRESS, value: "$(POD_IP):50051"}
{{- end }}
{{- include "parley.telemetryEnv" . }}
{{- include "parley.secretEnv" $secrets }}
{{- if eq $v.speech.modelRepository.kind "objectStore" }}
{{- include "parley.storeEnv" . }}
{{- end }}
{{- with $v.speech.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "parley.storeEnv" -}}
{{- $r := .Values.speech.modelRepository -}}
{{- with $r.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "parley.storeEnvFrom" -}}
{{- with .Values.speech.modelRepository.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{- define "parley.modelMount" -}}
{{- $r := .Values.speech.modelRepository -}}
- name: models
  mountPath: /models
  readOnly: true
  {{- if and (eq $r.kind "pvc") $r.subPath }}
  subPath: {{ $r.subPath }}
  {{- end }}
{{- end -}}

{{/* Beside the pod's shared volumes, for the front. */}}
{{- define "parley.speechVolumes" -}}
- name: speech-config
  configMap: {name: {{ include "parley.part" (list . "speech") }}}
{{- with .Values.speech.voicePacks }}
- name: voices
  configMap:
    name: {{ include "parley.part" (list $ "voices") }}
    items:
      {{- range $name, $_ := include "parley.plain" . | fromYaml }}
      - {key: {{ $name }}, path: {{ $name }}/voice.yaml}
      {{- end }}
{{- end }}
{{- with .Values.speech.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
