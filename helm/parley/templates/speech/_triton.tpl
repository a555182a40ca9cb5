{{- define "parley.tritonContainer" -}}
{{- $v := .Values -}}{{- $t := $v.speech.triton -}}{{- $r := $v.speech.modelRepository -}}
{{- $host := trimAll "[]" $v.listenHost -}}
- name: triton
  image: {{ include "parley.image" (list . $t.image (ternary "-cpu" "" (eq (int $t.gpu.count) 0))) | quote }}
  imagePullPolicy: {{ $t.image.pullPolicy }}
  command: [tritonserver]
  args:
    - --model-repository={{ include "parley.repository" . }}
    # Parley's front loads and unloads; nothing is polled.
    - --model-control-mode=explicit
    - --strict-readiness=false
    - --model-load-thread-count={{ int $t.loadThreads }}
    - --grpc-address={{ ternary $host "127.0.0.1" (eq (include "parley.tritonOpen" .) "true") }}
    - --grpc-port=8001
    - --http-address={{ $host }}
    - --http-port=8000
    - --metrics-address={{ $host }}
    - --metrics-port=8002
    - --allow-gpu-metrics={{ gt (int $t.gpu.count) 0 }}
    - --metrics-interval-ms=1000
    - --exit-timeout-secs={{ int $t.exitSeconds }}
    - --backend-config=python,shm-default-byte-size={{ int64 $t.shm.perModelBytes }}
    # Clients may ping an open call more often than a stock server likes.
    - --grpc-http2-min-recv-ping-interval-without-data=5000
    - --grpc-http2-max-ping-strikes=0
    - --log-verbose={{ int $t.logVerbose }}
    # How long a voice took to its first chunk, where the gateway asks Triton itself: autoscaling looks at it.
    - --metrics-config=histogram_latencies=true
    {{- if $v.speech.engineCache.enabled }}
    # Where a model has configs/tensorrt.pbtxt (`parley models tensorrt`), it compiles into /engines at its first load.
    - --model-config-name=tensorrt
    {{- end }}
    {{- if gt (int $t.gpu.count) 0 }}
    - --pinned-memory-pool-byte-size={{ mul (int64 $t.pinnedPoolMb) 1048576 }}
    {{- range $gpu := until (int $t.gpu.count) }}
    - --cuda-memory-pool-byte-size={{ $gpu }}:{{ mul (int64 $t.cudaPoolMb) 1048576 }}
    {{- end }}
    {{- end }}
    {{- if $t.repositoryKeySecret }}
    - --grpc-restricted-protocol=model-repository:$(PARLEY_TRITON__REPOSITORY_KEY)
    - --http-restricted-api=model-repository:$(PARLEY_TRITON__REPOSITORY_KEY)
    {{- end }}
    {{- if and $v.tls.enabled $v.tls.triton }}
    - --grpc-use-ssl=true
    - --grpc-server-cert=/etc/parley/tls/tls.crt
    - --grpc-server-key=/etc/parley/tls/tls.key
    {{- if eq $v.tls.clientAuth "required" }}
    - --grpc-use-ssl-mutual=true
    - --grpc-root-cert=/etc/parley/tls/ca.crt
    {{- end }}
    {{- end }}
    {{- with $t.extraArgs }}
    {{- include "parley.plain" . | nindent 4 }}
    {{- end }}
  env:
    # Python models write caches beside them otherwise, on a root that is read only.
    - {name: HOME, value: /tmp}
    {{- if and $v.tls.enabled $v.tls.triton }}
    # For the preStop hook.
    - {name: PARLEY_TRITON__SSL, value: "true"}
    - {name: PARLEY_TRITON__TLS, value: {{ include "parley.clientTls" (list . (include "parley.host" (list . "speech"))) | fromYaml | toJson | quote }}}
    {{- end }}
    {{- with $t.repositoryKeySecret }}
    {{- include "parley.secretEnv" (dict "PARLEY_TRITON__REPOSITORY_KEY" (list . "repository-key")) | nindent 4 }}
    {{- end }}
    {{- if eq $r.kind "objectStore" }}
    {{- include "parley.storeEnv" . | nindent 4 }}
    {{- end }}
    {{- with $t.extraEnv }}
    {{- include "parley.plain" . | nindent 4 }}
    {{- end }}
  {{- if eq $r.kind "objectStore" }}
  {{- include "parley.storeEnvFrom" . | nindent 2 }}
  {{- end }}
  ports:
    - {name: triton-grpc, containerPort: 8001}
    - {name: triton-http, containerPort: 8000}
    - {name: triton-metrics, containerPort: 8002}
  {{- include "parley.probes" (dict "values" $t "port" "triton-http" "scheme" "HTTP" "live" "/v2/health/live" "ready" "/v2/health/ready") | nindent 2 }}
  lifecycle:
    preStop:
      exec:
        # SIGTERM makes Triton refuse messages on open streams at once: it comes when nobody speaks any more.
        command: [parley, drain, triton, --triton, "127.0.0.1:8001", {{ include "parley.afterGateway" . }}]
  securityContext:
    {{- include "parley.plain" $v.speech.securityContext | nindent 4 }}
  resources:
    {{- include "parley.resources" (dict "resources" $t.resources "gpu" $t.gpu) | nindent 4 }}
  volumeMounts:
    - {name: triton-tmp, mountPath: /tmp}
    - {name: shm, mountPath: /dev/shm}
    {{- if has $r.kind (list "pvc" "sync") }}
    {{- include "parley.modelMount" . | nindent 4 }}
    {{- end }}
    {{- if and $v.tls.enabled $v.tls.triton }}
    - {name: tls, mountPath: /etc/parley/tls, readOnly: true}
    {{- end }}
    {{- include "parley.engineMount" . | nindent 4 }}
{{- end -}}

