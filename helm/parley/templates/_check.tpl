{{/* What no schema can say: values that contradict each other. One sentence each, with what to do. */}}
{{- define "parley.checkValues" -}}
{{- $v := .Values -}}
{{- if le (int $v.gateway.terminationGracePeriodSeconds) (int $v.gateway.drainSeconds) }}
{{- fail (printf "gateway.terminationGracePeriodSeconds (%d) must be more than gateway.drainSeconds (%d), or calls are cut" (int $v.gateway.terminationGracePeriodSeconds) (int $v.gateway.drainSeconds)) }}
{{- end }}
{{- if le (int $v.speech.terminationGracePeriodSeconds) (add (int $v.speech.drainSeconds) (int $v.speech.triton.exitSeconds) | int) }}
{{- fail (printf "speech.terminationGracePeriodSeconds (%d) must be more than speech.drainSeconds and speech.triton.exitSeconds together (%d), or streams are cut" (int $v.speech.terminationGracePeriodSeconds) (add (int $v.speech.drainSeconds) (int $v.speech.triton.exitSeconds))) }}
{{- end }}
{{- range $name, $part := dict "gateway" $v.gateway "speech" $v.speech }}
{{- if gt (int $part.autoscaling.minReplicas) (int $part.autoscaling.maxReplicas) }}
{{- fail (printf "%s.autoscaling.minReplicas is more than maxReplicas" $name) }}
{{- end }}
{{- end }}
{{- with $v.speech.triton.resources.limits }}
{{- if .memory }}
{{- $limit := include "parley.mebibytes" .memory | int -}}
{{- $shm := include "parley.mebibytes" $v.speech.triton.shm.size | int -}}
{{- if lt $limit (add $shm 256 | int) }}
{{- fail (printf "speech.triton.resources.limits.memory (%s) must hold speech.triton.shm.size (%s) and at least 256Mi beside it: memory of /dev/shm counts" (toString .memory) (toString $v.speech.triton.shm.size)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled }}
{{- fail "tls.existingSecret and tls.certManager.enabled exclude each other: name a Secret, or have one made" }}
{{- end }}
{{- if and $v.tls.enabled (not $v.tls.existingSecret) (not $v.tls.certManager.enabled) }}
{{- fail "tls.enabled needs tls.existingSecret, or tls.certManager.enabled with an issuer" }}
{{- end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.enabled) }}
{{- fail "tls.certManager.enabled does nothing while tls.enabled is false" }}
{{- end }}
{{- if and $v.tls.enabled $v.tls.admin (eq $v.tls.clientAuth "required") }}
{{- fail "tls.admin with tls.clientAuth required shuts out the probes, since a kubelet shows no certificate: leave tls.admin false, or set tls.clientAuth to optional" }}
{{- end }}
{{- if and (include "parley.speechSidecar" .) $v.speech.autoscaling.enabled }}
{{- fail "speech.topology sidecar scales with the gateway: set gateway.autoscaling.enabled in place of speech.autoscaling.enabled" }}
{{- end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "parley.fullname" .)) }}
{{- fail (printf "%q cannot begin the name of a Service, which takes small letters, digits and dashes and begins with a letter: set fullnameOverride, or give the release another name" (include "parley.fullname" .)) }}
{{- end }}
{{- with $v.redis.url }}
{{- $port := default "6379" (regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":") }}
{{- if and $v.networkPolicy.enabled (ne (int $port) (int $v.redis.port)) }}
{{- fail (printf "redis.url names port %s and redis.port is %d: NetworkPolicy would not let the gateway reach it" $port (int $v.redis.port)) }}
{{- end }}
{{- end }}
{{- if and $v.redis.url $v.redis.existingSecret }}
{{- fail "redis.url and redis.existingSecret exclude each other" }}
{{- end }}
{{- end -}}
