"""protobuf <-> core. The only place that knows both; doors and adapters call it, domain modules never see protobuf."""
