"""The field demo: boards, gateway, TLS broker, outage, recovery and account, on one machine."""
