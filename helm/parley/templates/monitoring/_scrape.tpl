{{/* (list $ "service"): how Prometheus scrapes a page of Parley's. */}}
{{- define "parley.scrape" -}}
{{- $root := index . 0 -}}{{- $v := $root.Values -}}
path: /metrics
scheme: {{ lower (include "parley.adminScheme" $root) }}
{{- if and $v.auth.enabled (not $v.auth.openMetrics) }}
authorization:
  type: Bearer
  credentials: {name: {{ include "parley.keysSecret" $root }}, key: metrics-key}
{{- end }}
{{- if and $v.tls.enabled $v.tls.admin }}
tlsConfig:
  ca:
    secret: {name: {{ include "parley.tlsSecret" $root }}, key: ca.crt}
  serverName: localhost
{{- end }}
{{- end -}}
