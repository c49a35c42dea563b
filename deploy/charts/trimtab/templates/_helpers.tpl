{{/* Labels by which pods of a component are found, for ever. Dict: root, name. */}}
{{- define "trimtab.selector" -}}
app.kubernetes.io/name: trimtab
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Labels of everything. Dict: root, name. */}}
{{- define "trimtab.labels" -}}
{{ include "trimtab.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The image of a process. Dict: root, name. */}}
{{- define "trimtab.image" -}}
{{- $image := .root.Values.image -}}
{{ with $image.registry }}{{ . }}/{{ end }}{{ $image.prefix }}{{ .name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* host:port of a process's gRPC server. Dict: root, name. */}}
{{- define "trimtab.address" -}}
{{ .root.Release.Name }}-{{ .name }}:{{ include "trimtab.port" (dict "component" .name "port" "grpc") }}
{{- end }}

{{/* Names of the lines, sorted, as a JSON list. */}}
{{- define "trimtab.lines" -}}
{{- $lines := (fromToml .Values.lines).lines | default dict -}}
{{- if not $lines }}{{ fail "`lines` names no line: give TOML with at least one [lines.NAME] and its tenant." }}{{ end -}}
{{- range $name := keys $lines }}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "Line %q cannot be part of a Deployment's name: use small letters, digits and dashes." $name) }}
{{- end }}
{{- if gt (len (printf "%s-policy-%s-a" $.Release.Name $name)) 63 }}
{{- fail (printf "Release %q with line %q gives names of more than 63 characters: shorten one." $.Release.Name $name) }}
{{- end }}
{{- end }}
{{- keys $lines | sortAlpha | toJson }}
{{- end }}

{{/* The event log's URL. */}}
{{- define "trimtab.logUrl" -}}
{{- $kafka := .Values.kafka -}}
{{- if and $kafka.bootstrap $kafka.strimzi.enabled }}{{ fail "Give `kafka.bootstrap` or `kafka.strimzi`, not both." }}{{ end -}}
{{- if $kafka.strimzi.enabled -}}
kafka://{{ $kafka.strimzi.cluster }}-kafka-bootstrap:9093/{{ $kafka.topicPrefix }}
{{- else -}}
kafka://{{ required "Give `kafka.bootstrap`, host:port of some brokers, or `kafka.strimzi.enabled`." $kafka.bootstrap }}/{{ $kafka.topicPrefix }}
{{- end }}
{{- end }}

{{/* How brokers are shown who we are: values like `kafka.security`. */}}
{{- define "trimtab.kafkaSecurity" -}}
{{- with .Values.kafka }}
{{- if .strimzi.enabled }}
{protocol: SASL_SSL, saslMechanism: SCRAM-SHA-512, username: {{ .strimzi.user }}, passwordSecret: {name: {{ .strimzi.user }}, key: password}, caSecret: {name: {{ .strimzi.cluster }}-cluster-ca-cert, key: ca.crt}}
{{- else }}
{{- toJson .security }}
{{- end }}
{{- end }}
{{- end }}

{{- define "trimtab.registryUrl" -}}
{{ .Values.models.url | default "file:///var/lib/trimtab/models" }}
{{- end }}

{{- define "trimtab.modelsClaim" -}}
{{ .Values.models.volume.existingClaim | default (printf "%s-models" .Release.Name) }}
{{- end }}

{{- define "trimtab.trainerClaim" -}}
{{ .Values.trainer.volume.existingClaim | default (printf "%s-trainer" .Release.Name) }}
{{- end }}

{{/*
Seconds from SIGTERM to SIGKILL: the pause before it, then intake, calls in flight, workers and records, one after the
other, each at most as long as the drain. Dict: drain.
*/}}
{{- define "trimtab.grace" -}}
{{ add 5 (mul 4 .drain) 5 }}
{{- end }}

{{/* "restricted", for a pod and for a container. */}}
{{- define "trimtab.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "trimtab.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What a process is told by its environment, beside its flags. Dict: root; models: whether it reads artifacts. */}}
{{- define "trimtab.environment" -}}
envFrom:
  - configMapRef: {name: {{ .root.Release.Name }}-settings}
  {{- if and .models .root.Values.models.s3.existingSecret }}
  - secretRef: {name: {{ .root.Values.models.s3.existingSecret }}}
  {{- end }}
{{- end }}

{{/* Volumes that every process has. Dict: root; cache, models: whether it reads artifacts. */}}
{{- define "trimtab.volumes" -}}
{{- $root := .root }}
- name: tmp
  emptyDir: {}
- name: settings
  configMap: {name: {{ $root.Release.Name }}-lines}
- name: secrets
  secret: {secretName: {{ $root.Values.secrets.existingSecret }}, defaultMode: 0440, items: [{key: {{ $root.Values.secrets.key }}, path: secrets.toml}]}
{{- $security := include "trimtab.kafkaSecurity" $root | fromYaml }}
{{- if or $security.passwordSecret.name $security.caSecret.name }}
- name: kafka
  projected:
    defaultMode: 0440
    sources:
      {{- with $security.passwordSecret }}{{ if .name }}
      - secret: {name: {{ .name }}, items: [{key: {{ .key }}, path: password}]}
      {{- end }}{{ end }}
      {{- with $security.caSecret }}{{ if .name }}
      - secret: {name: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}]}
      {{- end }}{{ end }}
{{- end }}
{{- with .cache }}
- name: cache
  emptyDir: {sizeLimit: {{ . }}}
{{- end }}
{{- if and .models (not $root.Values.models.url) }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "trimtab.modelsClaim" $root }}}
{{- end }}
{{- end }}

