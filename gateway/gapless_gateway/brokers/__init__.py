"""Connections to an MQTT broker, one Protocol and two adapters behind it."""
