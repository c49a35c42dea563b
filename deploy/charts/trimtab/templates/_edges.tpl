{{/*
Who talks to whom: the one table. Each NetworkPolicy is rendered from it, both ends.
from, to: a component of this release, or something outside of it (kafka, postgres, objects, apiserver; clients,
monitoring). port: of the one that is called.
*/}}
{{- define "trimtab.edges" -}}
- {from: clients, to: gateway, port: http}
- {from: clients, to: gateway, port: grpc}
- {from: gateway, to: feedback, port: grpc}
- {from: gateway, to: policy, port: grpc}
- {from: rollout, to: policy, port: grpc}
- {from: rollout, to: ledger, port: grpc}
- {from: rollout, to: reward, port: grpc}
- {from: rollout, to: apiserver}
- {from: trainer, to: ledger, port: grpc}
- {from: trainer, to: reward, port: grpc}
- {from: trainer, to: policy, port: grpc}
- {from: ledger, to: postgres}
{{- range list "gateway" "feedback" "ledger" "reward" "trainer" "rollout" "policy" }}
- {from: {{ . }}, to: kafka}
- {from: monitoring, to: {{ . }}, port: metrics}
{{- end }}
{{- if .Values.kafka.applyTopics }}
- {from: topics, to: kafka}
{{- end }}
{{- if .Values.models.url }}
{{- range list "ledger" "reward" "trainer" "rollout" "policy" }}
- {from: {{ . }}, to: objects}
{{- end }}
{{- end }}
{{- if .Values.trainer.job.enabled }}
- {from: trainer-job, to: reward, port: grpc}
- {from: trainer-job, to: policy, port: grpc}
{{- end }}
{{- if .Values.toolbox.enabled }}
{{- range list "gateway" "feedback" "ledger" "reward" "trainer" "rollout" }}
- {from: toolbox, to: {{ . }}, port: grpc}
{{- end }}
- {from: toolbox, to: gateway, port: http}
- {from: toolbox, to: kafka}
{{- if .Values.models.url }}
- {from: toolbox, to: objects}
{{- end }}
{{- end }}
{{- end }}

{{/* The number of a port by component and name. Dict: component, port. */}}
{{- define "trimtab.port" -}}
{{- if eq .port "http" }}8080
{{- else if eq .port "metrics" }}9464
{{- else if eq .component "gateway" }}8081
{{- else }}50051
{{- end }}
{{- end }}

{{/* Peers of a NetworkPolicy. Dict: root, name. Empty: everybody. */}}
{{- define "trimtab.peers" -}}
{{- $values := .root.Values.networkPolicy -}}
{{- if and (eq .name "kafka") .root.Values.kafka.strimzi.enabled }}
- podSelector: {matchLabels: {strimzi.io/cluster: {{ .root.Values.kafka.strimzi.cluster }}}}
{{- else if hasKey $values.outside .name }}
{{- with (get $values.outside .name).to }}{{ toYaml . }}{{ end }}
{{- else if hasKey $values .name }}
{{- with get $values .name }}{{ toYaml . }}{{ end }}
{{- else }}
- podSelector: {matchLabels: {{ include "trimtab.selector" . | fromYaml | toJson }}}
{{- end }}
{{- end }}

{{/* The ports at which the other end of an edge listens, as a JSON list. Dict: root, edge. */}}
{{- define "trimtab.edgePorts" -}}
{{- if and (eq .edge.to "kafka") .root.Values.kafka.strimzi.enabled -}}
[9093]
{{- else if hasKey .root.Values.networkPolicy.outside .edge.to -}}
{{ (get .root.Values.networkPolicy.outside .edge.to).ports | toJson }}
{{- else -}}
[{{ include "trimtab.port" (dict "component" .edge.to "port" .edge.port) }}]
{{- end }}
{{- end }}

{{/* Fails where an address leads to a port that no edge is open at. Context: root. */}}
{{- define "trimtab.checkPorts" -}}
{{- $outside := .Values.networkPolicy.outside -}}
{{- range regexFindAll ":[0-9]+" .Values.kafka.bootstrap -1 }}
{{- if not (has (. | trimPrefix ":") (toStrings $outside.kafka.ports)) }}
{{- fail (printf "`kafka.bootstrap` names port %s: put it into `networkPolicy.outside.kafka.ports`." (. | trimPrefix ":")) }}
{{- end }}
{{- end }}
{{- $port := (urlParse .Values.postgres.url).host | splitList ":" | rest | first | default "5432" }}
{{- if not (has $port (toStrings $outside.postgres.ports)) }}
{{- fail (printf "`postgres.url` names port %s: put it into `networkPolicy.outside.postgres.ports`." $port) }}
{{- end }}
{{- end }}
