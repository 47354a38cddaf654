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
