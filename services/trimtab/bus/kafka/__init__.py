"""The event log on Apache Kafka, through kafka-python. Built by `bus.connect`.

Reading order: `log` (the port's methods), `sender` (one thread owns the producer, another the deadlines), `reader`,
`provision` (topics as they have to be), `advice` (positions for Kafka's own tools), `clients` (how each client is
built), `diagnosis` (why the cluster does not answer, in words) and `signing_in` (to hear why a user is refused).

Differences from the embedded log: an append of several records to one partition may be stored up to one of them when
the cluster fails in between; the time of a record is the broker's.
"""

from trimtab.bus.kafka.clients import Cluster as Cluster
from trimtab.bus.kafka.log import KafkaLog as KafkaLog
from trimtab.bus.kafka.provision import apply as apply
from trimtab.bus.kafka.provision import create_topics as create_topics
from trimtab.bus.kafka.provision import differences as differences
