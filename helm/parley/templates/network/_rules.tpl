{{/* Pieces of NetworkPolicies. */}}

{{/* (list $ "gateway"): pods of a part. */}}
{{- define "parley.peer" -}}
- podSelector:
    matchLabels:
      {{- include "parley.selector" . | nindent 6 }}
{{- end -}}

{{/* Egress to the cluster's DNS. */}}
{{- define "parley.dnsRule" -}}
- {{ with .Values.networkPolicy.dnsNamespace -}}
  to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . }}}}
  {{ end -}}
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}

{{/* (list $peers port …): egress to peers, or anywhere when none are named. */}}
{{- define "parley.egressTo" -}}
- {{ with index . 0 -}}
  to:
    {{- include "parley.plain" . | nindent 4 }}
  {{ end -}}
  ports: [{{ range $i, $port := rest . }}{{ if $i }}, {{ end }}{port: {{ $port }}, protocol: TCP}{{ end }}]
{{- end -}}

{{/* (list $ port …): ingress from the monitoring namespace. */}}
{{- define "parley.monitoringRule" -}}
- from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ (index . 0).Values.networkPolicy.monitoringNamespace }}}}
  ports: [{{ range $i, $port := rest . }}{{ if $i }}, {{ end }}{port: {{ $port }}, protocol: TCP}{{ end }}]
{{- end -}}

{{/* What every process of Parley's that checks tokens or sends traces asks for. */}}
{{- define "parley.commonEgress" -}}
{{- $v := .Values -}}
{{- include "parley.dnsRule" . }}
{{- with $v.telemetry.otlp }}
{{ include "parley.egressTo" (list $v.networkPolicy.collector (include "parley.urlPort" .)) }}
{{- end }}
{{- with default $v.auth.jwt.issuer $v.auth.jwt.jwks }}
{{- if hasPrefix "http" . }}
# The issuer's keys.
{{ include "parley.egressTo" (list (list) (include "parley.urlPort" .)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* (list "host:port") */}}
{{- define "parley.portOf" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}