{{/* Their mounts. Dict: root; cache; models: "read" or "write". */}}
{{- define "trimtab.mounts" -}}
{{- $root := .root }}
- {name: tmp, mountPath: /tmp}
- {name: settings, mountPath: /etc/trimtab/lines, readOnly: true}
- {name: secrets, mountPath: /etc/trimtab/secrets, readOnly: true}
{{- $security := include "trimtab.kafkaSecurity" $root | fromYaml }}
{{- if or $security.passwordSecret.name $security.caSecret.name }}
- {name: kafka, mountPath: /etc/trimtab/kafka, readOnly: true}
{{- end }}
{{- if .cache }}
- {name: cache, mountPath: /var/cache/trimtab}
{{- end }}
{{- if and .models (not $root.Values.models.url) }}
- {name: models, mountPath: /var/lib/trimtab/models, readOnly: {{ eq .models "read" }}}
{{- end }}
{{- end }}

{{/*
Ports, probes, and the pause before SIGTERM in which no new connection comes any more. A process is alive from when it
listens (rpc/process.py), and ready once it says SERVING. Dict: name.
*/}}
{{- define "trimtab.serving" -}}
{{- $grpc := include "trimtab.port" (dict "component" .name "port" "grpc") -}}
ports:
  - {name: grpc, containerPort: {{ $grpc }}}
  {{- if eq .name "gateway" }}
  - {name: http, containerPort: {{ include "trimtab.port" (dict "component" .name "port" "http") }}}
  {{- end }}
  - {name: metrics, containerPort: {{ include "trimtab.port" (dict "component" .name "port" "metrics") }}}
startupProbe:
  grpc: {port: {{ $grpc }}, service: trimtab.live}
  periodSeconds: 2
  failureThreshold: 60
  timeoutSeconds: 5
readinessProbe:
  grpc: {port: {{ $grpc }}}
  periodSeconds: 2
  failureThreshold: 2
  timeoutSeconds: 5
livenessProbe:
  grpc: {port: {{ $grpc }}, service: trimtab.live}
  periodSeconds: 10
  failureThreshold: 6
  timeoutSeconds: 10
lifecycle:
  preStop: {sleep: {seconds: 5}}
{{- end }}

{{/* What of a pod follows from the release alone. Dict: root, name, drain; token: whether it may ask the API server. */}}
{{- define "trimtab.pod" -}}
serviceAccountName: {{ .root.Release.Name }}{{ if .token }}-{{ .name }}{{ end }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "trimtab.grace" . }}
securityContext: {{ include "trimtab.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "trimtab.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{/* Restarts pods when what they read at their start has changed. Secrets of yours are not seen from here. */}}
{{- define "trimtab.checksum" -}}
trimtab.dev/settings: {{ include (print .Template.BasePath "/settings.yaml") . | sha256sum }}
{{- end }}

{{/*
A Deployment of one process. Dict: root, name, arguments (list); recreate: whether the old pod ends first; token; cache,
models: as above; volumes, mounts: further ones; reads: text of theirs that a process reads at its start only.
*/}}
{{- define "trimtab.deployment" -}}
{{- $root := .root }}
{{- $values := get $root.Values .name }}
{{- $self := dict "root" $root "name" .name "drain" $values.drainSeconds "token" .token "cache" .cache "models" .models }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $root.Release.Name }}-{{ .name }}
  labels: {{ include "trimtab.labels" $self | nindent 4 }}
spec:
  {{- if not (dig "autoscaling" "enabled" false $values) }}
  replicas: {{ $values.replicas | default 1 }}
  {{- end }}
  strategy: {{ if .recreate }}{type: Recreate}{{ else }}{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}{{ end }}
  selector:
    matchLabels: {{ include "trimtab.selector" $self | nindent 6 }}
  template:
    metadata:
      labels: {{ include "trimtab.labels" $self | nindent 8 }}
      annotations: {{ include "trimtab.checksum" $root | nindent 8 }}
        {{- with .reads }}
        trimtab.dev/reads: {{ sha256sum . }}
        {{- end }}
    spec: {{ include "trimtab.pod" $self | nindent 6 }}
      {{- with $values.nodeSelector }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "trimtab.image" $self }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args:
            - {{ .name }}
            - --listen=0.0.0.0:{{ include "trimtab.port" (dict "component" .name "port" "grpc") }}
            - --drain-s={{ $values.drainSeconds }}
            {{- range .arguments }}
            - {{ . | quote }}
            {{- end }}
          {{- include "trimtab.environment" $self | nindent 10 }}
          {{- include "trimtab.serving" $self | nindent 10 }}
          resources: {{ toYaml $values.resources | nindent 12 }}
          securityContext: {{ include "trimtab.containerSecurity" . | nindent 12 }}
          volumeMounts: {{ include "trimtab.mounts" $self | nindent 12 }}
            {{- with .mounts }}{{ toYaml . | nindent 12 }}{{ end }}
      volumes: {{ include "trimtab.volumes" $self | nindent 8 }}
        {{- with .volumes }}{{ toYaml . | nindent 8 }}{{ end }}
{{- end }}
