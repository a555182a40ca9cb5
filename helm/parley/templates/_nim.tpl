{{/* What NVIDIA's pods have in common: values with pullSecret, scheduling and security contexts. */}}

{{- define "parley.nimPodSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "parley.plain" .podSecurityContext | nindent 2 }}
{{- with .pullSecret }}
imagePullSecrets: [{name: {{ . }}}]
{{- end }}
{{- include "parley.scheduling" . }}
terminationGracePeriodSeconds: {{ int .terminationGracePeriodSeconds }}
{{- end -}}

{{- define "parley.nimEnv" -}}
- name: NGC_API_KEY
  valueFrom:
    secretKeyRef: {name: {{ .ngcSecret }}, key: NGC_API_KEY}
- {name: NIM_CACHE_PATH, value: /opt/nim/.cache}
{{- end -}}

{{/* (list $values "port"): a first start downloads weights; later ones do not. */}}
{{- define "parley.nimProbes" -}}
startupProbe:
  httpGet: {path: /v1/health/ready, port: {{ index . 1 }}}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: {{ int (index . 0).startupFailureThreshold }}
readinessProbe:
  httpGet: {path: /v1/health/ready, port: {{ index . 1 }}}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /v1/health/live, port: {{ index . 1 }}}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}

{{/* (list $ "group/version/Kind" "sentence"): speaks up where a cluster is asked and lacks it. `helm template` asks none. */}}
{{- define "parley.needApi" -}}
{{- $root := index . 0 -}}
{{- if lookup "v1" "ServiceAccount" $root.Release.Namespace "default" -}}
{{- if not ($root.Capabilities.APIVersions.Has (index . 1)) -}}
{{- fail (printf "this cluster has no %s: %s" (index . 1) (index . 2)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
