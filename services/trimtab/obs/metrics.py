"""Every metric, declared once with its unit and meaning. `rpc.process` serves them on `metrics_port`.

Names end in the unit (`_seconds`, `_bytes`, `_total` for counters). Labels have few values: never an id or a text.
"""

import prometheus_client

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# --- rpc: gRPC servers of all processes (rpc.interceptors) ---
RPC_CALLS = prometheus_client.Counter(
    "trimtab_rpc_calls_total", "Calls answered, by gRPC status code.", ["method", "code"]
)
RPC_SECONDS = prometheus_client.Histogram(
    "trimtab_rpc_seconds", "Seconds from a call's arrival to its end.", ["method"], buckets=_LATENCY_BUCKETS
)
RPC_IN_FLIGHT = prometheus_client.Gauge("trimtab_rpc_in_flight_calls", "Calls being answered now.")
READY = prometheus_client.Gauge("trimtab_process_ready", "1 while the process reports SERVING.")

# --- feedback (feedback.intake, feedback.imports) ---
FEEDBACK_EVENTS = prometheus_client.Counter(
    "trimtab_feedback_events_total", "Feedback events answered: accepted, duplicate, or why refused.", ["outcome"]
)
FEEDBACK_IMPORTED = prometheus_client.Counter(
    "trimtab_feedback_imported_total", "Imported preferences: accepted, duplicate or refused.", ["outcome"]
)

# --- gateway: the HTTP door (gateway.routes) and routing (gateway.answering) ---
HTTP_REQUESTS = prometheus_client.Counter(
    "trimtab_http_requests_total", "HTTP requests answered, by route and status.", ["route", "status"]
)
GATEWAY_ROUTED = prometheus_client.Counter(
    "trimtab_gateway_routed_total", "Completions sent to a policy, by line and arm.", ["line", "arm"]
)

# --- bus: consumers (bus.runner, bus.deadletter) and the embedded log (bus.sqlite) ---
CONSUMER_RECORDS = prometheus_client.Counter(
    "trimtab_consumer_records_total", "Records whose effect was committed, by consumer.", ["consumer"]
)
CONSUMER_RETRIES = prometheus_client.Counter(
    "trimtab_consumer_retries_total", "Times a consumer had to wait and meet a record again, by consumer.", ["consumer"]
)
CONSUMER_DEAD_LETTERS = prometheus_client.Counter(
    "trimtab_consumer_dead_letters_total", "Records refused for ever and written to `deadletter`.", ["consumer"]
)
CONSUMER_HALTED = prometheus_client.Gauge(
    "trimtab_consumer_halted", "1 while a consumer stands still before a record: too many were refused.", ["consumer"]
)
CONSUMER_LAG = prometheus_client.Gauge(
    "trimtab_consumer_lag_records",
    "Records of its topics that a consumer has not handled, as the page is asked for; NaN while the log is away.",
    ["consumer"],
)
LOG_COMMITS = prometheus_client.Counter(
    "trimtab_log_commits_total", "Transactions the embedded log's writer made durable in this process."
)
LOG_RECORDS = prometheus_client.Counter(
    "trimtab_log_records_total", "Records the embedded log's writer made durable in this process."
)

# --- trainer ---
TRAINER_DUPLICATES = prometheus_client.Counter(
    "trimtab_trainer_duplicates_total", "Copies of stored examples that were dropped, by (partition, sequence)."
)
TRAINER_RUNS = prometheus_client.Counter(
    "trimtab_trainer_runs_total", "Runs that ended, by kind and state.", ["kind", "state"]
)

# --- reward ---
REWARD_SCORES = prometheus_client.Counter(
    "trimtab_reward_scores_total", "Answers looked at, by outcome: scored or unscored.", ["outcome"]
)
REWARD_QUEUE_ITEMS = prometheus_client.Gauge("trimtab_reward_queue_items", "Answers that wait for the scoring thread.")

# --- ledger (ledger.consumer, ledger.unjoinable) ---
LEDGER_EXAMPLES = prometheus_client.Counter(
    "trimtab_ledger_examples_total", "Examples and revisions of examples written to the outbox."
)
LEDGER_UNJOINABLE = prometheus_client.Gauge(
    "trimtab_ledger_unjoinable_feedback", "Feedback that has waited so long that its answer is taken to be lost."
)

# --- policy ---
POLICY_OPEN_CHOICES = prometheus_client.Gauge("trimtab_policy_open_choices", "Answers being generated or waiting.")
POLICY_TOKENS = prometheus_client.Counter("trimtab_policy_tokens_total", "Tokens generated, in answers that ended.")
POLICY_SPOOLED = prometheus_client.Gauge(
    "trimtab_policy_spooled_records", "Completions that the log does not have yet."
)

# --- rollout ---
ROLLOUT_REPLACED = prometheus_client.Counter(
    "trimtab_rollout_replaced_replicas_total", "Processes ended because they had not loaded what is released.", ["line"]
)
ROLLOUT_TRANSITIONS = prometheus_client.Counter(
    "trimtab_rollout_transitions_total", "Releases that entered a state, by line and state.", ["line", "state"]
)
