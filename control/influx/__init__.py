"""InfluxDB on the operator's side: a server to have, its connection, and what runs should find in it."""
