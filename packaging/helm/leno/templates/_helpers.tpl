{{- define "leno.selector" -}}
app.kubernetes.io/name: leno
app.kubernetes.io/component: control-plane
{{- end }}
{{- define "leno.metadata" -}}
app.kubernetes.io/name: leno
app.kubernetes.io/managed-by: leno
{{- end }}