{{- define "parley.tritonVolumes" -}}
{{- $v := .Values -}}{{- $r := $v.speech.modelRepository -}}
- name: triton-tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ $v.speech.triton.shm.size }}}
{{- if eq $r.kind "pvc" }}
- name: models
  persistentVolumeClaim: {claimName: {{ default (include "parley.part" (list . "models")) $r.existingClaim }}, readOnly: true}
{{- else if eq $r.kind "sync" }}
- name: models
  emptyDir: {sizeLimit: {{ $r.cacheSize }}}
{{- end }}
{{- if $v.speech.engineCache.enabled }}
- name: engines
  persistentVolumeClaim: {claimName: {{ default (include "parley.part" (list . "engines")) $v.speech.engineCache.existingClaim }}}
{{- end }}
{{- end -}}

{{/* Engines run on the kind of GPU they were built for alone: a folder for each kind of slice; Parley's keys do the rest. */}}
{{- define "parley.engineMount" -}}
{{- if .Values.speech.engineCache.enabled }}
{{- /* A pod does not learn its node's labels: the GPU is known where a label chooses it. */}}
{{- $chosen := .Values.speech.nodeSelector -}}
{{- $kinds := list -}}
{{- range list "nvidia.com/gpu.product" "cloud.google.com/gke-accelerator" "karpenter.k8s.aws/instance-gpu-name" "eks.amazonaws.com/instance-gpu-name" -}}
{{- with get $chosen . }}{{ $kinds = append $kinds . }}{{ end -}}
{{- end }}
- name: engines
  mountPath: /engines
  subPath: {{ append $kinds (default "whole" .Values.speech.triton.gpu.mig) | join "-" | lower }}
{{- end }}
{{- end -}}

{{/* Where the repository is copied from elsewhere, and checked. */}}
{{- define "parley.modelInit" -}}
{{- $v := .Values -}}{{- $r := $v.speech.modelRepository -}}
{{- if eq $r.kind "sync" }}
initContainers:
  - name: models
    {{- include "parley.image-of-parley" . | nindent 4 }}
    command: [parley, models, sync, {{ $r.source | quote }}, /models]
    {{- if include "parley.storeEnv" . }}
    env:
      {{- include "parley.storeEnv" . | nindent 6 }}
    {{- end }}
    {{- include "parley.storeEnvFrom" . | nindent 4 }}
    securityContext:
      {{- include "parley.plain" $v.speech.securityContext | nindent 6 }}
    resources:
      {{- include "parley.plain" $v.speech.resources | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models}
      - {name: tmp, mountPath: /tmp}
      {{- with $v.speech.extraVolumeMounts }}
      {{- include "parley.plain" . | nindent 6 }}
      {{- end }}
{{- end }}
{{- end -}}
