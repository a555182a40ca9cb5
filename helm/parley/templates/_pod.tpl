{{/* What the pods have in common. */}}

{{/* (list $ "gateway" $values): everything of a pod's spec that is not containers or volumes. */}}
{{- define "parley.podSpec" -}}
{{- $root := index . 0 -}}{{- $values := index . 2 -}}
serviceAccountName: {{ include "parley.serviceAccountName" . }}
automountServiceAccountToken: false
# Services named parley-… would otherwise reach the process as PARLEY_… variables.
enableServiceLinks: false
securityContext:
  {{- include "parley.plain" $values.podSecurityContext | nindent 2 }}
{{- include "parley.pullSecrets" $root }}
{{- include "parley.scheduling" $values }}
{{- end -}}

{{- define "parley.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- include "parley.plain" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "parley.scheduling" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $ $key }}
{{ $key }}:
  {{- include "parley.plain" . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* (dict "resources" … "gpu" …): with the GPUs, or slices, as limits. */}}
{{- define "parley.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .gpu.count) 0 -}}
{{- $name := ternary (printf "nvidia.com/mig-%s" .gpu.mig) .gpu.resource (ne .gpu.mig "") -}}
{{- $limits := merge (dict $name (int .gpu.count)) (default (dict) $resources.limits) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- include "parley.plain" $resources -}}
{{- end -}}

{{/* (dict "values" … "port" … "scheme" … "live" path "ready" path): liveness and start-up ask the process alone. */}}
{{- define "parley.probes" -}}
startupProbe:
  httpGet: {path: {{ .live }}, port: {{ .port }}, scheme: {{ .scheme }}}
  {{- include "parley.plain" .values.startupProbe | nindent 2 }}
readinessProbe:
  httpGet: {path: {{ .ready }}, port: {{ .port }}, scheme: {{ .scheme }}}
  {{- include "parley.plain" .values.readinessProbe | nindent 2 }}
livenessProbe:
  httpGet: {path: {{ .live }}, port: {{ .port }}, scheme: {{ .scheme }}}
  {{- include "parley.plain" .values.livenessProbe | nindent 2 }}
{{- end -}}

{{- define "parley.adminScheme" -}}
{{- ternary "HTTPS" "HTTP" (and .Values.tls.enabled .Values.tls.admin) -}}
{{- end -}}

{{- define "parley.image-of-parley" -}}
image: {{ include "parley.image" (list . .Values.image "") | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* (dict NAME (list "secret" "key")): environment out of Secrets. */}}
{{- define "parley.secretEnv" -}}
{{- range $name, $ref := . }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ index $ref 0 }}, key: {{ index $ref 1 }}}
{{- end }}
{{- end -}}

{{/* Mounts of a process of Parley's: (list $ "config") names the volume with its config.yaml. */}}
{{- define "parley.mounts" -}}
{{- $root := index . 0 -}}
# subPath: settings are read once, at the start; a change rolls the pods.
- name: {{ index . 1 }}
  mountPath: /etc/parley/config.yaml
  subPath: config.yaml
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if $root.Values.auth.enabled }}
# No subPath: a key that is revoked here is revoked without a restart.
- name: keys
  mountPath: /etc/parley/keys
  readOnly: true
{{- end }}
{{- if $root.Values.tls.enabled }}
- name: tls
  mountPath: /etc/parley/tls
  readOnly: true
{{- end }}
{{- end -}}

{{- define "parley.sharedVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- if .Values.auth.enabled }}
- name: keys
  secret:
    secretName: {{ include "parley.hashesSecret" . }}
    defaultMode: 0440
    items: [{key: keys.yaml, path: keys.yaml}]
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "parley.tlsSecret" . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* Recreate takes no limits. */}}
{{- define "parley.strategy" -}}
{{- ternary (dict "type" "Recreate") . (eq .type "Recreate") | toYaml -}}
{{- end -}}

{{/* YAML of a value without what is null in its maps: `key: null` takes back what another values file gave.
Nothing where nothing is left, since it may stand among other keys. */}}
{{- define "parley.plain" -}}
{{- if kindIs "map" . -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}{{- $_ := set $kept $key (include "parley.plain" $value | fromYaml) -}}
{{- else if not (kindIs "invalid" $value) -}}{{- $_ := set $kept $key $value -}}{{- end -}}
{{- end -}}
{{- if or $kept (not .) -}}{{- toYaml $kept -}}{{- end -}}
{{- else -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}
