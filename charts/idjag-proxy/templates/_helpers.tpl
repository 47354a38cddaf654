{{/* The longest name that is made of it, "…-injector-metrics", is a Service's: 63 characters, a letter first, and no dot, which a release's
name may have. */}}
{{- define "idjag-proxy.fullname" -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := contains $name $release | ternary $release (printf "%s-%s" $release $name) -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if regexMatch "^[0-9]" $full -}}
{{- $full = printf "%s-%s" .Chart.Name $release -}}
{{- end -}}
{{- $full | trunc 46 | trimSuffix "-" -}}
{{- end -}}

{{- define "idjag-proxy.injector" -}}
{{- include "idjag-proxy.fullname" . }}-injector
{{- end -}}

{{/* A Deployment's selector never changes: no value and no version goes into it. Names are quoted here as everywhere, because YAML takes
some of those that Kubernetes allows for numbers or booleans. */}}
{{- define "idjag-proxy.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: injector
{{- end -}}

{{- define "idjag-proxy.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}

{{/* An image's full name. Takes (list $ image). */}}
{{- define "idjag-proxy.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end }}
{{- end -}}

{{/* The namespaces that are never touched, whatever their labels say; a JSON array. */}}
{{- define "idjag-proxy.never" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.injector.excludedNamespaces | uniq | toJson -}}
{{- end -}}

{{/* "true" where an object of the Prometheus Operator is to be made. Takes (list $ kind create). */}}
{{- define "idjag-proxy.monitored" -}}
{{- $root := index . 0 -}}
{{- $known := $root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" (index . 1)) -}}
{{- if or (eq (index . 2) "always") (and (eq (index . 2) "auto") $known) }}true{{ end -}}
{{- end -}}

{{/* What Restricted Pod Security asks of a pod. */}}
{{- define "idjag-proxy.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.injector.runAsUser }}
# A number of ten digits, as OpenShift has them, would be written as 1e+09.
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What Restricted Pod Security asks of a container, and a root file system that nobody writes to. */}}
{{- define "idjag-proxy.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A quantity as a number. */}}
{{- define "idjag-proxy.quantity" -}}
{{- $text := toString . -}}
{{- $suffix := regexFind "([mkMGTPE]|[KMGTPE]i)$" $text -}}
{{- $powers := dict "k" 1 "K" 1 "M" 2 "G" 3 "T" 4 "P" 5 "E" 6 -}}
{{- $number := trimSuffix $suffix $text | float64 -}}
{{- if eq $suffix "m" -}}
{{- $number = divf $number 1000 -}}
{{- else if $suffix -}}
{{- range until (get $powers (trunc 1 $suffix) | int) -}}
{{- $number = mulf $number (ternary 1024 1000 (hasSuffix "i" $suffix)) -}}
{{- end -}}
{{- end -}}
{{- $number -}}
{{- end -}}

{{/* The API server takes no container that asks for more than it may have. */}}
{{- define "idjag-proxy.resources" -}}
{{- $limits := .limits | default dict -}}
{{- range $name, $request := .requests -}}
{{- $limit := get $limits $name -}}
{{- $is_limited := and (hasKey $limits $name) (not (kindIs "invalid" $limit)) -}}
{{- if and $is_limited (gt (include "idjag-proxy.quantity" $request | float64) (include "idjag-proxy.quantity" $limit | float64)) -}}
{{- fail (printf "injector.resources: %v of %s are requested and %v allowed; raise limits.%s, or make it null" $request $name $limit $name) -}}
{{- end -}}
{{- end -}}
{{- toYaml . -}}
{{- end -}}
